"""What the metrics that ask whether forgotten images are gone say of retrained models, and of one that is not."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from outputs import holds
from problems import first_of
from torch import nn

from salun.data.images import Images
from salun.data.sets import Sets
from salun.metrics import METRICS, Models, check_metrics, evaluate
from salun.training.evaluate import predict
from salun.training.loop import train
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime

RECIPE = Recipe(epochs=15, lr=0.1, batch_size=32, schedule="cosine")
RETRAINED = 8
GONE = [name for name in check_metrics(("gone",)) if METRICS[name].subject is Models and METRICS[name].unit != "table"]
ASKED = [name for name in GONE if name != "relearn_time"]
IDEALS = {"IDI": 0.0, "Apollo_under": 0.5, "Apollo_over": 0.5}


class Net(nn.Module):
    """A network of two hidden layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def trained_on(images: Images, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model, generator = Net(), torch.Generator().manual_seed(seed)
    train(model, images, images.take(torch.arange(0)), RECIPE, generator, Runtime())
    return model.eval()


@pytest.fixture(scope="module")
def few(sets: Sets) -> Sets:
    """Zeros to forget, and a few hundred other digits."""
    return first_of(sets, 300)


@pytest.fixture(scope="module")
def networks(few: Sets) -> tuple[nn.Module, list[nn.Module]]:
    """A base model, and several that were trained without the zeros."""
    return trained_on(few.forget.join(few.retain), 100), [trained_on(few.retain, seed) for seed in range(RETRAINED)]


def compared(few: Sets, model: nn.Module, base: nn.Module, retrained: nn.Module) -> Models:
    sets = {"forget": few.forget, "retain": few.retain, "test": few.test, "forgotten_test": few.forgotten_test}
    return Models(model, base, retrained, recipe=RECIPE, **sets)


@pytest.fixture(scope="module")
def retrained_values(few: Sets, networks: tuple[nn.Module, list[nn.Module]]) -> dict[str, Sequence[float]]:
    """What every metric says of every retrained model, beside the next one."""
    base, gold = networks
    pairs = pairwise([*gold, gold[0]])
    found: list[dict[str, Any]] = [evaluate(compared(few, one, base, other), tuple(ASKED)) for one, other in pairs]
    return {name: [values[name] for values in found] for name in ASKED}


def headless(base: nn.Module) -> nn.Module:
    """The base model with a head that never says the forgotten class."""
    model: Any = deepcopy(base)
    with torch.no_grad():
        model.head.weight[0] = 0
        model.head.bias[0] = -100
    return model


@pytest.mark.parametrize("name", ASKED)
def test_retrained_models_are_ideal_beside_retrained_models(
    retrained_values: dict[str, Sequence[float]], name: str
) -> None:
    values = retrained_values[name]
    if name in IDEALS:
        assert set(values) == {IDEALS[name]} or holds(values, IDEALS[name])
    else:  # as retrained: one half of the models beside the other half
        apart = [one - other for one, other in zip(values[::2], values[1::2], strict=True)]
        assert not any(apart) or holds(apart, 0)


def test_a_model_that_changed_its_head_alone_is_found_out(
    few: Sets, networks: tuple[nn.Module, list[nn.Module]], retrained_values: dict[str, Sequence[float]]
) -> None:
    base, gold = networks
    model = headless(base)
    assert not predict(model, few.forget).correct.any()  # UA says that all is forgotten
    found = evaluate(compared(few, model, base, gold[0]), ("probe_forget", "kNN_forget", "IDI"))
    assert found["IDI"] == pytest.approx(1)
    for name in ("probe_forget", "kNN_forget"):
        assert found[name] > max(retrained_values[name]), name
    assert max(retrained_values["relearn_retain"]) == 0


def test_it_all_takes_seeds_of_its_own(few: Sets, networks: tuple[nn.Module, list[nn.Module]]) -> None:
    base, gold = networks
    models = compared(first_of(few, 60), headless(base), base, gold[0])
    names = ("IDI_layers", "relearn_few_curve")
    torch.manual_seed(1)
    first = evaluate(models, names)
    torch.manual_seed(2)
    assert evaluate(models, names) == first
    assert evaluate(replace(models, seed=1), names) != first
