import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import ot
import pytest
import reference
from numpy.typing import NDArray
from scipy.stats import special_ortho_group, wasserstein_distance, wasserstein_distance_nd

from features import make_features
from salun.errors import SalunError
from salun.latent.groups import FeatureFile
from salun.latent.wasserstein import DistanceCache, Distances, difference, mean_distances, wasserstein

Cloud = NDArray[np.float64]


def cloud(points: int, width: int, seed: int, shift: float = 0.0) -> Cloud:
    return np.random.default_rng(seed).normal(shift, 1, (points, width))


def file_of(points: Cloud, labels: NDArray[np.int64], classes: int) -> FeatureFile:
    features = replace(make_features(len(points), classes=classes), features=points, labels=labels)
    return FeatureFile(Path("m.npz"), Path("m"), features)


@contextmanager
def watched(title: str, steps: int) -> Iterator[Callable[[], None]]:
    calls: list[str] = []
    yield lambda: calls.append(title)
    assert len(calls) == steps


def between_classes(points: Cloud, labels: NDArray[np.int64], classes: int, sliced: bool = False) -> Distances:
    return DistanceCache(sliced, watched).between_classes(file_of(points, labels, classes))


def sliced(first: Cloud, second: Cloud) -> tuple[float, float]:
    """The sliced distance of two clouds and its standard error."""
    labels = np.repeat([0, 1], [len(first), len(second)])
    values, errors = between_classes(np.concatenate([first, second]), labels, 2, sliced=True)
    return values[0, 1], errors[0, 1]


@pytest.mark.parametrize("case", [*range(6), "weighted"])
def test_equals_the_reference(case: int | str) -> None:
    data = {name: array.numpy() for name, array in reference.arrays("wasserstein_nd").items()}
    wanted = reference.settings("wasserstein_nd")
    if case == "weighted":
        found = wasserstein(data["u0"], data["v2"], data["weighted/u_weights"], data["weighted/v_weights"])
        assert found == pytest.approx(wanted["weighted_u0_v2"], rel=1e-9)
    else:
        found = wasserstein(data[f"u{case}"], data[f"v{case}"])
        assert found == pytest.approx(wanted["distances"][case], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("first", "second", "width"), [(1, 9, 2), (13, 29, 5), (40, 40, 64), (50, 50, 1), (17, 64, 1)])
def test_equals_scipy_on_random_clouds_and_the_closed_form_on_a_line(first: int, second: int, width: int) -> None:
    one, other = cloud(first, width, 0), cloud(second, width, 1, 0.3)
    wanted = wasserstein_distance_nd(one, other) if width > 1 else wasserstein_distance(one[:, 0], other[:, 0])
    assert wasserstein(one, other) == pytest.approx(wanted, rel=1e-9)
    if width == 1:
        assert sliced(one, other) == (pytest.approx(wanted, rel=1e-9), pytest.approx(0, abs=1e-12))


def test_of_a_moved_cloud_is_how_far_it_moved() -> None:
    start, other = cloud(30, 8, 0), cloud(20, 8, 1)
    assert wasserstein(start, start + np.full(8, 0.5)) == pytest.approx(0.5 * 8**0.5, rel=1e-9)
    assert wasserstein(3 * start, 3 * other) == pytest.approx(3 * wasserstein(start, other), rel=1e-9)
    assert wasserstein(np.zeros((5, 3)), np.zeros((7, 3))) == 0


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
def test_keeps_its_digits_far_from_the_origin_and_for_points_near_each_other(spread: float) -> None:
    corners = 100 * cloud(5, 16, 0) + 1000
    one, other = (np.repeat(corners, 5, 0) + spread * cloud(25, 16, seed) for seed in (1, 2))
    each = [wasserstein_distance_nd(one[at : at + 5], other[at : at + 5]) for at in range(0, 25, 5)]
    assert wasserstein(one, other) == pytest.approx(np.mean(each), rel=1e-9)


@pytest.mark.parametrize("fault", ["gives up", "is wrong"])
def test_a_solution_that_is_not_optimal_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solve: Callable[..., tuple[float, dict[str, object]]] = ot.emd2

    def hurried(*args: object, numItermax: int, log: bool) -> tuple[float, dict[str, object]]:  # noqa: N803
        value, report = solve(*args, numItermax=5 if fault == "gives up" else numItermax, log=log)
        return (value, report) if fault == "gives up" else (1.01 * value, report)

    monkeypatch.setattr("ot.emd2", hurried)
    with pytest.raises(SalunError, match=r"^the exact distance of 30 and 20 points was not found.*--sliced$"):
        wasserstein(cloud(30, 4, 0), cloud(20, 4, 1))


def test_sliced_is_a_lower_bound_that_repeats_with_an_error_of_the_size_it_claims() -> None:
    first, second = cloud(20, 10, 0), cloud(30, 10, 1, 0.5)
    turns = special_ortho_group.rvs(10, size=200, random_state=0)
    found = np.array([sliced(first @ turn, second @ turn) for turn in turns])
    assert 0 < found[:, 0].max() < wasserstein(first, second)
    assert found[:, 0].std() == pytest.approx(found[:, 1].mean(), rel=0.2)
    assert sliced(first, second) == sliced(first, second)


def test_differences_and_means_keep_signs_pass_over_what_is_empty_and_never_claim_too_small_an_error() -> None:
    first = Distances(np.array([1.0, np.nan, np.nan]), np.array([0.1, np.nan, np.nan]))
    second = Distances(np.array([3.0, 2.0, np.nan]), np.array([0.2, 0.1, np.nan]))
    for found, values, errors in (
        (difference(first, second), [2, np.nan, np.nan], [0.3, np.nan, np.nan]),
        (mean_distances([first, second]), [2, 2, np.nan], [0.15, 0.1, np.nan]),
    ):
        np.testing.assert_allclose(found.values, values)
        np.testing.assert_allclose(found.errors, errors)


def timed(action: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = action()
    return time.perf_counter() - start, found


def test_is_a_hundred_times_faster_than_scipy() -> None:
    first, second = np.maximum(cloud(200, 512, 0), 0), np.maximum(cloud(200, 512, 1, 0.1), 0)
    theirs, wanted = timed(lambda: wasserstein_distance_nd(first, second))
    ours = [timed(lambda: wasserstein(first, second)) for _ in range(5)]
    assert ours[0][1] == pytest.approx(wanted, rel=1e-9)
    assert theirs > 100 * min(ours)[0]


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
