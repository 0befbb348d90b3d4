from dataclasses import replace

import pytest
from fabricated import CLASS_WISE, SIZES, compared

from salun.metrics import Evaluation, evaluate
from salun.metrics.aus import adaptive_score
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


def test_a_model_whose_forget_accuracy_is_its_test_accuracy_and_that_lost_none_has_1() -> None:
    subject = compared()
    assert subject.base
    assert score(replace(subject, test=subject.base.test, forget=subject.base.test)) == 1


def test_what_the_base_model_knows_too_much_costs() -> None:
    assert adaptive_score(0.9, 0.9, 1.0) == 0.5
    assert adaptive_score(0.9, 0.8, 0.0) == pytest.approx(0.9)
    assert adaptive_score(0.9, 0.9, -0.25) == adaptive_score(0.9, 0.9, 0.25) == 0.8
