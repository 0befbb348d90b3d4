from dataclasses import replace

import pytest
import torch
from problems import first_of, make_task, same_weights

from salun.data.sets import Sets
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn


@pytest.fixture
def task(sets: Sets, trained: Checkpoint) -> Task:
    return make_task(trained, first_of(sets, 48))


def slope(task: Task, sigma: float) -> float:
    x = next(task.forget.batches(len(task.forget))).x
    generator, found = torch.Generator().manual_seed(9), []
    for _ in range(30):
        other = (x + sigma * torch.randn(x.shape, generator=generator)).clamp(x.min(), x.max())
        with torch.no_grad():
            moved = task.model.eval()(x) - task.model(other)
        found.append((moved.norm(dim=1) / (other - x).flatten(1).norm(dim=1)).mean())
    return float(torch.stack(found).mean())


def test_the_loss_is_the_slope_summed_over_the_batch(task: Task) -> None:
    expected = slope(task, 0.5) * len(task.forget)
    unlearn(task, "jit", {"lr": 1e-12, "sigma": 0.5, "samples": 50, "batch_size": len(task.forget)})
    assert task.curve[0].loss == pytest.approx(expected, rel=0.05)


def test_it_sees_neither_retain_images_nor_labels(task: Task, trained: Checkpoint, sets: Sets) -> None:
    unlearn(task, "jit", {"samples": 3, "batch_size": 20})
    assert task.passes.forward == len(task.forget) * 4
    assert task.passes.backward == len(task.forget)
    other = make_task(trained, first_of(sets, 48))
    other.forget = other.forget.relabel((other.forget.labels + 1) % other.classes)
    other.retain = other.retain.take(torch.arange(1))
    unlearn(other, "jit", {"samples": 3, "batch_size": 20})
    assert same_weights(task, other)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_running_statistics_stay(batch_size: int, task: Task, trained: Checkpoint) -> None:
    task.forget = task.forget.take(torch.arange(5))
    unlearn(task, "jit", {"samples": 2, "batch_size": batch_size, "epochs": 2})
    assert same_weights(task, trained, dict(task.model.named_buffers()))


def test_images_of_one_colour_do_not_divide_by_zero(task: Task) -> None:
    task.forget = replace(task.forget, pixels=torch.zeros_like(task.forget.pixels))
    unlearn(task, "jit", {"samples": 2})
    assert all(bool(tensor.isfinite().all()) for tensor in task.model.parameters())
