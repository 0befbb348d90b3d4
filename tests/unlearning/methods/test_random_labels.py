import pytest
import torch
from steps import steps_of, task_of

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Step, Task


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0, 4)))


def joined(steps: list[Step]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*(step.batch for step in steps), strict=True)))


def is_shuffled(at: torch.Tensor, count: int) -> bool:
    return sorted(at.tolist()) == list(range(count)) != at.tolist()


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
    for steps in steps_of(task, "rl_split", monkeypatch, epochs=2, batch_size=100, labels="other"):
        phase = -(-len(task.forget) // 100)
        assert [step.forgets for step in steps] == [place < phase for place in range(len(steps))]
        first, second = joined(steps[:phase]), joined(steps[phase:])
        assert is_shuffled(first.at, len(task.forget))
        assert is_shuffled(second.at, len(task.retain))
        assert not bool((first.y == task.forget.labels[first.at]).any())
        assert torch.equal(second.y, task.retain.labels[second.at])


@pytest.mark.parametrize(("name", "anew"), [("rl", True), ("amnesiac", False)])
def test_forget_images_get_wrong_labels_in_a_mix(
    name: str, anew: bool, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, drawn = len(task.forget), []
    for steps in steps_of(task, name, monkeypatch, epochs=3, batch_size=100, labels="other"):
        mixed = [0 < int((step.batch.at < forget).sum()) < step.images for step in steps]
        assert sum(mixed) >= len(mixed) - 1
        seen = joined(steps)
        assert is_shuffled(seen.at, forget + len(task.retain))
        labels = seen.y[seen.at.argsort()]
        assert torch.equal(labels[forget:], task.retain.labels)
        assert not bool((labels[:forget] == task.forget.labels).any())
        assert set(labels[:forget].tolist()) == set(range(10))
        drawn.append(labels[:forget])
    assert all(torch.equal(drawn[0], other) != anew for other in drawn[1:])


def test_amnesiac_may_be_kept_from_labels_that_are_forgotten(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = joined(steps_of(task, "amnesiac", monkeypatch, labels="remaining")[0])
    assert set(seen.y[seen.at < len(task.forget)].tolist()) == set(range(10)) - {0, 4}


def test_ga_turns_only_the_forget_images_loss(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in steps_of(task, "ga", monkeypatch, epochs=1, batch_size=64)[0][:3]:
        batch = step.batch
        logits = torch.randn(len(batch.x), 10, generator=torch.Generator().manual_seed(1))
        each = torch.nn.functional.cross_entropy(logits, batch.y, reduction="none")
        sign = torch.where(batch.at < len(task.forget), -1.0, 1.0)
        assert float(step.loss(logits, batch)) == pytest.approx(float((sign * each).mean()), abs=1e-6)


@pytest.mark.parametrize(("name", "classes"), [("ga_small", {0, 4}), ("ft", {1, 2, 3, 5, 6, 7, 8, 9})])
def test_one_set_alone_is_seen(task: Task, monkeypatch: pytest.MonkeyPatch, name: str, classes: set[int]) -> None:
    labels = joined(steps_of(task, name, monkeypatch, epochs=1, batch_size=64)[0]).y
    assert len(labels) == len(task.forget if name == "ga_small" else task.retain)
    assert set(labels.tolist()) == classes
