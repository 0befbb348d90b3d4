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


def test_plane_and_space_keep_neighbours_and_repeat_themselves() -> None:
    features = make_features(200)
    points = directions(features.features, 10)
    plane, space = (
        [fit() for _ in range(2)]
        for fit in (lambda: in_plane(points, 20, 0), lambda: in_space(points, in_plane(points, 20, 0), 20, 0))
    )
    for (first, again), width in ((plane, 2), (space, 3)):
        assert np.array_equal(first, again)
        assert first.shape == (200, width)
        distances = ((first[:, None] - first[None]) ** 2).sum(-1)
        np.fill_diagonal(distances, np.inf)
        assert (features.labels[distances.argmin(1)] == features.labels).mean() > 0.97
    assert trustworthy(points, plane[0]) > 0.9
    assert trustworthy(points, space[0]) > trustworthy(points, plane[0]) - 0.01
    assert space[0].std(0).min() > 0.3 * space[0].std(0).max()


def test_space_takes_a_plane_that_says_everything() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(60, 2))
    points = np.column_stack([plane, np.zeros(60)]).astype(np.float32)
    assert np.isfinite(in_space(points, plane, 10, 0)).all()


@pytest.mark.parametrize(
    ("count", "perplexity", "accepted"),
    [(90, 30, "1 to 29 for 90 points"), (3, 1, "3 points are too few"), (1000, 0, "1 to 333"), (10, np.nan, "1 to 3")],
)
def test_a_perplexity_that_does_not_fit_names_what_would(count: int, perplexity: float, accepted: str) -> None:
    check_perplexity(30, 91)
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
