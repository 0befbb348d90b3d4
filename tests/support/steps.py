"""What a method would train on: its steps, taken without training."""

from typing import Any

import pytest
import torch
from problems import make_task

from salun.data.dataset import Dataset
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Step, Task, find_method

CPU = torch.device("cpu")


def task_of(digits: Dataset, trained: Checkpoint, request: ForgetRequest, most: int | None = None) -> Task:
    split = make_split(digits, request)
    sets = make_sets(digits, split, prepare(digits, split), CPU)
    if most is not None:
        taken = {name: images.take(torch.arange(min(most, len(images)))) for name, images in vars(sets).items()}
        sets = Sets(**taken)
    return make_task(trained, sets, forgotten=tuple(request.classes))


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
