"""t-SNE in two and three dimensions."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from salun.errors import SalunError

if TYPE_CHECKING:
    from openTSNE.affinity import Affinities

_Floats = NDArray[np.float64]
_Singles = NDArray[np.float32]
_EXACT_NEIGHBOURS = 20_000
_FFT_FROM = 10_000
_EXAGGERATED = 125
_STEPS = 250
_STEPS_IN_SPACE = 250
_ANGLE = 1.0
_START = 2.0


def check_perplexity(perplexity: float, count: int) -> None:
    """Refuse a perplexity of which there are not more than three times as many points."""
    most = (count - 1) // 3
    if not 1 <= perplexity <= most:
        accepted = f"1 to {most} for {count} points" if most else f"{count} points are too few for any"
        raise SalunError(f"--perplexity {perplexity:g}: {accepted}")


def in_plane(points: _Singles, perplexity: float, seed: int) -> _Floats:
    """Embed points in the plane by openTSNE: Barnes-Hut, interpolation by FFT from 10,000 points on.

    Args:
        points: (N, D), compared by Euclidean distance.
        perplexity: effective number of neighbours, at most a third of N - 1.
        seed: of all randomness.

    Returns:
        (N, 2).

    Raises:
        SalunError: the perplexity is too large.

    Source:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; van der Maaten, JMLR 2014;
        Linderman et al., Nature Methods 2019.
    """
    check_perplexity(perplexity, len(points))
    import openTSNE

    method = openTSNE.TSNE(
        n_components=2,
        theta=_ANGLE,
        early_exaggeration_iter=_EXAGGERATED,
        n_iter=_STEPS,
        negative_gradient_method="bh" if len(points) < _FFT_FROM else "fft",
        n_jobs=-1,
        random_state=seed,
    )
    return np.asarray(method.fit(points, affinities=_near_ones(points, perplexity, seed)), dtype=np.float64)


def _near_ones(points: _Singles, perplexity: float, seed: int) -> "Affinities":
    """Find the neighbour probabilities of openTSNE, from exact neighbours up to 20,000 points."""
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors
    from sklearn.neighbors import NearestNeighbors

    if len(points) > _EXACT_NEIGHBOURS:
        return PerplexityBasedNN(points, perplexity, method="approx", n_jobs=-1, random_state=seed)
    search = NearestNeighbors(n_neighbors=min(len(points) - 1, int(3 * perplexity)), n_jobs=-1)
    distances, neighbours = search.fit(points).kneighbors()
    return PerplexityBasedNN(perplexity=perplexity, n_jobs=-1, knn_index=PrecomputedNeighbors(neighbours, distances))


def in_space(points: _Singles, plane: _Floats, perplexity: float, seed: int) -> _Floats:
    """Embed points in space, starting from the plane, whose clusters are whole: it takes no early exaggeration.

    Args:
        points: (N, D), compared by Euclidean distance.
        plane: (N, 2), embedding of the same points.
        perplexity: effective number of neighbours, at most a third of N - 1.
        seed: of all randomness.

    Returns:
        (N, 3).

    Raises:
        SalunError: the perplexity is too large.
    """
    from sklearn.manifold import TSNE

    check_perplexity(perplexity, len(points))
    centred = points - points.mean(0)
    slope, *_ = np.linalg.lstsq(plane - plane.mean(0), centred, rcond=None)
    rest = centred - (plane - plane.mean(0)) @ slope
    third = np.linalg.svd(rest.T @ rest)[0][:, 0]
    start = np.column_stack([plane - plane.mean(0), (rest @ third)])
    start *= _START / np.maximum(start.std(0), 1e-12)
    method = TSNE(
        3,
        perplexity=perplexity,
        early_exaggeration=1.0,
        max_iter=_STEPS_IN_SPACE,
        init=start.astype(np.float32),
        angle=_ANGLE,
        random_state=seed,
    )
    return np.asarray(method.fit_transform(points), dtype=np.float64)
