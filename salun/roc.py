"""ROC curves of attacks on many models and images, with bootstrap intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salun.metrics.svc.smo import compiler

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

DRAWS = 1000
LEVELS = (0.001, 0.01)
COVERED = (2.5, 97.5)
RESOLVED = 200


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

    fpr: Floats
    tpr: Floats
    auc: float
    interval: tuple[float, float]
    tpr_at: dict[float, float]
    tpr_intervals: dict[float, tuple[float, float]]

    def thinned(self) -> tuple[Floats, Floats]:
        """Leave out the points that logarithmic axes do not show apart.

        Returns:
            False- and true-positive rates of about a thousand points at most, all of them the curve's.
        """
        kept = [np.array([0, len(self.fpr) - 1])]
        for rates in (self.fpr, self.tpr):
            levels = np.geomspace(rates[rates > 0].min(), 1, RESOLVED)
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


def roc_of(members: Floats, member_models: Counts, others: Floats, other_models: Counts, draws: int = DRAWS) -> Roc:
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
    scores = np.concatenate([members.ravel(), others.ravel()])
    order = np.argsort(-scores, kind="stable")
    last = np.append(scores[order[1:]] != scores[order[:-1]], True)
    truth = (np.arange(len(scores)) < members.size)[order]
    images = np.tile(np.arange(members.shape[1]), len(members) + len(others))[order]
    models = np.concatenate([member_models.ravel(), other_models.ravel()])[order]
    sizes = int(images.max()) + 1, int(models.max()) + 1
    weights = np.ones(sizes[0]), np.ones(sizes[1])
    auc, *rates = figures(truth, last, images, models, weights)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        drawn = [generator.multinomial(size, np.full(size, 1 / size)).astype(np.float64) for size in sizes]
        found.append(figures(truth, last, images, models, (drawn[0], drawn[1])))
    spans = list(zip(*np.nanpercentile(found, COVERED, axis=0).tolist(), strict=True))
    tpr_at, intervals = dict(zip(LEVELS, rates, strict=True)), dict(zip(LEVELS, spans[1:], strict=True))
    return Roc(*curve(truth, last), auc, spans[0], tpr_at, intervals)


def curve(truth: Flags, last: Flags) -> tuple[Floats, Floats]:
    """Accumulate a ROC curve.

    Args:
        truth: (P,) whether each score is a member's, the largest score first.
        last: (P,) whether each is the last of equal scores.

    Returns:
        False- and true-positive rates, from 0 to 1.
    """
    hits, misses = (np.append(0, np.cumsum(kind)[last]) for kind in (truth, ~truth))
    return misses / misses[-1], hits / hits[-1]


def figures(
    truth: Flags, last: Flags, images: Counts, models: Counts, weights: tuple[Floats, Floats]
) -> tuple[float, ...]:
    """Summarise the ROC curve of weighted scores.

    Args:
        truth: (P,) whether each score is a member's, the largest score first.
        last: (P,) whether each is the last of equal scores.
        images: (P,) which image each is of.
        models: (P,) which model.
        weights: of each image and of each model; a score's is the product.

    Returns:
        The area, and the true-positive rates at 0.1 % and 1 %; NaN where one kind has no weight.
    """
    area, hits, misses, reached = accumulate(truth, last, images, models, *weights, np.array(LEVELS))
    if not hits or not misses:
        return (float("nan"),) * (1 + len(LEVELS))
    return area / (hits * misses), *(reached / hits).tolist()


@compiler()
def accumulate(
    truth: Flags, last: Flags, images: Counts, models: Counts, of_image: Floats, of_model: Floats, levels: Floats
) -> tuple[float, float, float, Floats]:
    """Walk down the scores of a ROC curve.

    Args:
        truth: (P,) whether each score is a member's, the largest score first.
        last: (P,) whether each is the last of equal scores.
        images: (P,) which image each is of.
        models: (P,) which model.
        of_image: weight of each image.
        of_model: weight of each model.
        levels: (L,) false-positive rates.

    Returns:
        Area under the curve of weights, weight of members, weight of others, and (L,) weight of the members that
        the least strict threshold finds that keeps to each level.
    """
    everyone = 0.0
    for place in range(len(truth)):
        if not truth[place]:
            everyone += of_image[images[place]] * of_model[models[place]]
    area, hits, misses, member, other = 0.0, 0.0, 0.0, 0.0, 0.0
    reached = np.zeros(len(levels))
    for place in range(len(truth)):
        weight = of_image[images[place]] * of_model[models[place]]
        if truth[place]:
            member += weight
        else:
            other += weight
        if last[place]:
            area += other * (hits + member / 2)
            hits, misses = hits + member, misses + other
            member, other = 0.0, 0.0
            for level in range(len(levels)):
                if misses <= levels[level] * everyone:
                    reached[level] = hits
    return area, hits, misses, reached
