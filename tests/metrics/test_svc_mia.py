import pytest
import reference
import torch

from salun.metrics import Evaluation
from salun.metrics.svc_mia import svc_confidence, true_confidence
from salun.training import Outputs

NOTHING = Outputs(torch.empty(0, 10), torch.empty(0, dtype=torch.int64))


def evaluation(retain: Outputs, test: Outputs, forget: Outputs) -> Evaluation:
    return Evaluation(forget=forget, retain=retain, validation=NOTHING, test=test, forgotten_test=NOTHING)


@pytest.mark.parametrize("case", ["random", "oneclass"])
def test_equals_the_official_attack(case: str) -> None:
    data = reference.arrays(f"svc_mia_{case}")
    sets = {name: Outputs(data[f"{name}_logits"], data[f"{name}_labels"]) for name in ("retain", "test", "forget")}
    wanted = reference.settings("svc_mia")[case]["forget_efficacy"]["confidence"]
    assert svc_confidence(evaluation(**sets)) == pytest.approx(wanted, abs=1e-9)


def drawn(count: int, confidence: float, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    logits = torch.randn(count, 10, generator=generator)
    logits[torch.arange(count), labels] += confidence
    return Outputs(logits, labels)


def test_tells_members_from_others() -> None:
    member, other = drawn(300, 9, 0), drawn(200, 1, 1)
    assert svc_confidence(evaluation(member, other, drawn(100, 9, 2))) < 0.1
    assert svc_confidence(evaluation(member, other, drawn(100, 1, 3))) > 0.8


def test_fewer_retain_than_test_images() -> None:
    assert svc_confidence(evaluation(drawn(50, 9, 0), drawn(200, 1, 1), drawn(100, 1, 2))) > 0.8


def test_confidence_is_of_the_true_class() -> None:
    outputs = drawn(20, 2, 0)
    expected = outputs.logits.softmax(1)[torch.arange(20), outputs.labels]
    assert torch.equal(torch.from_numpy(true_confidence(outputs)).flatten(), expected)


@pytest.mark.parametrize("empty", ["forget", "test", "retain"])
def test_no_images_no_value(empty: str) -> None:
    full = evaluation(drawn(50, 9, 0), drawn(50, 1, 1), drawn(50, 1, 2))
    assert svc_confidence(Evaluation(**{**vars(full), empty: NOTHING})) is None
