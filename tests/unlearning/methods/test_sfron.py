from itertools import cycle
from math import cos, pi

import pytest
import torch
import torch.nn.functional as F
from plain_training import small_task
from torch import Tensor, nn

from salun.unlearning import Task, unlearn

SETTINGS = {"lr": 0.05, "batch_size": 6, "epochs": 2, "schedule": "constant", "alpha": 3.0, "forget_every": 2}


def make() -> Task:
    return small_task(12, 28)


def squares(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    model.eval()
    total = [torch.zeros_like(weight) for weight in model.parameters()]
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for summed, weight in zip(total, model.parameters(), strict=True):
            summed += weight.grad.square() / len(batches)
    return total


def by_hand(gamma: float, power: float, beta: float, dual: float | None, clip: float, each: str) -> dict[str, Tensor]:
    task = make()
    model, weights = task.model, list(task.model.parameters())
    size = 6 if each == "batch" else 1
    fishers = [squares(model, [(b.x, b.y) for b in images.batches(size)]) for images in (task.forget, task.retain)]
    salient = [(f + 1e-15) / (r + 1e-15) >= gamma for f, r in zip(*fishers, strict=True)]
    own = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=5e-4)
    other = own if dual is None else torch.optim.AdamW(weights, lr=dual, weight_decay=0.05)
    model.train()
    forget, retain = cycle(task.forget.batches(6)), [*task.retain.batches(6)] * 2
    for step, batch in enumerate(retain):
        before = [weight.detach().clone() for weight in weights]
        if step % 2 == 0:
            lost = next(forget)
            losses = F.cross_entropy(model(lost.x), lost.y, reduction="none")
            shares = losses.detach().pow(-power)
            other.zero_grad()
            (-3.0 * 0.5 * (1 + cos(pi * step / len(retain))) * (shares / shares.sum() * losses).sum()).backward()
            for weight, chosen in zip(weights, salient, strict=True):
                weight.grad *= chosen
            nn.utils.clip_grad_norm_(weights, clip)
            other.step()
        own.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        nn.utils.clip_grad_norm_(weights, clip)
        own.step()
        with torch.no_grad():
            for weight, slow in zip(weights, before, strict=True):
                weight.copy_((1 - beta) * slow + beta * weight)
    return model.state_dict()


@pytest.mark.parametrize(
    ("gamma", "power", "beta", "dual", "clip", "each"),
    [
        (1.0, 0.5, 1.0, None, 7.0, "batch"),
        (0.0, 0.0, 1.0, None, 0.3, "batch"),
        (1.0, 0.5, 0.6, None, 7.0, "image"),
        (1.0, 0.5, 1.0, 0.003, 7.0, "batch"),
        (2.0, 1.0, 0.5, 0.003, 0.5, "image"),
    ],
)
def test_is_salient_ascent_and_repair(
    gamma: float, power: float, beta: float, dual: float | None, clip: float, each: str
) -> None:
    task = make()
    own = {"gamma": gamma, "power": power, "beta": beta, "grad_clip": clip, "fisher": each}
    unlearn(task, "sfron", SETTINGS | own | {"dual": dual or False})
    expected = by_hand(gamma, power, beta, dual, clip, each)
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, expected[key], atol=2e-5), key


def test_slow_weights_that_do_not_follow_stay() -> None:
    task = make()
    unlearn(task, "sfron", SETTINGS | {"beta": 0.0})
    assert all(torch.equal(a, b) for a, b in zip(task.model.parameters(), make().model.parameters(), strict=True))


def test_a_budget_that_stops_it_leaves_no_hooks() -> None:
    task = make()
    task.passes.budget = 2 * (len(task.forget) + len(task.retain)) + 1
    unlearn(task, "sfron", SETTINGS)
    assert all(not weight._backward_hooks for weight in task.model.parameters())
