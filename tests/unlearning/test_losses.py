import pytest
import reference
import torch

from salun.unlearning.losses import distillation

CASES = sorted(reference.settings("scrub_loss")["values"])


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case: str) -> None:
    data = reference.arrays("scrub_loss")
    student, teacher = data["student_logits"].requires_grad_(), data["teacher_logits"]
    value = distillation(student, teacher, float(case[1:]))
    value.backward()
    wanted = reference.settings("scrub_loss")
    assert value.item() == pytest.approx(wanted["values"][case], rel=1e-6)
    torch.testing.assert_close(student.grad, data[f"grad_student_{case}"], rtol=1e-5, atol=1e-7)
    swapped = distillation(teacher, student.detach(), float(case[1:]))
    assert float(swapped) == pytest.approx(wanted["swapped"][case], rel=1e-6)
    assert float(distillation(teacher, teacher, float(case[1:]))) == pytest.approx(0, abs=1e-6)


def test_a_class_that_is_ruled_out_is_learned_as_impossible() -> None:
    teacher = torch.tensor([[2.0, 1.0, 0.0]]).scatter(1, torch.tensor([[0]]), -torch.inf)
    student = torch.tensor([[3.0, 0.0, 0.0]], requires_grad=True)
    value = distillation(student, teacher)
    rest = torch.tensor([1.0, 0.0]).softmax(0)
    assert value.item() == pytest.approx(
        float((rest * (rest.log() - student.detach().log_softmax(1)[0, 1:])).sum()), rel=1e-5
    )
    value.backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert float(student.grad[0, 0]) > 0
