from typing import Any

import pytest
import reference
import torch
from steps import steps_of, task_of
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import predict
from salun.training.runtime import Runtime
from salun.unlearning import Task, unlearn

WANTED = reference.settings("bad_teacher_loss")
CASES = sorted(WANTED["UnlearnerLoss"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["UnlearnerLoss", "UnlearnerLoss_all_forget", "UnlearnerLoss_all_retain"])
def test_bad_teacher_is_the_reference(which: str, case: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_bad_teacher_mixes_forget_images_with_a_share_of_the_others(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = steps_of(task, "bad_teacher", monkeypatch, epochs=2, batch_size=100, retain_share=0.3)
    forget = len(task.forget)
    for steps in epochs:
        at = torch.cat([step.batch.at for step in steps])
        assert sorted(at.tolist()) == list(range(forget + int(0.3 * len(task.retain))))
        assert all(0 < int((step.batch.at < forget).sum()) < len(step.batch.at) for step in steps[:-1])
        labels = torch.cat([step.batch.y for step in steps])
        assert torch.equal(labels == 0, at < forget)


def test_bad_teacher_has_forget_images_follow_an_untrained_model_and_others_the_base_model(
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


def test_delete_learns_the_base_model_without_the_own_class(
    digits: Dataset, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0, 4)))
    steps = steps_of(task, "delete", monkeypatch, epochs=1, batch_size=64)[0]
    assert sum(len(step.batch.x) for step in steps) == len(task.forget)
    batch, loss = steps[0].batch, steps[0].loss
    assert loss is not None
    with torch.no_grad():
        base = task.model.eval()(batch.x)
    own = torch.nn.functional.one_hot(batch.y, 10).bool()
    assert float(loss(base.masked_fill(own, -50.0), batch)) == pytest.approx(0, abs=1e-5)
    rest = base.masked_fill(own, -torch.inf).softmax(1)
    entropy = torch.special.entr(rest).sum(1).mean()
    assert float(loss(torch.zeros_like(base), batch)) == pytest.approx(
        float(torch.tensor(10.0).log() - entropy), rel=1e-4
    )
    assert float(loss(base, batch)) > 1


def test_delete_leads_a_forgotten_class_where_the_base_model_saw_the_next_best(task: Task) -> None:
    before = predict(task.model, task.forget)
    second = before.logits.scatter(1, before.labels[:, None], -torch.inf).argmax(1)
    unlearn(task, "delete", {"lr": 5e-4, "epochs": 10, "batch_size": 64, "freeze_norms": True})
    after = predict(task.model, task.forget).logits.argmax(1)
    assert float((after == before.labels).float().mean()) < 0.1
    assert float((after == second).float().mean()) > 0.5


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["bad_teacher", "delete", "scar", "scrub"])
def test_teachers_run_in_the_precision_of_the_training(
    name: str, precision: Any, digits: Dataset, trained: Checkpoint
) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 32)
    seen: list[torch.dtype] = []

    def see(model: nn.Module, inputs: Any, logits: Tensor) -> None:
        if model is not task.model:
            seen.append(logits.dtype)

    def fresh(build: Any = task.fresh) -> nn.Module:
        model: nn.Module = build()
        model.register_forward_hook(see)
        return model

    task.runtime, task.fresh = Runtime(precision), fresh
    task.model.register_forward_hook(see)
    unlearn(task, name, {"epochs": 1, "batch_size": 32})
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_a_teachers_logits_are_float32_and_take_no_gradient(task: Task) -> None:
    task.runtime = Runtime("bf16")
    logits = task.logits(next(task.forget.batches(4)).x, task.frozen())
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
