from dataclasses import replace

import numpy as np
import pytest
from fabricated import CLASS_WISE, SIZES, compared, holds, model, outputs
from numpy.typing import NDArray

from salun.metrics import Evaluation, evaluate
from salun.metrics.rmia import rmia_scores


def value(subject: Evaluation) -> float | None:
    return evaluate(subject, ("RMIA_auc",))["RMIA_auc"]


def plain_scores(
    target: NDArray[np.float64],
    references: NDArray[np.float64],
    others: NDArray[np.float64],
    other_references: NDArray[np.float64],
    gamma: float,
    a: float,
) -> list[float]:
    """The definition, pair by pair."""
    ratios = target / (((1 + a) * references.mean(0) + 1 - a) / 2)
    population = others / (((1 + a) * other_references.mean(0) + 1 - a) / 2)
    return [np.mean([ratio / other >= gamma for other in population]) for ratio in ratios]


@pytest.mark.parametrize(("gamma", "a", "references"), [(1.0, 0.3, 1), (2.0, 0.0, 4), (1.2, 1.0, 3)])
def test_scores_are_shares_of_the_population(gamma: float, a: float, references: int) -> None:
    chance = np.random.default_rng(references)
    given = [chance.uniform(0.01, 1, size) for size in (25, (references, 25), 40, (references, 40))]
    found = rmia_scores(*given, gamma=gamma, a=a)
    np.testing.assert_allclose(found, plain_scores(*given, gamma=gamma, a=a), atol=1e-12)


def test_extreme_confidences_have_scores() -> None:
    target, references = np.array([0.0, 1.0, 1.0]), np.array([[0.0, 0.0, 1.0]])
    for a in (0.0, 0.3, 1.0):
        found = rmia_scores(target, references, np.array([0.0, 1.0]), np.array([[0.0, 1.0]]), a=a)
        assert ((found >= 0) & (found <= 1)).all()
        assert found[0] <= found[2] <= found[1]


def test_shuffled_membership_has_a_half() -> None:
    found = []
    for seed in range(20):
        sets = {
            name: [outputs(150, labels=9 * seed + place, seed=kind) for kind in (1, 2)]
            for place, name in enumerate(("forget", "test", "validation"))
        }
        ours, theirs = ({name: pair[kind] for name, pair in sets.items()} for kind in (0, 1))
        found.append(value(replace(model(), **ours, retrained=replace(model(), **theirs))))
    assert holds(found, 0.5)


@pytest.mark.parametrize("sizes", [SIZES, CLASS_WISE], ids=["random", "class-wise"])
def test_perfect_separation_has_1(sizes: dict[str, int]) -> None:
    subject = compared(sure=-30.0, sizes=sizes)
    known = {"forget": outputs(60, sure=30.0), "validation": outputs(70, labels=2, sure=1.5)}
    assert value(replace(subject, **known)) == 1


def test_images_that_the_retrained_model_is_as_sure_of_are_members_less() -> None:
    subject = compared(sure=-30.0)
    assert subject.retrained
    seen = replace(subject, forget=outputs(60, sure=30.0), validation=outputs(70, labels=2, sure=1.5))
    as_sure = replace(subject.retrained, forget=outputs(60, sure=30.0))
    half_as_sure = rmia_scores(np.array([0.9, 0.9]), np.array([[0.1, 0.9]]), np.array([0.8]), np.array([[0.3]]))
    assert half_as_sure.tolist() == [1, 0]
    assert value(replace(seen, retrained=as_sure)) <= value(seen)


def test_without_correction_an_images_difficulty_is_no_sign_of_membership() -> None:
    confidences = np.array([0.2, 0.5, 0.9])
    found = rmia_scores(confidences, confidences[None], np.array([0.5]), np.array([[0.5]]), a=1.0)
    assert found.tolist() == [1, 1, 1]


def test_the_population_is_the_test_set_where_there_is_no_validation_set() -> None:
    subject = compared()
    assert subject.retrained
    nothing = outputs(0)
    bare = replace(subject, validation=nothing, retrained=replace(subject.retrained, validation=nothing))
    as_test = replace(
        subject, validation=subject.test, retrained=replace(subject.retrained, validation=subject.retrained.test)
    )
    assert value(bare) == value(as_test) is not None
