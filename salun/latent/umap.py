"""UMAP in two and three dimensions."""

import warnings

import numpy as np
from numpy.typing import NDArray

from salun.errors import SalunError

_Floats = NDArray[np.float64]
_Singles = NDArray[np.float32]
_FEWEST = 8
NOTEBOOK_NEIGHBOURS = 9
NOTEBOOK_DISTANCE = 0.45
NOTEBOOK_SEED = 2048


def check_neighbours(neighbours: int, count: int) -> None:
    """Refuse fewer points than a layout of so many neighbours needs."""
    if not 2 <= neighbours < count or count < _FEWEST:
        raise SalunError(f"--neighbours {neighbours}: must be from 2, and less than the {count} points of a file")


def umap(points: _Singles, dimensions: int, neighbours: int, distance: float, seed: int) -> _Floats:
    """Embed points by UMAP, on one thread, so that the same seed gives the same coordinates.

    Args:
        points: (N, D), compared by Euclidean distance.
        dimensions: of the embedding.
        neighbours: size of the neighbourhood that is kept, less than N.
        distance: how close points may lie, in [0, 1].
        seed: of all randomness.

    Returns:
        (N, dimensions).

    Raises:
        SalunError: there are too few points.

    Source:
        McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection", 2018.
    """
    check_neighbours(neighbours, len(points))
    with warnings.catch_warnings(action="ignore"):
        from umap import UMAP

        method = UMAP(n_neighbors=neighbours, min_dist=distance, n_components=dimensions, random_state=seed, n_jobs=1)
        return np.asarray(method.fit_transform(points), dtype=np.float64)
