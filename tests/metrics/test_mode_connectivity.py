import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.metrics import Models
from salun.metrics.barrier import barrier_to_base, barrier_to_retrained
from salun.training.recipe import Recipe


class Scale(nn.Module):
    """A model of one weight, with logits 0 and w x, and a counter."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.register_buffer("seen", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), self.weight * x.flatten(1)[:, 0]], 1)


IMAGES = Images.from_tensors(torch.ones(4, 1, 1, 1), [0, 1, 1, 1])


def between(first: float, second: float) -> Models:
    return Models(Scale(first), Scale(second), None, IMAGES, IMAGES, Recipe())


def test_models_of_one_basin_have_no_barrier() -> None:
    right, loss, curve = barrier_to_base(between(1.0, 2.0))
    assert (right, loss) == (0, 0)
    assert curve == {"0": 0.75, "0.25": 0.75, "0.5": 0.75, "0.75": 0.75, "1": 0.75}


def test_a_barrier_is_what_accuracy_and_loss_miss_of_the_straight_line() -> None:
    # From 0.75 down to 0.25 right: at the middle the logits are equal, and the first class is taken.
    right, loss, curve = barrier_to_base(between(1.0, -1.0))
    assert curve == {"0": 0.75, "0.25": 0.75, "0.5": 0.25, "0.75": 0.25, "1": 0.25}
    assert right == pytest.approx(0.25)
    assert loss == pytest.approx(0)  # cross-entropy is convex in one weight

    class Squared(Scale):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(x)), self.weight**2 * x.flatten(1)[:, 0]], 1)

    models = Models(Squared(2.0), Squared(1.0), Squared(-2.0), IMAGES, IMAGES, Recipe())
    right, loss, curve = barrier_to_retrained(models)
    ends, middle = ((math.log1p(math.exp(z)) + 3 * math.log1p(math.exp(-z))) / 4 for z in (4.0, 0.0))
    assert (right, loss) == (pytest.approx(0.5), pytest.approx(max(0.0, middle - ends), abs=1e-6))
    assert curve == {"0": 0.75, "0.25": 0.75, "0.5": 0.25, "0.75": 0.75, "1": 0.75}


def test_what_is_no_number_or_lacks_images_has_no_barrier() -> None:
    right, loss, curve = barrier_to_base(between(math.nan, 1.0))
    assert (right, loss) == (None, None)
    assert curve is not None
    empty = IMAGES.take(torch.arange(0))
    assert barrier_to_base(replace(between(1.0, 2.0), retain=empty)) == (None, None, None)
