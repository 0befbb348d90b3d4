import pytest
import reference
from outputs import compared

from salun.metrics import evaluate
from salun.metrics.tow import tug_of_war


def accuracies(group: str) -> list[list[float]]:
    models = reference.settings("tow")["groups"][group]
    names = ("forget", "retain", "test")
    return [[models[kind]["accuracy"][name] / 100 for name in names] for kind in ("unlearned", "retrained")]


@pytest.mark.parametrize("group", ["high", "mid", "low", "mix"])
def test_equals_the_original_with_the_attack_in_place_of_forget_accuracy_too(group: str) -> None:
    models = reference.settings("tow")["groups"][group]
    assert tug_of_war(*accuracies(group)) == pytest.approx(models["ToW"], rel=1e-9)
    attacks = [models[kind]["SVC_MIA_forget_efficacy"]["confidence"] for kind in ("unlearned", "retrained")]
    fractions = ([attack, *rest[1:]] for attack, rest in zip(attacks, accuracies(group), strict=True))
    assert tug_of_war(*fractions) == pytest.approx(models["ToW_MIA"], rel=1e-9)


def test_the_retrained_model_itself_has_1_and_others_less() -> None:
    subject = compared()
    assert subject.retrained
    assert evaluate(subject.retrained, ("ToW",)) == {"ToW": None}
    same = compared(seed=98)
    assert evaluate(same, ("ToW",)) == {"ToW": 1}
    assert 0 < evaluate(compared(sure=1.0, seed=3), ("ToW",))["ToW"] < 1
    assert tug_of_war([0, 1, 1], [1, 1, 1]) == 0
