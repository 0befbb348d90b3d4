from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from elsewhere import elsewhere, moved
from timm.models import VGG, register_model
from torch import nn

from salun.data.images import Images
from salun.data.transforms import Preparation
from salun.device import placed
from salun.metrics import METRICS, Models, evaluate, load_metrics
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.training.recipe import Recipe

load_metrics()
NAMES = sorted(name for name, found in METRICS.items() if found.subject is Models)
SIDES = {"resnet_tiny": 8, "vgg_narrow": 8, "test_vit": 32}
FAMILIES = list(SIDES)
CPU = torch.device("cpu")
COUNT = 6
CLASSES = 4


@register_model
def vgg_narrow(**settings: Any) -> nn.Module:
    """timm's VGG-11 with batch normalisation and few channels."""
    widths = (4, "M", 8, "M", 8, 8, "M", 16, 16, "M", 16, 16, "M")
    shape = {key: settings[key] for key in ("num_classes", "in_chans")}
    return cast(nn.Module, VGG(widths, norm_layer=nn.BatchNorm2d, **shape))


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
    view = Preparation((0.5,), (0.25,), 1, False)
    forget = Images(pixels, torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64), CPU, view)
    retain = replace(forget, pixels=255 - pixels, labels=torch.arange(COUNT) % (CLASSES - 1) + 1)
    test, forgotten = (replace(images, pixels=images.pixels.flip(3)) for images in (retain, forget))
    model, base, retrained = (network(family, seed, favourite) for seed, favourite in enumerate((1, 0, 2)))
    recipe = Recipe(epochs=1, lr=1.0, batch_size=6)
    return Models(model, base, retrained, forget, retain, recipe, test=test, forgotten_test=forgotten)


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
    # Untrained models may tell forget from retain images alike, so that there is nothing to divide by.
    assert {name for name in NAMES if wanted[name] is None} <= {"IDI"}
    for network, held in zip((model, base, retrained), before, strict=True):
        after = state(network)
        assert after.keys() == held.keys()
        assert [key for key in held if not same(held[key], after[key])] == []


IDEALS = {"CKA": 1.0, "Apollo": 0.5, "weight_distance": 0.0, "relearn_time": 0.0, "barrier": 0.0}
COMPARED = [name for name in NAMES if name.startswith(tuple(IDEALS)) and not name.endswith("_curve")]


def ideal(name: str) -> float:
    """Similarities are 1 of models that are alike, distances, delays and barriers 0, areas 0.5."""
    return next(value for prefix, value in IDEALS.items() if name.startswith(prefix))


def split(value: Any) -> list[float]:
    """What of a metric's value is a number."""
    return [part for part in (value.values() if isinstance(value, dict) else [value]) if part is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_are_alike_are_ideal(family: str) -> None:
    found = problem(family)
    alike = replace(found, model=found.base, retrained=deepcopy(found.base), forgotten_test=found.forget)
    for name, value in evaluate(alike, tuple(COMPARED)).items():
        assert split(value), name
        assert split(value) == pytest.approx([ideal(name)] * len(split(value)), abs=1e-9), name


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_differ_are_not_ideal(family: str) -> None:
    found = values(family)
    for name in COMPARED:
        if not name.startswith(("Apollo", "barrier")):  # which tell models apart that were trained
            assert max(abs(part - ideal(name)) for part in split(found[name])) > 1e-3, name


@pytest.mark.parametrize("name", NAMES)
def test_without_a_retrained_model(name: str) -> None:
    found = evaluate(replace(problem("resnet_tiny"), retrained=None), (name,))
    assert (found[name] is None) == ("retrained" in METRICS[name].against)


@pytest.mark.parametrize("name", NAMES)
def test_without_test_images(name: str) -> None:
    found = evaluate(replace(problem("resnet_tiny"), test=None, forgotten_test=None), (name,))
    assert (found[name] is None) == (name in ("probe_test", "kNN_test", "Apollo_under", "Apollo_over", "IDI"))


# Of how many forget images, at least, a metric has a value; weights are there without images.
FEWEST = {
    "CKA": 4, "IDI_layers": 3, "IDI": 99, "relearn_few": 2, "relearn": 1, "probe_forget": 1, "kNN_forget": 1,
    "Apollo": 1,
}  # fmt: skip


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_few_forget_images(name: str, count: int) -> None:
    found = problem("resnet_tiny")
    value = evaluate(replace(found, forget=found.forget.take(torch.arange(count))), (name,))[name]
    assert (value is None) == (count < next((least for key, least in FEWEST.items() if name.startswith(key)), 0))


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name: str) -> None:
    found = METRICS[name]
    assert found.cost == "weights"
    assert found.against or found.gone
    assert not found.default
    assert all((found.summary, found.formula, found.blind, found.source, found.ideal))
    table = name.endswith(("_layers", "_curve"))
    assert found.unit == "table" if table else found.unit in ("", "epochs", "%", "nats")


def flat(value: Any) -> list[float]:
    if isinstance(value, dict | list | tuple):
        return [number for part in (value.values() if isinstance(value, dict) else value) for number in flat(part)]
    return [] if value is None else [float(value)]


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
@pytest.mark.parametrize("name", NAMES)
def test_a_metric_has_the_same_value_on_another_device(name: str) -> None:
    subject = problem("resnet_tiny")
    with elsewhere() as device:
        held = {field.name: getattr(subject, field.name) for field in fields(subject)}
        images = {key: moved(value) for key, value in held.items() if isinstance(value, Images)}
        models = {key: placed(deepcopy(value), device) for key, value in held.items() if isinstance(value, nn.Module)}
        found = evaluate(replace(subject, **images, **models), (name,))
    assert flat(found[name]) == pytest.approx(flat(values("resnet_tiny")[name]), rel=0.01, abs=0.01)
    assert np.isfinite(flat(found[name])).all()
