import pytest
import reference
import torch
from steps import steps_of

from salun.data.images import Batch
from salun.unlearning import Task

WANTED = reference.settings("bad_teacher_loss")
CASES = sorted(WANTED["UnlearnerLoss"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["UnlearnerLoss", "UnlearnerLoss_all_forget", "UnlearnerLoss_all_retain"])
def test_agrees_with_the_reference(which: str, case: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    data = reference.arrays("bad_teacher_loss")
    for name, teacher in (("frozen", "full_teacher_logits"), ("random_teacher", "unlearn_teacher_logits")):
        monkeypatch.setattr(task, name, lambda teacher=teacher: lambda x: data[teacher])
    loss = steps_of(task, "bad_teacher", monkeypatch, temperature=float(case[1:]))[0][0].loss
    forgets = data["labels"] == 1
    if which != "UnlearnerLoss":
        forgets = torch.full_like(forgets, which == "UnlearnerLoss_all_forget")
    student = data["student_logits"].requires_grad_()
    at = torch.where(forgets, 0, len(task.forget))
    value = loss(student, Batch(torch.zeros(len(at), 1, 8, 8), data["labels"], at))
    assert value.item() == pytest.approx(WANTED[which][case], rel=1e-6)
    if which == "UnlearnerLoss":
        value.backward()
        torch.testing.assert_close(student.grad, data[f"grad_student_{case}"], rtol=1e-5, atol=1e-8)


def test_forget_images_and_a_share_of_the_retain_images_are_mixed(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = steps_of(task, "bad_teacher", monkeypatch, epochs=2, batch_size=100, retain_share=0.3)
    forget = len(task.forget)
    for steps in epochs:
        at = torch.cat([step.batch.at for step in steps])
        assert sorted(at.tolist()) == list(range(forget + int(0.3 * len(task.retain))))
        assert all(0 < int((step.batch.at < forget).sum()) < len(step.batch.at) for step in steps[:-1])
        labels = torch.cat([step.batch.y for step in steps])
        assert torch.equal(labels == 0, at < forget)


def test_forget_images_follow_the_untrained_teacher_and_others_the_base_model(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    untrained = task.random_teacher()
    monkeypatch.setattr(task, "random_teacher", lambda: untrained)
    step = steps_of(task, "bad_teacher", monkeypatch, batch_size=100)[0][0]
    forgets = step.batch.at < len(task.forget)
    assert step.loss is not None
    with torch.no_grad():
        base, wrong = task.model.eval()(step.batch.x), untrained(step.batch.x)
    right = torch.where(forgets[:, None], wrong, base)
    assert float(step.loss(right, step.batch)) == pytest.approx(0, abs=1e-6)
    assert float(step.loss(base, step.batch)) > 0.01
    few = Batch(step.batch.x[~forgets], step.batch.y[~forgets], step.batch.at[~forgets])
    assert float(step.loss(base[~forgets], few)) == pytest.approx(0, abs=1e-6)
