from dataclasses import replace

import pytest
import torch
from outputs import CLASS_WISE, model, outputs

from salun.metrics import Evaluation, evaluate
from salun.training.evaluate import Outputs

NAMES = ("subclass", "subclass_test", "siblings", "others")


def answered(labels: list[int], right: list[int]) -> Outputs:
    """Images of four classes, of which those at some places are classified right."""
    said = [label if place in right else (label + 1) % 4 for place, label in enumerate(labels)]
    return Outputs(torch.eye(4)[said], torch.tensor(labels))


@pytest.fixture
def asked() -> Evaluation:
    """A part of class 1 is forgotten."""
    return replace(
        model(),
        forget=answered([1] * 4, [0]),
        forgotten_test=answered([1, 1], [1]),
        test=answered([0, 1, 1, 1, 2, 3, 3, 0], [1, 2, 4, 5, 6, 7]),
    )


def test_the_subclass_its_siblings_and_the_rest_are_apart(asked: Evaluation) -> None:
    wanted = {"subclass": 1 / 4, "subclass_test": 1 / 2, "siblings": 2 / 3, "others": 4 / 5}
    assert evaluate(asked, NAMES) == pytest.approx(wanted)


def test_subclasses_of_two_classes_have_the_siblings_of_both(asked: Evaluation) -> None:
    found = evaluate(replace(asked, forgotten_test=answered([1, 3], [0, 1])), NAMES)
    assert (found["siblings"], found["others"]) == pytest.approx((4 / 5, 2 / 3))


def test_whole_classes_and_shares_have_no_such_values(asked: Evaluation) -> None:
    whole = replace(asked, test=answered([0, 2, 3], [0]))
    share = replace(asked, forgotten_test=outputs(0))
    for run in (whole, share, model()):
        assert evaluate(run, NAMES) == dict.fromkeys(NAMES)


def test_where_each_class_lost_a_part_there_are_no_others() -> None:
    found = evaluate(model(sizes=CLASS_WISE), NAMES)
    assert found["others"] is None
    assert found["siblings"] is not None
