from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from outputs import CLASS_WISE, SIZES, compared, holds, model, of_losses, outputs

from salun.metrics import Evaluation, evaluate


def value(subject: Evaluation) -> float | None:
    return evaluate(subject, ("RMIA_auc",))["RMIA_auc"]


def plain_value(sets: dict[str, NDArray[np.float64]]) -> float:
    """The definition, pair by pair, of (model, retrained model) confidences."""
    ratios = {name: ours / ((1.3 * theirs + 0.7) / 2) for name, (ours, theirs) in sets.items()}
    scores = {
        name: [np.mean([ratio >= other for other in ratios["validation"]]) for ratio in ratios[name]]
        for name in ("forget", "test")
    }
    pairs = [np.sign(member - other) for member in scores["forget"] for other in scores["test"]]
    return float(np.mean(pairs) + 1) / 2


def sure(sets: dict[str, NDArray[np.float64]]) -> Evaluation:
    """Two models with these confidences in each set's images."""
    ours, theirs = (
        replace(model(), **{name: of_losses(-np.log(pair[kind])) for name, pair in sets.items()}) for kind in (0, 1)
    )
    return replace(ours, retrained=theirs)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_shares_of_the_population(seed: int) -> None:
    chance = np.random.default_rng(seed)
    sets = {
        name: chance.uniform(0.01, 0.99, (2, count))
        for name, count in (("forget", 25), ("test", 30), ("validation", 40))
    }
    assert value(sure(sets)) == pytest.approx(plain_value(sets), abs=1e-12)


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
    assert value(replace(seen, retrained=as_sure)) <= value(seen)
    others = {"test": np.array([[0.5], [0.5]]), "validation": np.array([[0.8], [0.3]])}
    assert value(sure({"forget": np.array([[0.9], [0.1]]), **others})) == 1
    assert value(sure({"forget": np.array([[0.9], [0.9]]), **others})) == 0.5


def test_the_population_is_the_test_set_where_there_is_no_validation_set() -> None:
    subject = compared()
    assert subject.retrained
    nothing = outputs(0)
    bare = replace(subject, validation=nothing, retrained=replace(subject.retrained, validation=nothing))
    as_test = replace(
        subject, validation=subject.test, retrained=replace(subject.retrained, validation=subject.retrained.test)
    )
    assert value(bare) == value(as_test) is not None
