from itertools import cycle
from math import cos, pi
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_training import small_task
from torch import Tensor

from salun.unlearning import Task, unlearn

SETTINGS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 4, "epochs": 2}


def make() -> Task:
    return small_task(10, 30)


def by_hand(rho: float, free: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Move the weights up the forget loss and back in every step, only those whose names begin as given."""
    task = make()
    weights = [weight for name, weight in task.model.named_parameters() if name.startswith(free)]
    updates = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.01)
    task.model.train()
    number, steps = 0, 2 * 8
    for _ in range(2):
        for kept, lost in zip(task.retain.batches(4), cycle(task.forget.batches(4)), strict=False):
            radius = rho * (1 + cos(pi * number / steps)) / 2
            logits = task.model(torch.cat([lost.x, kept.x]))[: len(lost.x)]
            gradients = torch.autograd.grad(F.cross_entropy(logits, lost.y), weights)
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            before = [weight.detach().clone() for weight in weights]
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.data += radius * gradient / norm
            updates.zero_grad()
            F.cross_entropy(task.model(kept.x), kept.y).backward()
            for weight, value in zip(weights, before, strict=True):
                weight.data = value
            updates.step()
            number += 1
    return task.model.state_dict()


@pytest.mark.parametrize("rho", [0.0, 0.3, 2.0])
def test_descends_on_the_retain_loss_from_where_the_forget_loss_is_higher(rho: float) -> None:
    task, expected = make(), by_hand(rho)
    unlearn(task, "uam", SETTINGS | {"rho": rho})
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor.float(), expected[key].float(), atol=1e-5), key


def test_under_a_mask_the_way_up_is_of_the_weights_that_may_move() -> None:
    task, expected = make(), by_hand(2.0, ("fc.weight", "fc.bias"))
    mask = {name: torch.full_like(weight, "fc" in name) > 0 for name, weight in task.model.named_parameters()}
    unlearn(task, "uam", SETTINGS | {"rho": 2.0}, mask)
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor.float(), expected[key].float(), atol=1e-5), key


def test_both_sets_are_counted_and_the_retain_images_twice() -> None:
    task = make()
    unlearn(task, "uam", {"batch_size": 5, "epochs": 1})
    steps = len(task.retain) // 5
    assert task.passes.forward == task.passes.backward == 2 * len(task.retain) + 5 * steps


@pytest.mark.parametrize("budget", [15, 16, 17, 40])
def test_a_last_step_has_forget_images_however_few(budget: int) -> None:
    task = make()
    task.passes.budget = budget
    unlearn(task, "uam", {"batch_size": 5, "epochs": 1})
    assert task.diverged is None
    assert budget - 12 < task.passes.total <= budget
