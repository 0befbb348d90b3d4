import numpy as np
import pytest
from fabricated import holds, several
from numpy.typing import NDArray
from scipy.stats import norm

from salun.metrics import Runs, evaluate
from salun.metrics.scores import area
from salun.metrics.ulira import left_out_scores, ulira_scores


def value(runs: Runs) -> float | None:
    return evaluate(runs, ("ULiRA_auc",))["ULiRA_auc"]


def margins(models: int, images: int, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Margins about each image's own difficulty, with each image's own spread."""
    difficulty, spread = (np.random.default_rng(0).normal(0, 3, images), np.linspace(0.5, 1.5, images))
    return difficulty + shift + spread * np.random.default_rng(seed).normal(size=(models, images))


def test_scores_are_the_logarithms_of_likelihood_ratios() -> None:
    after, never, target = margins(70, 9, 1, 1.0), margins(80, 9, 2), margins(1, 9, 3)[0]
    logs = [norm.logpdf(target, known.mean(0), known.std(0, ddof=1)) for known in (after, never)]
    np.testing.assert_allclose(ulira_scores(after, never, target), logs[0] - logs[1], rtol=1e-9)


def test_few_models_share_one_variance() -> None:
    after, never, target = margins(5, 9, 1, 1.0), margins(80, 9, 2), margins(1, 9, 3)[0]
    spreads = [np.sqrt(known.var(0, ddof=1).mean()) for known in (after, never)]
    kinds = zip((after, never), spreads, strict=True)
    logs = [norm.logpdf(target, known.mean(0), spread) for known, spread in kinds]
    np.testing.assert_allclose(ulira_scores(after, never, target), logs[0] - logs[1], rtol=1e-9)
    own = ulira_scores(after, never, target, shared_variance=False)
    assert not np.allclose(own, ulira_scores(after, never, target))


def test_constant_margins_have_scores() -> None:
    after, never = np.zeros((4, 3)), np.zeros((1, 3))
    assert (ulira_scores(after, never, np.zeros(3)) == 0).all()
    assert np.isfinite(ulira_scores(after + 200, never, np.full(3, 200.0))).all()


@pytest.mark.parametrize(("unlearned", "retrained"), [(3, 3), (3, 7), (8, 4)])
def test_models_of_one_kind_have_a_half(unlearned: int, retrained: int) -> None:
    found = []
    for seed in range(60):
        kinds = margins(unlearned, 40, 2 * seed), margins(retrained, 40, 2 * seed + 1)
        found.append(area(*(scores.ravel() for scores in left_out_scores(*kinds))))
    assert holds(found, 0.5)


def test_the_retrained_models_themselves_have_a_half() -> None:
    runs = several(unlearned=5)
    assert value(Runs(runs.unlearned, runs.unlearned)) == 0.5


def test_perfect_separation_has_1() -> None:
    assert value(Runs(several().unlearned, several(sure=60.0).retrained)) == 1


def test_the_attack_knows_each_images_difficulty() -> None:
    after, never = margins(20, 40, 1, 1.0), margins(20, 40, 2)
    by_threshold = area(after.ravel(), never.ravel())
    assert area(*(scores.ravel() for scores in left_out_scores(after, never))) > by_threshold + 0.1


@pytest.mark.parametrize(("unlearned", "retrained"), [(2, 3), (3, 2)])
def test_few_models_have_no_value(unlearned: int, retrained: int) -> None:
    assert value(several(unlearned, retrained)) is None
    assert value(several(3, 3)) is not None
