from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import make_features
from salun.errors import SalunError
from salun.latent.embedding import (
    directions,
    embed_together,
    key_of,
    prototypes_of,
    read_coordinates,
    trustworthy,
    write_coordinates,
)


def first_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[:, :2].astype(float), points[:, :3].astype(float)


def test_directions_compare_by_the_cosine() -> None:
    points = make_features(50).features
    points[0] = 0
    found = directions(points, None)
    assert np.linalg.norm(found, axis=1) == pytest.approx([0] + [1] * 49, abs=1e-6)
    longer = points * np.linspace(1, 9, 50, dtype=np.float32)[:, None]
    assert directions(longer, None) == pytest.approx(found, abs=1e-6)


def test_principal_components_keep_distances_where_they_are_enough() -> None:
    random = np.random.default_rng(0)
    points = (random.normal(size=(80, 5)) @ random.normal(size=(5, 40))).astype(np.float32)
    reduced, whole = directions(points, 6), directions(points, None)
    assert reduced.shape == (80, 6)
    distance = np.linalg.norm(whole[:10, None] - whole[None, 10:], axis=-1)
    assert np.linalg.norm(reduced[:10, None] - reduced[None, 10:], axis=-1) == pytest.approx(distance, abs=1e-5)


@pytest.mark.parametrize(("count", "width"), [(20, 8), (8, 200), (50, 50)])
def test_few_points_or_dimensions_are_left_as_they_are(count: int, width: int) -> None:
    assert directions(np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)).shape == (count, width)


@pytest.mark.parametrize("fitted", [True, False])
def test_models_are_embedded_in_one_space_with_prototypes_among_or_beside_their_nearest_samples(fitted: bool) -> None:
    models = [make_features(60, seed=seed) for seed in range(3)]
    seen = []

    def fit(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(points))
        return first_axes(points)

    found = embed_together(models, fit, fit_prototypes=fitted)
    assert seen == [3 * (60 + 4 * fitted)]
    for features, coordinates in zip(models, found, strict=True):
        assert np.array_equal(coordinates.flat, features.features[:, :2])
        assert np.array_equal(coordinates.solid, features.features[:, :3])
        assert coordinates.solid_prototypes.shape == (4, 3)
        if fitted:
            assert np.array_equal(coordinates.flat_prototypes, features.prototypes[:, :2])
            assert np.array_equal(coordinates.solid_prototypes, features.prototypes[:, :3])
            continue
        likeness = directions(features.prototypes, None) @ directions(features.features, None).T
        for label in range(4):
            nearest = np.argsort(-likeness[label])[:5]
            assert (features.labels[nearest] == label).all()
            assert coordinates.flat_prototypes[label] == pytest.approx(coordinates.flat[nearest].mean(0))


def test_prototypes_of_another_space_are_left_out() -> None:
    features = replace(make_features(30), prototypes=np.ones((4, 9), dtype=np.float32))
    assert prototypes_of(features).shape == (0, 16)
    for fitted in (True, False):
        assert embed_together([features], first_axes, fitted)[0].flat_prototypes.shape == (0, 2)


def test_the_key_changes_with_features_prototypes_and_settings() -> None:
    features = make_features(30)
    keys = [
        key_of([features], {"seed": 0}),
        key_of([features], {"seed": 1}),
        key_of([features, features], {"seed": 0}),
        key_of([features.first(29)], {"seed": 0}),
        key_of([replace(features, prototypes=features.prototypes + 1)], {"seed": 0}),
        key_of([make_features(30, seed=1)], {"seed": 0}),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of([make_features(30, forget=1)], {"seed": 0}) == keys[0]


def test_coordinates_are_kept_and_found_again(tmp_path: Path) -> None:
    features = make_features(30, forget=2)
    coordinates = embed_together([features], first_axes)[0]
    path = tmp_path / "deep" / "tsne.npz"
    assert read_coordinates(path, "k") is None
    write_coordinates(path, coordinates, features, "k")
    found = read_coordinates(path, "k")
    assert found is not None
    for name, array in vars(coordinates).items():
        assert np.array_equal(getattr(found, name), array)
    assert read_coordinates(path, "other") is None
    with np.load(path, allow_pickle=False) as content:
        assert np.array_equal(content["labels"], features.labels)
        assert np.array_equal(content["forgotten"], features.forgotten)
        assert content["classes"].tolist() == list(features.classes)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_kept_coordinates_that_are_damaged_are_as_if_not_there(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tsne.npz"
    path.write_bytes(content)
    assert read_coordinates(path, "k") is None


def test_trustworthiness_needs_points() -> None:
    features = make_features(24)
    with pytest.raises(SalunError, match="more than 24 points"):
        trustworthy(features.features, features.features[:, :2])
    points = directions(make_features(60).features, None)
    assert trustworthy(points, points) == pytest.approx(1)
