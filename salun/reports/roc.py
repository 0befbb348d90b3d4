"""ROC curves of attacks on many models and images, with bootstrap intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int64]
LEVELS = (0.001, 0.01)
_DRAWS = 1000
_COVERED = (2.5, 97.5)
_RESOLVED = 200
_TOGETHER = 50


@dataclass(frozen=True)
class Roc:
    """How well an attack tells members from others.

    Attributes:
        fpr: (P,) false-positive rates, ascending from 0 to 1; `tpr` are the true-positive rates at them.
        auc: area under the curve.
        interval: 95 % bootstrap interval of the area.
        tpr_at: true-positive rate by false-positive rate: that of the least strict threshold that keeps to it.
        tpr_intervals: 95 % bootstrap intervals of these.
    """

    fpr: _Floats
    tpr: _Floats
    auc: float
    interval: tuple[float, float]
    tpr_at: dict[float, float]
    tpr_intervals: dict[float, tuple[float, float]]

    def thinned(self) -> tuple[_Floats, _Floats]:
        """Give the rates of a thousand points or so at most, without those that logarithmic axes do not show apart."""
        kept = [np.array([0, len(self.fpr) - 1])]
        for rates in (self.fpr, self.tpr):
            levels = np.geomspace(rates[rates > 0].min(), 1, _RESOLVED)
            kept += [np.searchsorted(rates, levels, "left"), np.searchsorted(rates, levels, "right") - 1]
        places = np.unique(np.concatenate(kept).clip(0, len(self.fpr) - 1))
        return self.fpr[places], self.tpr[places]

    def plain(self) -> dict[str, Any]:
        """Describe the curve for a JSON file."""
        fpr, tpr = self.thinned()
        return {**vars(self), "fpr": fpr.tolist(), "tpr": tpr.tolist()}


def roc_of(
    members: _Floats, member_models: _Counts, others: _Floats, other_models: _Counts, draws: int = _DRAWS
) -> Roc:
    """Compute an attack's ROC curve, with intervals by a bootstrap over both images and models.

    Args:
        members: (K, N) scores of N images that are members, higher for members; none is NaN.
        member_models: (K, N) which model each score is of, from 0.
        others: (L, N) scores of the same images that are none.
        other_models: (L, N).
        draws: of the bootstrap.

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
    fpr, tpr, (area, *rates) = _curve(truth, last, np.ones(len(scores), dtype=np.int64))
    generator = np.random.default_rng(0)
    found = []
    for first in range(0, draws, _TOGETHER):
        times = min(_TOGETHER, draws - first)
        of_image, of_model = (_draw(size, times, generator) for size in (members.shape[1], models.max() + 1))
        found += [
            _curve(truth, last, image[images] * model[models])[2]
            for image, model in zip(of_image, of_model, strict=True)
        ]
    spans = list(zip(*np.nanpercentile(found, _COVERED, axis=0).tolist(), strict=True))
    tpr_at, intervals = dict(zip(LEVELS, rates, strict=True)), dict(zip(LEVELS, spans[1:], strict=True))
    return Roc(fpr, tpr, area, spans[0], tpr_at, intervals)


def _draw(size: int, times: int, generator: np.random.Generator) -> list[_Counts]:
    """Count how often each of some things was drawn with replacement, several times."""
    return [np.bincount(generator.integers(0, size, size), minlength=size) for _ in range(times)]


def _curve(truth: NDArray[np.bool_], last: NDArray[np.bool_], weights: _Counts) -> tuple[_Floats, _Floats, list[float]]:
    """Compute the curve of scores in descending order, its area and its rates at the levels."""
    hits, misses = (np.append(0, np.cumsum(weights * kind)[last]) for kind in (truth, ~truth))
    with np.errstate(invalid="ignore"):
        fpr, tpr = misses / misses[-1], hits / hits[-1]
        area = np.diff(misses) @ (hits[1:] + hits[:-1]) / (2 * hits[-1] * misses[-1])
    return fpr, tpr, [float(area), *tpr[np.searchsorted(fpr, LEVELS, "right") - 1].tolist()]
