"""Exact 1-Wasserstein distances between classes, and between two models' features of a class."""

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]

PROJECTIONS = 200
MOST_ITERATIONS = 10_000_000


def wasserstein(first: Floats, second: Floats) -> float:
    """Compute the 1-Wasserstein distance of two clouds: Euclidean cost, uniform weights, exact.

    W(u, v) = min over couplings g of sum g_ij |u_i - v_j|. For clouds of equal size the optimal
    coupling is a matching, found by linear assignment; else the network simplex of POT solves it.

    Args:
        first: (N, D) points.
        second: (M, D) points.

    Returns:
        The distance; 0 for the same cloud in another order.

    Source:
        Peyré and Cuturi, "Computational Optimal Transport", 2019, sections 2.3 and 3.5; the same value
        as `scipy.stats.wasserstein_distance_nd`.
    """
    cost = cdist(first.astype(np.float64), second.astype(np.float64))
    if len(first) == len(second):
        rows, columns = linear_sum_assignment(cost)
        return float(cost[rows, columns].mean())
    return max(0.0, float(ot.emd2([], [], cost, numItermax=MOST_ITERATIONS)))


def sliced_wasserstein(
    first: Floats, second: Floats, seed: int = 0, projections: int = PROJECTIONS
) -> tuple[float, float]:
    """Estimate a cheaper distance: the mean 1-Wasserstein distance over random lines.

    It is a distance of its own, never larger than the exact one, for clouds too large for that.

    Args:
        first: (N, D) points.
        second: (M, D) points.
        seed: of the lines.
        projections: number of lines.

    Returns:
        The mean over the lines and its standard error.

    Source:
        Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015.
    """
    lines = np.random.default_rng(seed).normal(size=(first.shape[1], projections))
    lines /= np.linalg.norm(lines, axis=0)
    each = np.asarray(ot.wasserstein_1d(first @ lines, second @ lines, p=1))
    return float(each.mean()), float(each.std(ddof=1) / projections**0.5)
