"""Linear CKA between two models, minibatch by minibatch."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SMALLEST_BATCH = 4


def unbiased_hsic(first: Floats, second: Floats) -> float:
    """Compute the unbiased estimate of HSIC from two Gram matrices.

    HSIC = [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)), the diagonals of K and L set to 0.

    Args:
        first: (n, n) Gram matrix K, n at least 4.
        second: (n, n) Gram matrix L.

    Returns:
        The estimate, which may be negative.

    Source:
        Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 4.
    """
    count = len(first)
    k, l = first.copy(), second.copy()  # noqa: E741 - the paper's names
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    by_row = k.sum(0) @ l.sum(0)
    whole = k.sum() * l.sum() / ((count - 1) * (count - 2))
    return float(((k * l).sum() + whole - 2 * by_row / (count - 2)) / (count * (count - 3)))


def linear_cka(batches: Iterable[tuple[Floats, Floats]]) -> float:
    """Compute linear CKA from batches of two models' features of the same images.

    The three HSIC estimates are averaged over the batches before the quotient is taken. Features are not
    centred and not clamped, so the value may be slightly outside [0, 1].

    Args:
        batches: pairs of (n, D) and (n, E) features, row by row of the same images; batches of fewer than
            4 images are left out.

    Returns:
        The similarity; NaN where no batch is large enough or a model's features are constant.

    Source:
        Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equation 3.
    """
    sums = np.zeros(3)
    for first, second in batches:
        if len(first) < SMALLEST_BATCH:
            continue
        k, l = (part.astype(np.float64) @ part.astype(np.float64).T for part in (first, second))  # noqa: E741
        sums += [unbiased_hsic(k, k), unbiased_hsic(k, l), unbiased_hsic(l, l)]
    own = sums[0] * sums[2]
    return float(sums[1] / own**0.5) if own > 0 else float("nan")
