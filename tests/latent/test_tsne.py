from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from features import make_features
from salun.errors import SalunError
from salun.latent.embedding import directions, trustworthy
from salun.latent.tsne import check_perplexity, in_plane, in_space

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Four clouds in 16 dimensions, as `directions` leaves them."""
    return directions(make_features(200).features, 10)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return make_features(200).labels


def neighbours_agree(embedded: np.ndarray, labels: np.ndarray) -> float:
    """Share of points whose nearest neighbour is of their class."""
    distances = ((embedded[:, None] - embedded[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argmin(1)] == labels).mean())


def test_the_plane_keeps_neighbours_and_repeats_itself(points: np.ndarray, labels: np.ndarray) -> None:
    first, again = (in_plane(points, 20, 3) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (200, 2)
    assert neighbours_agree(first, labels) > 0.97
    assert trustworthy(points, first) > 0.9


def test_space_follows_the_plane_and_repeats_itself(points: np.ndarray, labels: np.ndarray) -> None:
    plane = in_plane(points, 20, 0)
    first, again = (in_space(points, plane, 20, 0) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (200, 3)
    assert neighbours_agree(first, labels) > 0.97
    assert trustworthy(points, first) > trustworthy(points, plane) - 0.01
    assert first.std(0).min() > 0.3 * first.std(0).max()


def test_space_takes_a_plane_that_says_everything() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(60, 2))
    points = np.column_stack([plane, np.zeros(60)]).astype(np.float32)
    assert np.isfinite(in_space(points, plane, 10, 0)).all()


@pytest.mark.parametrize(("count", "perplexity"), [(10, 3), (91, 30), (4, 1), (1000, 50.5)])
def test_a_perplexity_that_fits_is_accepted(count: int, perplexity: float) -> None:
    check_perplexity(perplexity, count)


@pytest.mark.parametrize(
    ("count", "perplexity", "accepted"),
    [
        (90, 30, "1 to 29 for 90 points"),
        (3, 1, "3 points are too few"),
        (1000, 0, "1 to 333"),
        (10, float("nan"), "1 to 3"),
    ],
)
def test_a_perplexity_that_does_not_fit_names_what_would(count: int, perplexity: float, accepted: str) -> None:
    with pytest.raises(SalunError, match=f"--perplexity .*: {accepted}"):
        check_perplexity(perplexity, count)


@pytest.mark.slow
def test_the_figures_cost_a_third_of_the_seeds_way_and_keep_neighbours_as_well(tmp_path: Path) -> None:
    loader = SourceFileLoader("bench_latent", str(ROOT / "scripts/bench_latent"))
    bench = ModuleType("bench_latent")
    loader.exec_module(bench)
    ours, theirs, trust = bench.bench_tsne(tmp_path)
    assert theirs > 3 * ours
    assert trust[0] > trust[2] - 0.01
    assert trust[1] > trust[3] - 0.01
