from dataclasses import replace

import pytest
from outputs import CLASS_WISE, SIZES, compared, of_accuracy

from salun.metrics import Evaluation, evaluate
from salun.training.evaluate import accuracy


def score(subject: Evaluation) -> float:
    return evaluate(subject, ("AUS",))["AUS"]


@pytest.mark.parametrize("sizes", [SIZES, CLASS_WISE], ids=["random", "class-wise"])
def test_definition(sizes: dict[str, int]) -> None:
    subject = compared(sizes=sizes)
    assert subject.base
    before, after, forget = (accuracy(held) for held in (subject.base.test, subject.test, subject.forget))
    excess = accuracy(subject.forgotten_test) if sizes is CLASS_WISE else abs(forget - after)
    assert excess > 0
    assert score(subject) == pytest.approx((1 - (before - after)) / (1 + excess))


@pytest.mark.parametrize(
    ("test", "forget", "wanted"), [(8, 8, 0.8 / 1), (5, 10, 0.5 / 1.5), (5, 0, 0.5 / 1.5), (10, 10, 1), (10, 0, 0.5)]
)
def test_accuracy_lost_and_what_the_model_knows_too_much_cost(test: int, forget: int, wanted: float) -> None:
    base = replace(compared(), test=of_accuracy(10, 0))
    held = {"test": of_accuracy(test, 10 - test), "forget": of_accuracy(forget, 10 - forget)}
    assert score(replace(compared(), base=base, **held)) == pytest.approx(wanted)
