"""What t-SNE and UMAP share: one space for all models, coordinates of samples and prototypes, kept on disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salun.errors import SalunError
from salun.io.arrays import UNREADABLE, read_arrays, write_arrays
from salun.latent.features import Features

_Floats = NDArray[np.float64]
_Singles = NDArray[np.float32]
COMPONENTS = 50
_NEAREST = 5


@dataclass(frozen=True)
class Coordinates:
    """Where one model's samples and prototypes lie in the plane, (N, 2) and (C, 2), and in space, (N, 3) and (C, 3).

    There are no prototypes, (0, 2) and (0, 3), where features are not what the head sees.
    """

    flat: _Floats
    solid: _Floats
    flat_prototypes: _Floats
    solid_prototypes: _Floats


Fit = Callable[[_Singles], tuple[_Floats, _Floats]]


def prototypes_of(features: Features) -> _Singles:
    """Give the (C, D) prototypes to embed beside the samples; (0, D) where the head's weights live elsewhere."""
    width = features.features.shape[1]
    same = features.prototypes.shape[1] == width
    return features.prototypes if same else np.empty((0, width), dtype=np.float32)


def directions(points: _Singles, components: int | None = COMPONENTS, seed: int = 0) -> _Singles:
    """Divide points by their norms, so that features and prototypes compare, and keep their principal components.

    Args:
        points: (N, D).
        components: kept at most; None for all dimensions.
        seed: of the decomposition.

    Returns:
        (N, components) float32.
    """
    from sklearn.decomposition import PCA

    norms = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / np.where(norms > 0, norms, 1)
    if components is None or components >= min(unit.shape):
        return np.asarray(unit, dtype=np.float32)
    return np.asarray(PCA(components, random_state=seed).fit_transform(unit), dtype=np.float32)


def embed_together(models: Sequence[Features], fit: Fit, fit_prototypes: bool = True) -> list[Coordinates]:
    """Embed the samples and prototypes of several models in one space.

    Args:
        models: of equal width.
        fit: gives (M, 2) and (M, 3) coordinates of (M, D) points.
        fit_prototypes: whether prototypes are fitted as points among the samples; those of several models, which hardly
            differ, may be each other's neighbours. Else each is put at the mean of its nearest samples.
    """
    stars = [prototypes_of(features) if fit_prototypes else prototypes_of(features)[:0] for features in models]
    parts = [part for features, star in zip(models, stars, strict=True) for part in (features.features, star)]
    flat, solid = fit(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    flats, solids = np.split(flat, ends), np.split(solid, ends)
    found = [Coordinates(flats[at], solids[at], flats[at + 1], solids[at + 1]) for at in range(0, 2 * len(models), 2)]
    return found if fit_prototypes else [_put_prototypes(*pair) for pair in zip(found, models, strict=True)]


def _put_prototypes(coordinates: Coordinates, features: Features) -> Coordinates:
    """Put each prototype at the mean of the samples whose features are nearest to it by the cosine."""
    prototypes = prototypes_of(features)
    likeness = directions(prototypes, None) @ directions(features.features, None).T
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :_NEAREST]
    places = [part[nearest].mean(1) for part in (coordinates.flat, coordinates.solid)]
    return Coordinates(coordinates.flat, coordinates.solid, *places)


def key_of(models: Sequence[Features], settings: dict[str, object]) -> str:
    """Identify an embedding by everything that decides it, with 16 hexadecimal digits."""
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for features in models:
        for part in (features.features, prototypes_of(features)):
            hashed.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return hashed.hexdigest()[:16]


def write_coordinates(path: Path, coordinates: Coordinates, features: Features, key: str) -> None:
    """Keep coordinates and what a figure needs beside them.

    Args:
        path: ends in `.npz`.
        coordinates: of the samples.
        features: of the samples.
        key: of the embedding.

    Raises:
        SalunError: the file cannot be written.
    """
    samples = {name: getattr(features, name) for name in ("labels", "predictions", "indices", "forgotten")}
    write_arrays(path, vars(coordinates) | samples | {"classes": features.classes, "key": key})


def read_coordinates(path: Path, key: str) -> Coordinates | None:
    """Read coordinates that were kept; None where the file is of another embedding, or cannot be read."""
    try:
        if str(read_arrays(path, ("key",))["key"]) != key:
            return None
        found = Coordinates(**read_arrays(path, Coordinates.__dataclass_fields__))
    except UNREADABLE:
        return None
    whole = (found.flat, 2), (found.solid, 3), (found.flat_prototypes, 2), (found.solid_prototypes, 3)
    fits = all(part.dtype.kind == "f" and part.ndim == 2 and part.shape[1] == axes for part, axes in whole)
    return found if fits else None


def trustworthy(points: _Singles, embedded: _Floats, neighbours: int = 12) -> float:
    """Measure how well an embedding keeps neighbours.

    Args:
        points: (N, D), compared by the cosine.
        embedded: (N, 2) or (N, 3).
        neighbours: how many are compared; less than half of N.

    Returns:
        Trustworthiness in [0, 1]; 1 where nobody is a neighbour in the embedding alone.

    Raises:
        SalunError: there are too few points.

    Source:
        Venna and Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001.
    """
    from sklearn.manifold import trustworthiness

    if 2 * neighbours >= len(points):
        raise SalunError(f"trustworthiness over {neighbours} neighbours needs more than {2 * neighbours} points")
    return float(trustworthiness(points, embedded, n_neighbors=neighbours, metric="cosine"))
