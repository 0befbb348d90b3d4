import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import ot
import pytest
import reference
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from salun.errors import SalunError
from salun.latent.wasserstein import (
    Distances,
    between_classes,
    between_models,
    difference,
    mean_distances,
    random_lines,
    sliced_wasserstein,
    wasserstein,
)

Cloud = NDArray[np.float64]


def cloud(points: int, width: int, seed: int, shift: float = 0.0) -> Cloud:
    return np.random.default_rng(seed).normal(shift, 1, (points, width))


@pytest.mark.parametrize("case", range(6))
def test_equals_the_reference(case: int) -> None:
    data = reference.arrays("wasserstein_nd")
    found = wasserstein(data[f"u{case}"].numpy(), data[f"v{case}"].numpy())
    assert found == pytest.approx(reference.settings("wasserstein_nd")["distances"][case], rel=1e-9, abs=1e-12)


def test_equals_the_weighted_reference() -> None:
    data = {name: array.numpy() for name, array in reference.arrays("wasserstein_nd").items()}
    found = wasserstein(data["u0"], data["v2"], data["weighted/u_weights"], data["weighted/v_weights"])
    assert found == pytest.approx(reference.settings("wasserstein_nd")["weighted_u0_v2"], rel=1e-9)


@pytest.mark.parametrize(("first", "second", "width"), [(1, 1, 3), (1, 9, 2), (13, 29, 5), (40, 40, 64), (31, 30, 8)])
def test_equals_scipy_on_random_clouds(first: int, second: int, width: int) -> None:
    one, other = cloud(first, width, 0), cloud(second, width, 1, 0.3)
    assert wasserstein(one, other) == pytest.approx(wasserstein_distance_nd(one, other), rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(50, 50), (17, 64), (1, 30)])
def test_equals_the_closed_form_on_a_line(first: int, second: int) -> None:
    one, other = cloud(first, 1, 2), cloud(second, 1, 3, 1.0)
    assert wasserstein(one, other) == pytest.approx(wasserstein_distance(one[:, 0], other[:, 0]), rel=1e-9)


@pytest.mark.parametrize("sizes", [(20, 20, 20), (12, 25, 18)])
def test_is_a_metric(sizes: tuple[int, int, int]) -> None:
    a, b, c = (cloud(size, 6, seed, seed / 2) for seed, size in enumerate(sizes))
    assert wasserstein(a, b) == pytest.approx(wasserstein(b, a), rel=1e-9)
    assert wasserstein(a, c) <= wasserstein(a, b) + wasserstein(b, c)
    assert wasserstein(a, b) > 0
    shuffled = a[np.random.default_rng(0).permutation(len(a))]
    assert wasserstein(a, shuffled) == pytest.approx(0, abs=1e-12)


def test_of_a_moved_cloud_is_how_far_it_moved() -> None:
    start = cloud(30, 8, 0)
    assert wasserstein(start, start + np.full(8, 0.5)) == pytest.approx(0.5 * 8**0.5, rel=1e-9)
    assert wasserstein(3 * start, 3 * cloud(20, 8, 1)) == pytest.approx(
        3 * wasserstein(start, cloud(20, 8, 1)), rel=1e-9
    )


def test_repeated_points_weigh_as_often() -> None:
    start, other = cloud(6, 4, 0), cloud(10, 4, 1)
    assert wasserstein(np.repeat(start, 3, 0), other) == pytest.approx(wasserstein(start, other), rel=1e-9)
    assert wasserstein(np.repeat(start, 3, 0), start) == pytest.approx(0, abs=1e-12)
    weights = np.array([2.0, 1, 1, 0, 1, 1])
    twice = start[[0, 0, 1, 2, 4, 5]]
    assert wasserstein(start, other, weights) == pytest.approx(wasserstein(twice, other), rel=1e-9)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
def test_keeps_its_digits_far_from_the_origin_and_for_points_near_each_other(spread: float) -> None:
    corners = 100 * cloud(5, 16, 0) + 1000
    one, other = (np.repeat(corners, 5, 0) + spread * cloud(25, 16, seed) for seed in (1, 2))
    each = [wasserstein_distance_nd(one[at : at + 5], other[at : at + 5]) for at in range(0, 25, 5)]
    assert wasserstein(one, other) == pytest.approx(np.mean(each), rel=1e-9)


def test_of_constant_features_is_zero() -> None:
    assert wasserstein(np.zeros((5, 3)), np.zeros((7, 3))) == 0


@pytest.mark.parametrize("fault", ["gives up", "is wrong"])
def test_a_solution_that_is_not_optimal_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solve: Callable[..., tuple[float, dict[str, object]]] = ot.emd2

    def hurried(*args: object, numItermax: int, log: bool) -> tuple[float, dict[str, object]]:  # noqa: N803
        value, report = solve(*args, numItermax=5 if fault == "gives up" else numItermax, log=log)
        return (value, report) if fault == "gives up" else (1.01 * value, report)

    monkeypatch.setattr("ot.emd2", hurried)
    with pytest.raises(SalunError, match=r"^the exact distance of 30 and 20 points was not found.*--sliced$"):
        wasserstein(cloud(30, 4, 0), cloud(20, 4, 1))


