"""1-Wasserstein distances between classes, and between two models' features of a class."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from salun.errors import SalunError
from salun.latent.groups import FeatureFile

_Floats = NDArray[np.float64]
_Points = NDArray[np.floating[Any]]
LINES = 200
_MOST_ITERATIONS = 10_000_000
_TOLERANCE = 1e-10
_NEAR = 1e-3


class Distances(NamedTuple):
    """Distances, NaN where a class is empty, and their standard errors, 0 of exact ones; both of one shape."""

    values: _Floats
    errors: _Floats


def wasserstein(
    first: _Points, second: _Points, first_weights: _Floats | None = None, second_weights: _Floats | None = None
) -> float:
    """Compute the exact 1-Wasserstein distance at Euclidean cost: min over couplings g of sum g_ij |u_i - v_j|.

    Args:
        first: (N, D) points.
        second: (M, D) points.
        first_weights: (N,) not negative, of any positive sum; None for uniform ones.
        second_weights: (M,), likewise.

    Returns:
        The distance; 0 for the same cloud in another order.

    Raises:
        SalunError: the solver gave up.

    Source:
        Peyré and Cuturi, "Computational Optimal Transport", 2019, sections 2.3 and 3.5; the same value
        as `scipy.stats.wasserstein_distance_nd`.
    """
    cost = _euclidean(first.astype(np.float64), second.astype(np.float64))
    if len(first) == len(second) and first_weights is None and second_weights is None:
        return float(cost[linear_sum_assignment(cost)].mean())
    return _transported(cost, _shares(first_weights, len(first)), _shares(second_weights, len(second)))


def _euclidean(first: _Floats, second: _Floats) -> _Floats:
    """Compute the distance of every two points."""
    centre = first.mean(0)
    one, other = first - centre, second - centre
    sizes = np.einsum("nd,nd->n", one, one)[:, None] + np.einsum("md,md->m", other, other)
    found = one @ other.T
    found *= -2
    found += sizes
    near = found < _NEAR * sizes
    np.sqrt(np.maximum(found, 0, out=found), out=found)
    for row in np.flatnonzero(near.any(1)):
        found[row, near[row]] = cdist(first[row : row + 1], second[near[row]])[0]
    return np.asarray(found)


def _shares(weights: _Floats | None, count: int) -> _Floats:
    """Bring weights to a sum of 1."""
    given = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    return np.asarray(given / given.sum())


def _transported(cost: _Floats, supply: _Floats, demand: _Floats) -> float:
    """Solve a transport problem, and check that its solution is optimal."""
    cost = np.ascontiguousarray(cost[np.ix_(supply > 0, demand > 0)])
    supply, demand = supply[supply > 0], demand[demand > 0]
    with warnings.catch_warnings(action="ignore"):
        value, log = ot.emd2(supply, demand, cost, numItermax=_MOST_ITERATIONS, log=True)
    bound = supply @ log["u"] + demand @ log["v"]
    excess = max(float((log["u"][row] + log["v"] - costs).max()) for row, costs in enumerate(cost))
    allowed = _TOLERANCE * float(cost.max())
    if log["warning"] is not None or excess > allowed or abs(value - bound) > allowed:
        size = f"{cost.shape[0]} and {cost.shape[1]} points"
        raise SalunError(f"the exact distance of {size} was not found; compare fewer samples (-S) or use --sliced")
    return max(0.0, float(value))


@lru_cache(maxsize=1)
def _random_lines(width: int) -> _Floats:
    """Draw (D, LINES) directions of length 1, uniform on the sphere."""
    lines = np.random.default_rng(0).normal(size=(width, LINES))
    return np.asarray(lines / np.linalg.norm(lines, axis=0))


def _along_lines(first: _Floats, second: _Floats) -> _Floats:
    """Compute 1-Wasserstein distances of numbers: the area between the two quantile functions."""
    first, second = np.sort(first, axis=0), np.sort(second, axis=0)
    count, other = len(first), len(second)
    # In units of 1 / (N M) both functions jump at whole numbers only.
    jumps = np.union1d(np.arange(count + 1) * other, np.arange(other + 1) * count)
    widths, starts = np.diff(jumps) / (count * other), jumps[:-1]
    return np.asarray(widths @ np.abs(first[starts // other] - second[starts // count]))


def stacked(rows: Sequence[Distances]) -> Distances:
    """Put distances below each other: (R, ...)."""
    return Distances(np.stack([row.values for row in rows]), np.stack([row.errors for row in rows]))


def difference(first: Distances, second: Distances) -> Distances:
    """Subtract distances.

    Returns:
        The second's values less the first's; with the sum of their errors, which the error of the difference cannot
        exceed, whether or not they were measured on the same lines.
    """
    return Distances(second.values - first.values, first.errors + second.errors)


def mean_distances(several: Sequence[Distances]) -> Distances:
    """Average distances over models, each over the models that have it.

    Args:
        several: at least one, of the same shape.

    Returns:
        The mean, NaN where no model has a value; with the mean of the errors, which its own cannot exceed.
    """
    together = np.stack([np.stack(each) for each in several])
    known = ~np.isnan(together)
    sums, counts = np.where(known, together, 0).sum(0), known.sum(0)
    return Distances(*np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


@dataclass(frozen=True)
class DistanceCache:
    """Measures distances of models' features, those between the classes of a file only once.

    The sliced distance is the mean 1-Wasserstein distance of the clouds' shadows on random lines: a distance of its own
    and a lower bound of the exact one, in D dimensions about sqrt(2 / (pi D)) of it for clouds that are far apart, and
    less for near ones.

    Attributes:
        sliced: whether distances are the sliced ones.
        watched: shows progress under a title over a number of steps; gives what is called after each.
        known: distances between the classes of a model, by file and images.

    Source:
        Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015.
    """

    sliced: bool
    watched: Callable[[str, int], AbstractContextManager[Callable[[], object]]]
    known: dict[tuple[Path, bytes], Distances] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is measured."""
        return "sliced 1-Wasserstein distance" if self.sliced else "1-Wasserstein distance"

    @property
    def title(self) -> str:
        """What is measured, at the beginning of a line."""
        return self.name[0].upper() + self.name[1:]

    def _measure(self, first: _Points, second: _Points) -> tuple[float, float]:
        """Give the distance of two clouds and its standard error."""
        if not self.sliced:
            return wasserstein(first, second), 0.0
        lines = _random_lines(first.shape[1])
        each = _along_lines(first @ lines, second @ lines)
        return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5)

    def between_classes(self, file: FeatureFile) -> Distances:
        """Measure the distance of every two classes; no more than two classes' points are held at once.

        Returns:
            (C, C) symmetric, zero diagonal; rows and columns of empty classes are NaN.

        Raises:
            SalunError: the solver gave up.
        """
        features = file.features
        key = file.path, np.sort(features.indices).tobytes()
        if key in self.known:
            return self.known[key]
        classes = len(features.classes)
        places = [np.flatnonzero(features.labels == label) for label in range(classes)]
        found = np.full((2, classes, classes), np.nan)
        with self.watched(str(file.path), classes * (classes - 1) // 2) as callback:
            for row in range(classes):
                if len(places[row]):
                    found[:, row, row] = 0
                for column in range(row + 1, classes):
                    if len(places[row]) and len(places[column]):
                        pair = self._measure(features.features[places[row]], features.features[places[column]])
                        found[:, row, column] = found[:, column, row] = pair
                    callback()
        self.known[key] = Distances(*found)
        return self.known[key]

    def between_models(self, first: FeatureFile, second: FeatureFile) -> Distances:
        """Measure the distance of two models' features of each class.

        Returns:
            (C,); NaN for empty classes.

        Raises:
            SalunError: the solver gave up.
        """
        one, other = first.features, second.features
        found = np.full((2, len(one.classes)), np.nan)
        with self.watched(f"{first.title} → {second.title}", len(one.classes)) as callback:
            for label in range(len(one.classes)):
                places = np.flatnonzero(one.labels == label)
                if len(places):
                    found[:, label] = self._measure(one.features[places], other.features[places])
                callback()
        return Distances(*found)
