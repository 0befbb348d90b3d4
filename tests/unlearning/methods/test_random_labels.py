from typing import Any

import pytest
import torch
from steps import steps_of, task_of

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task

CPU = torch.device("cpu")


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0, 4)))


def batches_of(task: Task, name: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[list[Batch]]:
    return [[step.batch for step in steps] for steps in steps_of(task, name, monkeypatch, **settings)]


@pytest.mark.parametrize(("labels", "allowed"), [("any", 10), ("other", 9), ("remaining", 8)])
def test_labels_are_uniform_over_what_is_allowed(task: Task, labels: str, allowed: int) -> None:
    drawn = torch.cat([task.random_labels(labels) for _ in range(200)])
    true = task.forget.labels.repeat(200)
    if labels != "any":
        assert not bool((drawn == true).any())
    if labels == "remaining":
        assert not bool(torch.isin(drawn, torch.tensor([0, 4])).any())
    counts = torch.bincount(drawn[true == 0], minlength=10).float()
    share = counts[counts > 0] / counts.sum()
    assert len(share) == allowed
    assert torch.allclose(share, torch.full_like(share, 1 / allowed), atol=0.01)


def test_rl_split_sees_all_forget_then_all_retain_images(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    forget, retain = len(task.forget), len(task.retain)
    for batches in batches_of(task, "rl_split", monkeypatch, epochs=2, batch_size=100, labels="other"):
        counts = [len(batch.x) for batch in batches]
        phase = -(-forget // 100)
        assert sum(counts[:phase]) == forget
        assert sum(counts[phase:]) == retain
        first = torch.cat([batch.at for batch in batches[:phase]])
        second = torch.cat([batch.at for batch in batches[phase:]])
        assert sorted(first.tolist()) == list(range(forget))
        assert sorted(second.tolist()) == list(range(retain))
        assert first.tolist() != sorted(first.tolist())
        assert second.tolist() != sorted(second.tolist())
        assert not bool((torch.cat([b.y for b in batches[:phase]]) == task.forget.labels[first]).any())
        assert torch.equal(torch.cat([b.y for b in batches[phase:]]), task.retain.labels[second])


def test_rl_mixes_forget_and_retain_images(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    forget = len(task.forget)
    epochs = batches_of(task, "rl", monkeypatch, epochs=2, batch_size=100, labels="other")
    for batches in epochs:
        at = torch.cat([batch.at for batch in batches])
        assert sorted(at.tolist()) == list(range(forget + len(task.retain)))
        mixed = [0 < int((batch.at < forget).sum()) < len(batch.at) for batch in batches]
        assert sum(mixed) >= len(mixed) - 1
        labels = torch.cat([batch.y for batch in batches])
        assert torch.equal(labels[at >= forget], task.retain.labels[at[at >= forget] - forget])
        assert not bool((labels[at < forget] == task.forget.labels[at[at < forget]]).any())
    labels = [torch.cat([b.y for b in batches])[torch.cat([b.at for b in batches]).argsort()] for batches in epochs]
    assert not torch.equal(labels[0][:forget], labels[1][:forget])


def test_ga_turns_only_the_forget_images_loss(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in steps_of(task, "ga", monkeypatch, epochs=1, batch_size=64)[0][:3]:
        batch = step.batch
        logits = torch.randn(len(batch.x), 10, generator=torch.Generator().manual_seed(1))
        each = torch.nn.functional.cross_entropy(logits, batch.y, reduction="none")
        sign = torch.where(batch.at < len(task.forget), -1.0, 1.0)
        assert step.loss is not None
        assert float(step.loss(logits, batch)) == pytest.approx(float((sign * each).mean()), abs=1e-6)


@pytest.mark.parametrize(("name", "classes"), [("ga_small", {0, 4}), ("ft", {1, 2, 3, 5, 6, 7, 8, 9})])
def test_one_set_alone_is_seen(task: Task, monkeypatch: pytest.MonkeyPatch, name: str, classes: set[int]) -> None:
    labels = torch.cat([batch.y for batch in batches_of(task, name, monkeypatch, epochs=1, batch_size=64)[0]])
    assert len(labels) == len(task.forget if name == "ga_small" else task.retain)
    assert set(labels.tolist()) == classes