def labelled(sizes: list[int], width: int) -> tuple[Cloud, NDArray[np.int64]]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(5).permutation(len(labels))
    return (cloud(len(labels), width, 4) + labels[:, None])[order], labels[order].astype(np.int64)


def test_matrix_holds_the_distance_of_every_two_classes() -> None:
    features, labels = labelled([7, 5, 0, 7, 1], 6)
    calls: list[None] = []
    values, errors = between_classes(features, labels, 5, callback=lambda: calls.append(None))
    for one in range(5):
        for other in range(5):
            if one == 2 or other == 2:
                assert np.isnan(values[one, other])
            elif one != other:
                first, second = features[labels == one], features[labels == other]
                assert values[one, other] == pytest.approx(wasserstein_distance_nd(first, second), rel=1e-9)
    assert [values[label, label] for label in (0, 1, 3, 4)] == [0, 0, 0, 0]
    np.testing.assert_array_equal(values, values.T)
    assert np.nanmax(errors) == 0
    assert len(calls) == 10


def test_between_models_takes_class_by_class() -> None:
    features, labels = labelled([6, 0, 9], 4)
    moved = features + np.where(labels == 2, 2.0, 0.0)[:, None]
    values, _ = between_models(features, moved, labels, 3)
    np.testing.assert_allclose(values, [0, np.nan, 4], atol=1e-9)


def test_sliced_is_a_lower_bound_within_its_error() -> None:
    first, second = cloud(60, 12, 0), cloud(45, 12, 1, 0.7)
    many, small = sliced_wasserstein(first, second, random_lines(12, 20_000, 9))
    few, error = sliced_wasserstein(first, second, random_lines(12))
    assert 0 < many < wasserstein(first, second)
    assert small < error / 5
    assert abs(few - many) < 4 * error
    assert few != many


def test_errors_of_sliced_distances_are_of_the_size_they_claim() -> None:
    first, second = cloud(20, 10, 0), cloud(30, 10, 1, 0.5)
    found = np.array([sliced_wasserstein(first, second, random_lines(10, 50, seed)) for seed in range(200)])
    assert found[:, 0].std() == pytest.approx(found[:, 1].mean(), rel=0.2)


@pytest.mark.parametrize(("first", "second"), [(30, 30), (8, 21), (1, 5)])
def test_sliced_on_a_line_is_exact(first: int, second: int) -> None:
    one, other = cloud(first, 1, 0), cloud(second, 1, 1)
    value, error = sliced_wasserstein(one, other, random_lines(1))
    assert value == pytest.approx(wasserstein_distance(one[:, 0], other[:, 0]), rel=1e-9)
    assert error == pytest.approx(0, abs=1e-12)


def test_lines_are_directions_of_their_seed() -> None:
    np.testing.assert_allclose(np.linalg.norm(random_lines(9), axis=0), 1)
    np.testing.assert_array_equal(random_lines(9), random_lines(9))
    assert not np.array_equal(random_lines(9), random_lines(9, seed=1))


def test_differences_keep_their_sign_and_never_claim_too_small_an_error() -> None:
    first = Distances(np.array([1.0, np.nan]), np.array([0.1, np.nan]))
    second = Distances(np.array([3.0, 2.0]), np.array([0.2, 0.1]))
    values, errors = difference(first, second)
    np.testing.assert_allclose(values, [2, np.nan])
    np.testing.assert_allclose(errors, [0.3, np.nan])


def test_means_pass_over_what_is_empty() -> None:
    rows = [[1.0, np.nan, np.nan], [3.0, 4.0, np.nan]]
    mean = mean_distances([Distances(np.array(row), np.zeros(3)) for row in rows])
    np.testing.assert_array_equal(mean.values, [2, 4, np.nan])


def test_is_a_hundred_times_faster_than_scipy() -> None:
    first, second = np.maximum(cloud(200, 512, 0), 0), np.maximum(cloud(200, 512, 1, 0.1), 0)
    start = time.perf_counter()
    wanted = wasserstein_distance_nd(first, second)
    theirs = time.perf_counter() - start
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        found = wasserstein(first, second)
        seconds.append(time.perf_counter() - start)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert theirs > 100 * min(seconds)


def test_forty_five_pairs_take_seconds() -> None:
    labels = np.repeat(np.arange(10), 500).astype(np.int64)
    features = np.maximum(cloud(5000, 512, 0), 0) + labels[:, None] / 10
    start = time.perf_counter()
    values, _ = between_classes(features.astype(np.float32), labels, 10)
    assert time.perf_counter() - start < 30
    assert np.isfinite(values).all()


def test_memory_is_that_of_one_pair() -> None:
    def peak(classes: int) -> int:
        labels = np.repeat(np.arange(classes), 100).astype(np.int64)
        features = cloud(len(labels), 256, 0).astype(np.float32)
        tracemalloc.start()
        between_classes(features, labels, classes)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12) < 1.5 * peak(2)
