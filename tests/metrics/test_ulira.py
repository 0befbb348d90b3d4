import numpy as np
import pytest
from numpy.typing import NDArray
from outputs import holds, several
from scipy.stats import norm

from salun.metrics import Runs, evaluate
from salun.metrics.scores import area
from salun.metrics.ulira import left_out_scores


def value(runs: Runs) -> float | None:
    return evaluate(runs, ("ULiRA_auc",))["ULiRA_auc"]


def margins(models: int, images: int, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Margins about each image's own difficulty, with each image's own spread."""
    difficulty, spread = (np.random.default_rng(0).normal(0, 3, images), np.linspace(0.5, 1.5, images))
    return difficulty + shift + spread * np.random.default_rng(seed).normal(size=(models, images))


@pytest.mark.parametrize(("models", "shared"), [((70, 80), False), ((6, 80), True)])
def test_scores_are_the_logarithms_of_likelihood_ratios(models: tuple[int, int], shared: bool) -> None:
    after, never = margins(models[0], 9, 1, 1.0), margins(models[1], 9, 2)
    found, _ = left_out_scores(after, never)
    for place in (0, 3):
        others = [np.delete(kind, place, axis=0) for kind in (after, never)]
        variances = [kind.var(0, ddof=1) for kind in others]
        spreads = [np.sqrt(variance.mean() if shared else variance) for variance in variances]
        logs = [norm.logpdf(after[place], kind.mean(0), spread) for kind, spread in zip(others, spreads, strict=True)]
        np.testing.assert_allclose(found[place], logs[0] - logs[1], rtol=1e-9)


def test_constant_margins_have_scores() -> None:
    after, never = np.zeros((4, 3)), np.zeros((2, 3))
    assert not any(scores.any() for scores in left_out_scores(after, never))
    assert all(np.isfinite(scores).all() for scores in left_out_scores(after + 200, never))


@pytest.mark.parametrize(("unlearned", "retrained"), [(3, 3), (3, 7), (8, 4)])
def test_models_of_one_kind_have_a_half(unlearned: int, retrained: int) -> None:
    found = []
    for seed in range(60):
        kinds = margins(unlearned, 40, 2 * seed), margins(retrained, 40, 2 * seed + 1)
        found.append(area(*(scores.ravel() for scores in left_out_scores(*kinds))))
    assert holds(found, 0.5)


def test_the_attack_knows_each_images_difficulty() -> None:
    after, never = margins(20, 40, 1, 1.0), margins(20, 40, 2)
    by_threshold = area(after.ravel(), never.ravel())
    assert area(*(scores.ravel() for scores in left_out_scores(after, never))) > by_threshold + 0.1


@pytest.mark.parametrize(("unlearned", "retrained"), [(2, 3), (3, 2)])
def test_few_models_have_no_value(unlearned: int, retrained: int) -> None:
    assert value(several(unlearned, retrained)) is None
    assert value(several(3, 3)) is not None
