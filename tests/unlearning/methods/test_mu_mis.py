from typing import Any

import pytest
import torch
from plain_training import in_order
from problems import first_of, make_task, same_weights
from torch import Tensor, nn

from salun.data.sets import Sets
from salun.models.checkpoint import Checkpoint
from salun.training.recipe import Recipe
from salun.unlearning import Task, unlearn


def task_of(model: nn.Module, forget_labels: Tensor, retain: int = 5) -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(len(forget_labels) + retain, 1, 3, 3, generator=generator)
    forget = in_order(x[: len(forget_labels)], forget_labels)
    kept = in_order(x[len(forget_labels) :], torch.arange(retain) % 2)
    return Task(
        model=model,
        forget=forget,
        retain=kept,
        validation=kept.take(torch.arange(0)),
        classes=2,
        forgotten=(),
        recipe=Recipe(),
        fresh=lambda: model,
        generator=torch.Generator().manual_seed(0),
    )


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 2))


def curved() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 2))


def by_hand(labels: Tensor, lr: float, size: int, epochs: int) -> dict[str, Tensor]:
    """Take the steps from whole Jacobians of single images; of two classes, the other one is known."""
    model = curved()
    task = task_of(model, labels)
    updates = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        for batch in task.forget.batches(size):
            losses = []
            for x, y in zip(batch.x, batch.y, strict=True):
                jacobian = torch.autograd.functional.jacobian(lambda one: model(one[None])[0], x, create_graph=True)
                losses.append((jacobian[y] ** 2).sum() - (jacobian[1 - y] ** 2).sum())
            updates.zero_grad()
            torch.stack(losses).mean().backward()
            updates.step()
    return model.state_dict()


def test_lowers_the_squared_sensitivity_of_the_own_class_and_raises_that_of_another() -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected, task = by_hand(labels, 0.05, 3, 2), task_of(curved(), labels)
    unlearn(task, "mu_mis", {"lr": 0.05, "batch_size": 3, "epochs": 2, "delta": 100.0})
    assert len(task.curve) == 2
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, expected[key], atol=1e-6), key


@pytest.mark.parametrize(("delta", "epochs"), [(0.5, 1), (1.05, 1), (1.15, 2), (1.25, 3), (9.0, 6)])
def test_ends_where_other_classes_are_as_sensitive_as_asked_for(delta: float, epochs: int) -> None:
    # Of a linear model the loss is ||w_0||^2 - ||w_1||^2: each step multiplies w_0 by 0.9, w_1 by 1.1.
    task = task_of(linear(), torch.zeros(6, dtype=torch.int64))
    before = linear().state_dict()["1.weight"]
    unlearn(task, "mu_mis", {"lr": 0.05, "batch_size": 6, "epochs": 6, "delta": delta})
    assert len(task.curve) == epochs
    factors = torch.tensor([[0.9], [1.1]]) ** epochs
    assert torch.allclose(task.model.state_dict()["1.weight"], factors * before, rtol=1e-5)


def test_a_sensitivity_that_does_not_rise_ends_nothing() -> None:
    # Half of the images are of either class: their losses cancel out, and the weights of a linear model stay.
    task = task_of(linear(), torch.tensor([0, 1, 0, 1]))
    unlearn(task, "mu_mis", {"lr": 0.05, "batch_size": 4, "epochs": 3, "delta": 0.1})
    assert len(task.curve) == 3


@pytest.fixture
def digits_task(sets: Sets, trained: Checkpoint) -> Task:
    return make_task(trained, first_of(sets, 32))


def test_it_sees_no_retain_image_and_leaves_running_statistics(
    digits_task: Task, trained: Checkpoint, sets: Sets
) -> None:
    settings: dict[str, Any] = {"lr": 1e-4, "epochs": 2, "batch_size": 20, "delta": 9.0}
    unlearn(digits_task, "mu_mis", settings)
    other = make_task(trained, first_of(sets, 32))
    other.retain = other.retain.take(torch.arange(1))
    other.validation = other.validation.take(torch.arange(0))
    unlearn(other, "mu_mis", settings)
    assert same_weights(digits_task, other)
    assert same_weights(digits_task, trained, dict(digits_task.model.named_buffers()))
    assert not same_weights(digits_task, trained)


def test_two_gradients_of_each_image_are_counted_and_one_where_sensitivities_are_compared(digits_task: Task) -> None:
    unlearn(digits_task, "mu_mis", {"lr": 1e-6, "epochs": 2, "batch_size": 20, "delta": 9.0})
    assert digits_task.passes.counts == {"forward": 2 * (32 + 32), "backward": 2 * (32 + 64)}
