from typing import Any

import pytest
import reference
import torch
from steps import steps_of, task_of
from torch.nn.functional import cross_entropy

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.models.features import head
from salun.training.evaluate import predict
from salun.unlearning import Task, unlearn


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(share=0.1))


def test_disobeys_on_all_forget_images_first_then_obeys_on_all_retain_images(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = steps_of(task, "scrub", monkeypatch, epochs=3, msteps=2, batch_size=200, forget_batch_size=50)
    for number, steps in enumerate(epochs):
        forgets = [step.forgets for step in steps]
        assert forgets == sorted(forgets, reverse=True)
        counts = {kind: sum(len(step.batch.x) for step in steps if step.forgets == kind) for kind in (True, False)}
        assert counts == {True: len(task.forget) if number < 2 else 0, False: len(task.retain)}
        assert max(len(step.batch.x) for step in steps if not step.forgets) == 200


@pytest.mark.parametrize("case", sorted(reference.settings("scrub_loss")["values"]))
def test_losses_are_the_reference_with_the_sign_of_the_step(
    case: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = reference.arrays("scrub_loss")
    student, teacher = data["student_logits"], data["teacher_logits"]
    wanted = reference.settings("scrub_loss")["values"][case]
    labels = torch.arange(len(student)) % student.shape[1]
    batch = Batch(torch.zeros(len(student), 1, 8, 8), labels, torch.arange(len(student)))
    monkeypatch.setattr(task, "frozen", lambda: lambda x: teacher)
    settings: dict[str, Any] = {"temperature": float(case[1:]), "alpha": 0.3, "gamma": 0.6}
    steps = steps_of(task, "scrub", monkeypatch, **settings)[0]
    forget, retain = steps[0].loss, steps[-1].loss
    assert forget is not None
    assert retain is not None
    assert float(forget(student, batch)) == pytest.approx(-wanted, rel=1e-6)
    expected = 0.6 * float(cross_entropy(student, labels)) + 0.3 * wanted
    assert float(retain(student, batch)) == pytest.approx(expected, rel=1e-6)


def shares_wrong(task: Task) -> tuple[float, torch.Tensor]:
    """Measure the error on forget images, and that on validation images of each class."""
    forget, validation = predict(task.model, task.forget), predict(task.model, task.validation)
    wrong = (validation.logits.argmax(1) != validation.labels).float()
    each = torch.stack([wrong[validation.labels == label].mean() for label in range(task.classes)])
    return float((forget.logits.argmax(1) != forget.labels).float().mean()), each


def disturb(model: torch.nn.Module, trained: Checkpoint, strength: float) -> None:
    model.load_state_dict(trained.weights)
    weight = head(model).weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    weight.data.add_(noise, alpha=strength * weight.std().item())


@pytest.mark.parametrize(
    ("classes", "strengths", "best"),
    [((), (2.0, 9.0, 3.0), 0), ((), (8.0, 9.0, 3.0), 2), ((0,), (1.0, 5.0, 0.0), 1), ((0,), (0.0, 0.5, 5.0), 2)],
)
def test_rewind_keeps_the_epoch_that_forgot_as_much_as_unseen_images_are_unknown(
    classes: tuple[int, ...],
    strengths: tuple[float, ...],
    best: int,
    digits: Dataset,
    trained: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=classes) if classes else ForgetRequest(share=0.1))
    if not classes:  # three classes, half of the images mislabelled: known no better than images that are unseen
        rotated = torch.tensor([0, 1, 2, 4, 8, 5, 6, 7, 3, 9])
        few = task.forget.take(torch.isin(task.forget.labels, torch.tensor([3, 4, 8])).nonzero()[:, 0])
        task.forget = few.relabel(torch.where(torch.arange(len(few)) % 2 == 0, rotated[few.labels], few.labels))
    found: list[tuple[float, torch.Tensor]] = []

    def walk(stream: Any, **rest: Any) -> None:
        for epoch in range(len(strengths)):
            next(iter(stream(epoch)))
            disturb(task.model, trained, strengths[epoch])
            found.append(shares_wrong(task))

    monkeypatch.setattr(task, "fit", walk)
    unlearn(task, "scrub", {"rewind": True, "epochs": len(strengths)})
    kept = head(task.model).weight.detach().clone()
    shares = torch.bincount(task.forget.labels, minlength=10) / len(task.forget)
    wanted = 1.0 if classes else float((shares * found[-1][1]).sum())
    distances = [abs(error - wanted) for error, _ in found]
    assert distances.index(min(distances)) == best
    disturb(task.model, trained, strengths[best])
    assert torch.equal(head(task.model).weight, kept)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_budget_keeps_enough_for_the_rewind(digits: Dataset, trained: Checkpoint, share: float) -> None:
    def spent(budget: int | None) -> int:
        task = task_of(digits, trained, ForgetRequest(share=0.1))
        task.passes.budget = budget
        unlearn(task, "scrub", {"rewind": True, "batch_size": 64})
        return task.passes.total

    whole = spent(None)
    assert share * whole - 3 * 64 < spent(int(share * whole)) <= share * whole
