from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from salun.data.images import Images
from salun.data.transforms import Preparation
from salun.metrics import METRICS, Models, evaluate, load_metrics
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.training.recipe import Recipe

load_metrics()
NAMES = sorted(name for name, found in METRICS.items() if found.subject is Models)
SIDES = {"resnet_tiny": 8, "vgg11_bn": 8, "test_vit": 32}
FAMILIES = list(SIDES)
CPU = torch.device("cpu")
COUNT = 6
CLASSES = 4


@pytest.fixture(autouse=True, scope="module")
def little_relearning() -> Iterator[None]:
    """Let models relearn a few images, as how many is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salun.metrics.relearn.spread", lambda images: images.take(torch.arange(min(4, len(images)))))
        yield


def network(family: str, seed: int, favourite: int) -> nn.Module:
    """An untrained model that takes all images for one class."""
    torch.manual_seed(seed)
    model = build(Architecture(family, CLASSES, 1, SIDES[family])).eval()
    with torch.no_grad():
        model.get_classifier().bias[favourite] += 2
    return model


@lru_cache
def problem(family: str) -> Models:
    """Three untrained models, and images that the base model classifies right and the others do not."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 1, SIDES[family], SIDES[family]), generator=generator, dtype=torch.uint8)
    images = Images(
        pixels, torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64), CPU, Preparation((0.5,), (0.25,), 1, False)
    )
    model, base, retrained = (network(family, seed, favourite) for seed, favourite in enumerate((1, 0, 2)))
    return Models(model, base, retrained, images, images, Recipe(epochs=1, lr=1.0, batch_size=6))


@lru_cache
def values(family: str) -> dict[str, Any]:
    return evaluate(problem(family), tuple(NAMES))


def in_use(model: nn.Module | None, training: bool) -> nn.Module:
    """A copy as it may stand in the middle of things: gradients, a frozen weight, a part in the other mode."""
    assert model is not None
    model = deepcopy(model).train(training)
    generator = torch.Generator().manual_seed(1)
    weights = list(model.parameters())
    for weight in weights[::2]:
        weight.grad = torch.rand(weight.shape, generator=generator)
    weights[1].requires_grad_(False)
    list(model.children())[-1].train(not training)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    """All that a metric could change."""
    held: dict[str, Any] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, weight in model.named_parameters():
        held[f"{name} grad"] = None if weight.grad is None else weight.grad.clone()
        held[f"{name} trainable"] = weight.requires_grad
    for name, module in model.named_modules():
        held[f"{name} mode"] = module.training
        held[f"{name} hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return held


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
    return bool(one == other)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_metric_changes_a_model_or_depends_on_the_state_that_it_is_in(family: str, training: bool) -> None:
    wanted, found = values(family), problem(family)
    model, base, retrained = (in_use(network, training) for network in (found.model, found.base, found.retrained))
    before = [state(network) for network in (model, base, retrained)]
    torch.manual_seed(training)
    drawn = torch.get_rng_state()
    assert evaluate(replace(found, model=model, base=base, retrained=retrained), tuple(NAMES)) == wanted
    assert torch.equal(torch.get_rng_state(), drawn)
    assert None not in wanted.values()
    for network, held in zip((model, base, retrained), before, strict=True):
        after = state(network)
        assert after.keys() == held.keys()
        assert [key for key in held if not same(held[key], after[key])] == []


def ideal(name: str) -> float:
    """Similarities are 1 of models that are alike, distances and delays 0."""
    return float(name.startswith("CKA"))


def split(value: Any) -> list[float]:
    """What of a metric's value is a number."""
    return [part for part in (value.values() if isinstance(value, dict) else [value]) if part is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_are_alike_are_ideal(family: str) -> None:
    found = problem(family)
    alike = replace(found, model=found.base, retrained=deepcopy(found.base))
    for name, value in evaluate(alike, tuple(NAMES)).items():
        assert split(value), name
        assert split(value) == pytest.approx([ideal(name)] * len(split(value)), abs=1e-9), name


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_differ_are_not_ideal(family: str) -> None:
    for name, value in values(family).items():
        assert max(abs(part - ideal(name)) for part in split(value)) > 1e-3, name


@pytest.mark.parametrize("name", NAMES)
def test_without_a_retrained_model(name: str) -> None:
    found = evaluate(replace(problem("resnet_tiny"), retrained=None), (name,))
    assert (found[name] is None) == ("retrained" in METRICS[name].against)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_few_forget_images(name: str, count: int) -> None:
    found = problem("resnet_tiny")
    value = evaluate(replace(found, forget=found.forget.take(torch.arange(count))), (name,))[name]
    # Weights are there without images; CKA needs 4 of them.
    assert (value is None) == (name.startswith("CKA") or (count == 0 and name == "relearn_time"))


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name: str) -> None:
    found = METRICS[name]
    assert found.cost == "weights"
    assert found.against
    assert not found.default
    assert all((found.summary, found.formula, found.blind, found.source, found.ideal))
    assert found.unit == "table" if name.endswith("_layers") else found.unit in ("", "epochs")
