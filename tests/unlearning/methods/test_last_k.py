from collections.abc import Callable
from functools import partial

import pytest
import torch
from problems import make_task
from torch import nn

from salun.data.dataset import Dataset
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.device import seed_globally
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn

CPU = torch.device("cpu")
STILL = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0, "batch_size": 64}


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    split = make_split(digits, ForgetRequest(classes=(0,)))
    every = make_sets(digits, split, prepare(digits, split), CPU)
    return Sets(**{name: images.take(torch.arange(min(128, len(images)))) for name, images in vars(every).items()})


@pytest.fixture
def task(sets: Sets, trained: Checkpoint) -> Task:
    return make_task(trained, sets)


def moved(task: Task, trained: Checkpoint) -> list[str]:
    start = trained.restore()
    return [
        name
        for (name, weight), before in zip(task.model.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(weight, before)
    ]


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_the_head_alone_moves(name: str, task: Task, trained: Checkpoint) -> None:
    unlearn(task, name, {"lr": 0.1, "epochs": 1, "batch_size": 64})
    head = {name for name, module in task.model.named_modules() if module is task.model.get_classifier()}
    assert {key.rpartition(".")[0] for key in moved(task, trained)} == head
    assert all(weight.requires_grad for weight in task.model.parameters())


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_more_layers_move_from_the_end_on(name: str, task: Task, trained: Checkpoint) -> None:
    unlearn(task, name, {"k": 3, "lr": 0.1, "epochs": 1, "batch_size": 64})
    names = [key for key, _ in task.model.named_parameters()]
    found = moved(task, trained)
    assert found == names[-len(found) :]
    assert sum(weight.ndim > 1 for key, weight in task.model.named_parameters() if key in found) == 3


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
def test_weights_take_a_gradient_again_after_it_diverged(name: str, task: Task) -> None:
    unlearn(task, name, {"lr": 1e38, "epochs": 3, "batch_size": 64})
    assert task.diverged is not None
    assert all(weight.requires_grad for weight in task.model.parameters())


def test_cf_k_starts_from_the_trained_weights(task: Task, trained: Checkpoint) -> None:
    unlearn(task, "cf_k", {"k": 3, **STILL})
    start = trained.restore()
    assert all(
        torch.allclose(weight, before, atol=1e-6)
        for weight, before in zip(task.model.parameters(), start.parameters(), strict=True)
    )


def test_eu_k_starts_from_fresh_weights(task: Task) -> None:
    build = task.fresh
    task.fresh = partial(seeded, build)
    expected = dict(seeded(build).named_parameters())
    unlearn(task, "eu_k", {"k": 3, **STILL})
    names = list(expected)
    start = [place for place, key in enumerate(names) if expected[key].ndim > 1][-3]
    assert all(torch.allclose(task.model.get_parameter(key), expected[key], atol=1e-6) for key in names[start:])
    assert not torch.allclose(task.model.get_parameter(names[0]), expected[names[0]], atol=1e-2)


def test_eu_k_of_all_layers_keeps_nothing_of_the_trained_model(task: Task, sets: Sets) -> None:
    build = task.fresh
    task.fresh = partial(seeded, build)
    task.retain = sets.retain.take(torch.arange(64))
    unlearn(task, "eu_k", {"k": 1000, **STILL})
    fresh = seeded(build)
    assert all(
        torch.allclose(weight, before, atol=1e-6)
        for weight, before in zip(task.model.parameters(), fresh.parameters(), strict=True)
    )
    counts = [int(layer.num_batches_tracked) for layer in task.model.modules() if hasattr(layer, "num_batches_tracked")]
    assert set(counts) == {1}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    seed_globally(7)
    return build()
