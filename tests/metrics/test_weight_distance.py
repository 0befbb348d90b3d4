import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from salun.data.images import Images
from salun.data.transforms import Preparation
from salun.metrics import Models
from salun.metrics.weights import distance_to_base, distance_to_retrained
from salun.models.checkpoint import Checkpoint
from salun.training.recipe import Recipe

NOTHING, VIEW = torch.arange(0), Preparation((0.5,), (0.25,), 0, False)
NO_IMAGES = Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), NOTHING, NOTHING, torch.device("cpu"), VIEW)


def layers(*values: list[float]) -> nn.ParameterDict:
    """A model of one parameter a list."""
    return nn.ParameterDict({f"w{place}": nn.Parameter(torch.tensor(row)) for place, row in enumerate(values)})


def of(model: nn.Module, base: nn.Module, retrained: nn.Module | None = None) -> Models:
    return Models(model, base, retrained, NO_IMAGES, NO_IMAGES, Recipe())


def test_is_the_length_of_the_change_over_the_length_before() -> None:
    found, by_layer = distance_to_base(of(layers([3.0, 4.0], [0.0, 2.0]), layers([0.0, 4.0], [4.0, 2.0])))
    assert found == pytest.approx(5 / 6)
    assert by_layer == pytest.approx({"w0": 3 / 4, "w1": 4 / math.sqrt(20)})


def test_the_retrained_model_is_another_yardstick() -> None:
    model, base, retrained = layers([3.0]), layers([2.0]), layers([-1.0])
    assert distance_to_base(of(model, base, retrained))[0] == pytest.approx(0.5)
    assert distance_to_retrained(of(model, base, retrained)) == (pytest.approx(4), {"w0": pytest.approx(4)})
    assert distance_to_retrained(of(model, base)) == (None, None)


@pytest.mark.parametrize(("scale", "wanted"), [(1, 0), (0, 1), (2, 1), (-1, 2), (1.25, 0.25)])
def test_scaling_all_weights(trained: Checkpoint, scale: float, wanted: float) -> None:
    base, model = trained.restore(), trained.restore()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= scale
    for name, buffer in model.named_buffers():
        if "running" in name:  # statistics of batch normalisation are no weights
            buffer += 1
    found, by_layer = distance_to_base(of(model, base))
    assert found == pytest.approx(wanted)
    assert list(by_layer) == [name for name, _ in base.named_parameters()]
    assert all(value == pytest.approx(wanted) for value in by_layer.values())


def test_small_changes_among_large_weights_are_not_lost() -> None:
    # In float32 the sum of 10^8 and a million ones stays at 10^8.
    base = layers([1e4] + [0.0] * 10**6)
    model = deepcopy(base)
    with torch.no_grad():
        model["w0"][1:] = 1.0
    other = deepcopy(model)
    with torch.no_grad():
        other["w0"][0] = 0
    assert distance_to_base(of(base, model))[0] == pytest.approx(math.sqrt(1e6 / (1e8 + 1e6)), rel=1e-12)
    assert distance_to_base(of(other, base))[0] == pytest.approx(math.sqrt(1 + 1e-2), rel=1e-12)
    assert distance_to_base(of(layers([-3e38]), layers([3e38])))[0] == pytest.approx(2)


def test_weights_that_are_all_zero() -> None:
    zero, one = layers([0.0], [1.0]), layers([1.0], [1.0])
    assert distance_to_base(of(one, zero)) == (1, {"w0": None, "w1": 0})
    assert distance_to_base(of(zero, zero)) == (0, {"w0": 0, "w1": 0})
    assert distance_to_base(of(one, layers([0.0], [0.0])))[0] is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    broken, whole = layers([value], [1.0]), layers([1.0], [2.0])
    for models in (of(broken, whole), of(whole, broken)):
        found, by_layer = distance_to_base(models)
        assert found is None
        assert by_layer["w0"] is None
        assert by_layer["w1"] in (0.5, 1)
