"""Every method on the models that papers use, one small step each: with BatchNorm and without."""

from functools import partial
from typing import Any

import pytest
import torch
from test_every_method import MASKABLE, quick

from salun.data.images import Images
from salun.device import seed_globally
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, Task, unlearn
from salun.unlearning.mask import saliency

CPU = torch.device("cpu")
SIZE, CLASSES = 32, 3
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "vgg16_bn", "vit_tiny_patch16_224")]
MODELS = ("test_vit", *LARGE)
FEWER: dict[str, Any] = {"batch_size": 6, "epochs": 1, "lr": 0.001}


def images(count: int, seed: int, labels: torch.Tensor) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count), labels, CPU, lambda stored, draw: as_input(stored))


def as_input(stored: torch.Tensor) -> torch.Tensor:
    return (stored / 255 if stored.dtype == torch.uint8 else stored) * 4 - 2


@pytest.fixture(scope="module", params=MODELS)
def task(request: pytest.FixtureRequest) -> Task:
    """A forgetting problem that methods take a copy of the weights of."""
    architecture = Architecture(request.param, CLASSES, 3, SIZE)
    seed_globally(0)
    return Task(
        model=build(architecture),
        forget=images(4, 0, torch.zeros(4, dtype=torch.int64)),
        retain=images(8, 1, torch.tensor([1, 2] * 4)),
        validation=images(4, 2, torch.tensor([1, 2] * 2)),
        classes=CLASSES,
        forgotten=(0,),
        recipe=Recipe(epochs=1, lr=0.001, batch_size=4),
        fresh=partial(build, architecture),
        generator=torch.Generator(),
    )


def small(name: str) -> dict[str, Any]:
    settings = METHODS[name].settings
    return quick(name) | {key: value for key, value in FEWER.items() if key in settings}


@pytest.mark.parametrize("name", MASKABLE)
def test_runs_under_a_mask_on_every_architecture(task: Task, name: str) -> None:
    start = {key: tensor.clone() for key, tensor in task.model.state_dict().items()}
    try:
        task.generator.manual_seed(0)
        seed_globally(0)
        mask = saliency(task.model, task.forget, 0.5, "random", generator=task.generator)
        unlearn(task, name, small(name), mask)
        moved = False
        for key, weight in task.model.named_parameters():
            assert bool(weight.isfinite().all()), key
            assert torch.equal(weight[~mask[key]], start[key][~mask[key]]), key
            moved = moved or not torch.equal(weight, start[key])
        assert moved
        assert all(weight.requires_grad for weight in task.model.parameters())
        assert task.model.state_dict().keys() == start.keys()
    finally:
        task.model.load_state_dict(start)
        task.curve, task.diverged = (), None


def test_retrains_every_architecture(task: Task) -> None:
    start = {key: tensor.clone() for key, tensor in task.model.state_dict().items()}
    unlearn(task, "retrain")
    assert any(not torch.equal(weight, start[key]) for key, weight in task.model.named_parameters())
    task.model.load_state_dict(start)
