from typing import Any

import pytest
import torch
from steps import steps_of, task_of

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task

CPU = torch.device("cpu")


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0, 4)))


def labels_seen(task: Task, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[torch.Tensor]:
    labels = []
    for steps in steps_of(task, "amnesiac", monkeypatch, **settings):
        batches = [step.batch for step in steps]
        at = torch.cat([batch.at for batch in batches])
        assert sorted(at.tolist()) == list(range(len(task.forget) + len(task.retain)))
        assert at.tolist() != sorted(at.tolist())
        labels.append(torch.cat([batch.y for batch in batches])[at.argsort()])
    return labels


def test_each_forget_image_has_one_wrong_label_in_all_epochs(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = labels_seen(task, monkeypatch, batch_size=100)
    forget = len(task.forget)
    assert len(others) == 2
    assert all(torch.equal(first, other) for other in others)
    assert not bool((first[:forget] == task.forget.labels).any())
    assert torch.equal(first[forget:], task.retain.labels)
    assert set(first[:forget].tolist()) == set(range(10))


def test_remaining_gives_no_label_that_is_forgotten(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_seen(task, monkeypatch, labels="remaining")[0]
    assert set(labels[: len(task.forget)].tolist()) == set(range(10)) - {0, 4}
