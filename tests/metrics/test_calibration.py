from dataclasses import replace

import pytest
import torch
from outputs import model

from salun.metrics import evaluate
from salun.training.evaluate import Outputs


def sure(confidence: float, right: int, wrong: int) -> Outputs:
    """Images whose first of two classes has this probability, which is right or wrong."""
    logits = torch.tensor([confidence, 1 - confidence]).log().repeat(right + wrong, 1)
    return Outputs(logits, torch.tensor([0] * right + [1] * wrong))


@pytest.mark.parametrize(("name", "place"), [("ECE", "test"), ("ECE_forget", "forget")])
@pytest.mark.parametrize(("right", "wrong", "wanted"), [(9, 1, 0.0), (5, 5, 0.4), (0, 4, 0.9), (4, 0, 0.1)])
def test_distance_of_confidence_from_accuracy(name: str, place: str, right: int, wrong: int, wanted: float) -> None:
    subject = replace(model(), **{place: sure(0.9, right, wrong)})
    assert evaluate(subject, (name,))[name] == pytest.approx(wanted, abs=1e-6)


def test_bins_do_not_make_up_for_each_other() -> None:
    doubtful, certain = sure(0.6, 10, 0), sure(0.9, 5, 5)
    both = Outputs(torch.cat([doubtful.logits, certain.logits]), torch.cat([doubtful.labels, certain.labels]))
    assert evaluate(replace(model(), test=both), ("ECE",))["ECE"] == pytest.approx(0.4, abs=1e-6)
