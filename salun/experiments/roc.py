"""ROC curves of attacks on many models and images, with bootstrap intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salun.metrics._svc.intrinsics import compiler

_Floats = NDArray[np.float64]

_Counts = NDArray[np.int64]

_Flags = NDArray[np.bool_]

_Places = NDArray[np.int32]

_DRAWS = 1000

LEVELS = (0.001, 0.01)

_COVERED = (2.5, 97.5)

_RESOLVED = 200

_TOGETHER = 50


@dataclass(frozen=True)
class Roc:
    """How well an attack tells members from others.

    Attributes:
        fpr: (P,) false-positive rates, ascending from 0 to 1.
        tpr: (P,) true-positive rates at them.
        auc: area under the curve.
        interval: 95 % bootstrap interval of the area.
        tpr_at: true-positive rate by false-positive rate, 0.1 % and 1 %: that of the least strict threshold that
            keeps to it.
        tpr_intervals: 95 % bootstrap intervals of these.
    """

    fpr: _Floats
    tpr: _Floats
    auc: float
    interval: tuple[float, float]
    tpr_at: dict[float, float]
    tpr_intervals: dict[float, tuple[float, float]]

    def thinned(self) -> tuple[_Floats, _Floats]:
        """Leave out the points that logarithmic axes do not show apart.

        Returns:
            False- and true-positive rates of about a thousand points at most, all of them the curve's.
        """
        kept = [np.array([0, len(self.fpr) - 1])]
        for rates in (self.fpr, self.tpr):
            levels = np.geomspace(rates[rates > 0].min(), 1, _RESOLVED)
            kept += [np.searchsorted(rates, levels, "left"), np.searchsorted(rates, levels, "right") - 1]
        places = np.unique(np.concatenate(kept).clip(0, len(self.fpr) - 1))
        return self.fpr[places], self.tpr[places]

    def plain(self) -> dict[str, Any]:
        """Describe the curve for a JSON file.

        Returns:
            Plain values, the curve thinned.
        """
        fpr, tpr = self.thinned()
        return {**vars(self), "fpr": fpr.tolist(), "tpr": tpr.tolist()}


@dataclass(frozen=True)
class _Ranking:
    """Scores, the largest first.

    Attributes:
        truth: (P,) whether each is a member's.
        last: (P,) whether each is the last of equal scores.
        images: (P,) which image each is of, from 0.
        models: (P,) which model, from 0.
        counts: (N, S) how many scores of others an image has in a model.
    """

    truth: _Flags
    last: _Flags
    images: _Places
    models: _Places
    counts: _Floats


def roc_of(
    members: _Floats, member_models: _Counts, others: _Floats, other_models: _Counts, draws: int = _DRAWS
) -> Roc:
    """Draw an attack's ROC curve.

    The scores of one image in several models are alike, and so are those of several images in one model; the
    bootstrap therefore draws images and models, each with replacement, and a score counts as often as its image
    and its model were drawn.

    Args:
        members: (K, N) scores of N images that are members, higher for members; none is NaN.
        member_models: (K, N) which model each score is of, from 0.
        others: (L, N) scores of the same images that are none.
        other_models: (L, N).
        draws: of the bootstrap.

    Returns:
        The curve and its intervals.

    Source:
        Low false-positive rates as in Carlini et al., "Membership Inference Attacks From First Principles", S&P
        2022; the bootstrap over two kinds of units: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics
        2007.
    """
    ranking = _ranked(members, member_models, others, other_models)
    split_summary = ranking.counts.shape
    ((auc, *rates),) = _figures(ranking, np.ones((split_summary[0], 1)), np.ones((split_summary[1], 1))).tolist()
    generator = np.random.default_rng(0)
    found = []
    for first in range(0, draws, _TOGETHER):
        times = min(_TOGETHER, draws - first)
        found.append(
            _figures(ranking, draw(split_summary[0], times, generator), draw(split_summary[1], times, generator))
        )
    spans = list(zip(*np.nanpercentile(np.concatenate(found), _COVERED, axis=0).tolist(), strict=True))
    tpr_at, intervals = dict(zip(LEVELS, rates, strict=True)), dict(zip(LEVELS, spans[1:], strict=True))
    return Roc(*_curve(ranking), auc, spans[0], tpr_at, intervals)


def _ranked(members: _Floats, member_models: _Counts, others: _Floats, other_models: _Counts) -> _Ranking:
    """Sort scores."""
    scores = np.concatenate([members.ravel(), others.ravel()])
    order = np.argsort(-scores, kind="stable")
    last = np.append(scores[order[1:]] != scores[order[:-1]], True)
    truth = (np.arange(len(scores)) < members.size)[order]
    images = np.tile(np.arange(members.shape[1]), len(members) + len(others))[order]
    models = np.concatenate([member_models.ravel(), other_models.ravel()])[order]
    counts = np.zeros((members.shape[1], models.max() + 1))
    np.add.at(counts, (images[~truth], models[~truth]), 1)
    return _Ranking(truth, last, images.astype(np.int32), models.astype(np.int32), counts)


def draw(size: int, times: int, generator: np.random.Generator) -> _Floats:
    """Draw as many of some things as there are, with replacement, several times.

    Args:
        size: how many there are.
        times: D.
        generator: draws.

    Returns:
        (size, D) how often each was drawn.
    """
    drawn = [np.bincount(generator.integers(0, size, size), minlength=size) for _ in range(times)]
    return np.ascontiguousarray(np.transpose(drawn), dtype=np.float64)


def _curve(ranking: _Ranking) -> tuple[_Floats, _Floats]:
    """Accumulate a ROC curve."""
    kinds = ranking.truth, ~ranking.truth
    hits, misses = (np.append(0, np.cumsum(kind)[ranking.last]) for kind in kinds)
    return misses / misses[-1], hits / hits[-1]


def _figures(ranking: _Ranking, of_image: _Floats, of_model: _Floats) -> _Floats:
    """Summarise ROC curves of the same scores with several weights; a score's is its image's times its model's."""
    most = np.outer(LEVELS, ((ranking.counts.T @ of_image) * of_model).sum(0))
    scores = ranking.truth, ranking.last, ranking.images, ranking.models
    area, hits, misses, reached = _accumulate(*scores, of_image, of_model, most)
    with np.errstate(invalid="ignore"):
        return np.column_stack([area / (hits * misses), *(reached / hits)])


@compiler()
def _accumulate(
    truth: _Flags, last: _Flags, images: _Places, models: _Places, of_image: _Floats, of_model: _Floats, most: _Floats
) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Walk down the scores of ROC curves, with several weights at once."""
    width = of_image.shape[1]
    area, hits, misses = np.zeros(width), np.zeros(width), np.zeros(width)
    member, both = np.zeros(width), np.zeros(width)
    reached = np.zeros(most.shape)
    for place in range(len(truth)):
        first, second, share = of_image[images[place]], of_model[models[place]], np.float64(truth[place])
        for each in range(width):
            weight = first[each] * second[each]
            both[each] += weight
            member[each] += weight * share
        if last[place]:
            for each in range(width):
                other = both[each] - member[each]
                area[each] += other * (hits[each] + member[each] / 2)
                hits[each] += member[each]
                misses[each] += other
                member[each] = both[each] = 0.0
            for level in range(len(most)):
                for each in range(width):
                    if misses[each] <= most[level, each]:
                        reached[level, each] = hits[each]
    return area, hits, misses, reached
