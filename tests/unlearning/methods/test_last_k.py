from collections.abc import Callable
from functools import partial

import pytest
import torch
from problems import first_of, make_task
from torch import nn

from salun.data.sets import Sets
from salun.device import seed_globally
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn

STILL = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0, "batch_size": 64}
both = pytest.mark.parametrize("name", ["cf_k", "eu_k"])


@pytest.fixture
def task(sets: Sets, trained: Checkpoint) -> Task:
    return make_task(trained, first_of(sets, 128))


def moved(task: Task, trained: Checkpoint) -> list[str]:
    return [key for key, weight in task.model.named_parameters() if not torch.equal(weight, trained.weights[key])]


def close(one: nn.Module, other: nn.Module, first: int = 0) -> bool:
    pairs = [*zip(one.parameters(), other.parameters(), strict=True)][first:]
    return all(torch.allclose(weight, before, atol=1e-6) for weight, before in pairs)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    seed_globally(7)
    return build()


@both
def test_the_head_alone_moves(name: str, task: Task, trained: Checkpoint) -> None:
    unlearn(task, name, {"lr": 0.1, "epochs": 1, "batch_size": 64})
    head = {name for name, module in task.model.named_modules() if module is task.model.get_classifier()}
    assert {key.rpartition(".")[0] for key in moved(task, trained)} == head
    assert all(weight.requires_grad for weight in task.model.parameters())


@both
def test_more_layers_move_from_the_end_on(name: str, task: Task, trained: Checkpoint) -> None:
    unlearn(task, name, {"k": 3, "lr": 0.1, "epochs": 1, "batch_size": 64})
    names = [key for key, _ in task.model.named_parameters()]
    found = moved(task, trained)
    assert found == names[-len(found) :]
    assert sum(task.model.get_parameter(key).ndim > 1 for key in found) == 3


def test_cf_k_starts_from_the_trained_weights(task: Task, trained: Checkpoint) -> None:
    unlearn(task, "cf_k", {"k": 3, **STILL})
    assert close(task.model, trained.restore())


def test_eu_k_starts_from_fresh_weights(task: Task) -> None:
    task.fresh = partial(seeded, task.fresh)
    expected = task.fresh()
    unlearn(task, "eu_k", {"k": 3, **STILL})
    start = [place for place, weight in enumerate(expected.parameters()) if weight.ndim > 1][-3]
    assert close(task.model, expected, start)
    assert not torch.allclose(next(task.model.parameters()), next(expected.parameters()), atol=1e-2)


def test_eu_k_of_all_layers_keeps_nothing_of_the_trained_model(task: Task) -> None:
    task.fresh = partial(seeded, task.fresh)
    task.retain = task.retain.take(torch.arange(64))
    unlearn(task, "eu_k", {"k": 1000, **STILL})
    assert close(task.model, task.fresh())
    counts = [int(layer.num_batches_tracked) for layer in task.model.modules() if hasattr(layer, "num_batches_tracked")]
    assert set(counts) == {1}
