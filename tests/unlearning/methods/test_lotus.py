from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from problems import same_weights
from steps import steps_of, task_of
from torch import Tensor

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.split import ForgetRequest
from salun.errors import SalunError
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0,)))


def loss_of(task: Task, teacher: Tensor, monkeypatch: pytest.MonkeyPatch, **settings: float) -> Callable[..., Tensor]:
    """Take the loss of the first epoch, with a teacher that says what is given."""
    monkeypatch.setattr(task, "frozen", lambda: lambda x: teacher[: len(x)])
    found = steps_of(task, "lotus", monkeypatch, epochs=1, **settings)[0][0].loss
    assert found is not None
    return found


def batch_of(count: int, first: int) -> Batch:
    return Batch(torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64), first + torch.arange(count))


def test_forget_images_become_as_unsure_as_the_temperature_says(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)) * 1e4
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    # The model knows all of the class that is to be forgotten: T = exp(alpha), beside which the noise is small.
    loss = loss_of(task, teacher, monkeypatch, alpha=8.0)
    expected = F.cross_entropy(logits, F.softmax(teacher / torch.tensor(8.0).exp(), 1))
    assert float(loss(logits, batch_of(8, 0))) == pytest.approx(float(expected), rel=1e-2)
    uniform = loss_of(task, teacher, monkeypatch, alpha=1e4)(logits, batch_of(8, 0))
    assert float(uniform) == pytest.approx(float(-F.log_softmax(logits, 1).mean()), rel=1e-5)


def test_retain_images_get_labels_drawn_from_the_base_model_s_probabilities(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, shares = 20_000, torch.tensor([0.6, 0.3, 0.1])
    logits = torch.tensor([0.0, 1.0, -2.0]).expand(count, 3)
    loss = loss_of(task, shares.log().expand(count, 3), monkeypatch, alpha=8.0)
    expected = -(shares * logits[0].log_softmax(0)).sum()
    found = float(loss(logits, batch_of(count, len(task.forget))))
    assert found == pytest.approx(float(expected), abs=0.03)


def test_the_mix_holds_all_forget_images_and_a_share_of_the_others(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = steps_of(task, "lotus", monkeypatch, epochs=2, batch_size=100, retain_share=0.25)
    drawn = [torch.cat([step.batch.at for step in steps]) for steps in epochs]
    for places in drawn:
        assert sorted(places.tolist()) == list(range(len(task.forget) + len(task.retain) // 4))
    assert not torch.equal(*drawn)
    assert {step.cost for step in epochs[0]} == {3}


@pytest.mark.parametrize(("wrong", "epochs"), [(0, 2), (20, 0)])
def test_no_epoch_begins_once_the_forget_accuracy_is_below_the_target(
    wrong: int, epochs: int, task: Task, trained: Checkpoint
) -> None:
    labels = task.forget.labels.clone()
    labels[:wrong] = 1
    task.forget = task.forget.relabel(labels)
    unlearn(task, "lotus", {"epochs": 2, "target_accuracy": 1.0, "retain_share": 0.1, "lr": 1e-6})
    assert len(task.curve) == epochs
    assert same_weights(task, trained) == (not epochs)


def test_random_images_need_the_accuracy_on_unseen_ones(digits: Dataset, trained: Checkpoint) -> None:
    task = task_of(digits, trained, ForgetRequest(share=0.1), 40)
    task.validation = task.validation.take(torch.arange(0))
    with pytest.raises(SalunError, match="'lotus': target_accuracy: there are no validation images; give them, or"):
        unlearn(task, "lotus", {"epochs": 1})
    assert same_weights(task, trained)
    unlearn(task, "lotus", {"epochs": 1, "target_accuracy": 0.9})
    assert len(task.curve) == 1
