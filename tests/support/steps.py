"""What a method would train on: its steps, taken without training."""

from typing import Any

import pytest
from problems import make_task, sets_of

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Step, Task, find_method


def task_of(digits: Dataset, trained: Checkpoint, request: ForgetRequest, most: int | None = None) -> Task:
    return make_task(trained, sets_of(digits, request, most), forgotten=tuple(request.classes))


def steps_of(task: Task, name: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[list[Step]]:
    """Take the steps of each epoch; a step's loss is its own or the training's."""
    seen: list[list[Step]] = []

    def record(stream: Any, *, epochs: int | None = None, loss: Any = None, **rest: Any) -> None:
        for epoch in range(epochs or task.training.epochs):
            given = (each if isinstance(each, Step) else Step(each) for each in stream(epoch))
            seen.append([step._replace(loss=step.loss or loss) for step in given])

    with monkeypatch.context() as patch:
        patch.setattr(task, "fit", record)
        find_method(name).run(task, **settings)
    return seen


def first_step(task: Task, name: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Step, float]:
    """Take the first step, and its loss for the model in evaluation mode."""
    found: list[tuple[Step, float]] = []

    def record(stream: Any, **rest: Any) -> None:
        step = next(iter(stream(0)))
        task.model.eval()
        found.append((step, float(step.loss(task.model(step.batch.x), step.batch).detach())))

    with monkeypatch.context() as patch:
        patch.setattr(task, "fit", record)
        find_method(name).run(task, **settings)
    return found[0]
