from typing import Any

import pytest
import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.metrics import Models
from salun.metrics.idi import information_difference_index
from salun.metrics.probe import linear_probe, nearest_neighbours
from salun.training.recipe import Recipe


class Scaled(nn.Module):
    """Passes the first two pixels on, each times a weight, to a head that says nothing."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.body.weight.copy_(torch.diag(torch.tensor(weights)))
            self.head.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)))


def cloud(x: float, y: float, label: int, seed: int, count: int = 30) -> Images:
    generator = torch.Generator().manual_seed(seed)
    points = torch.tensor([x, y]) + 0.3 * torch.randn(count, 2, generator=generator)
    return Images.from_tensors(points.view(count, 1, 1, 2), [label] * count)


FORGET, UNSEEN = cloud(4, 4, 0, 1), cloud(4, 4, 0, 2, 10)
RETAIN = cloud(4, -4, 1, 3).join(cloud(-4, -4, 2, 4))
# The first pixel tells class 2 from the others; the second one class 0.
SEEING, BLIND = Scaled(1.0, 1.0), Scaled(1.0, 0.0)


def of(model: nn.Module, **others: Any) -> Models:
    known = {"base": SEEING, "retrained": BLIND, "test": RETAIN, "forgotten_test": UNSEEN} | others
    return Models(model, forget=FORGET, retain=RETAIN, recipe=Recipe(), **known)


@pytest.mark.parametrize("classify", [linear_probe, nearest_neighbours])
def test_finds_a_class_that_the_head_does_not_know(classify: Any) -> None:
    assert classify(of(SEEING)) == (1, 1)


def test_finds_nothing_where_features_say_nothing() -> None:
    # Classes 0 and 1 lie in one place, by the first pixel alone.
    for classify in (linear_probe, nearest_neighbours):
        forget, unseen = classify(of(BLIND))
        assert forget < 0.8
        assert unseen < 0.8


def test_without_forgotten_test_images_the_test_set_is_asked() -> None:
    assert linear_probe(of(BLIND, forgotten_test=None))[1] > 0.6
    assert linear_probe(of(SEEING, forgotten_test=None, test=UNSEEN))[1] == 1
    assert linear_probe(of(SEEING, forgotten_test=None, test=None)) == (1, None)


def test_a_model_without_a_known_head_has_no_value() -> None:
    class Bare(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    assert linear_probe(of(Bare(1.0, 1.0))) == (None, None)


def test_features_that_are_no_numbers_have_no_value() -> None:
    assert linear_probe(of(Scaled(1.0, float("nan")))) == (None, None)


def test_information_is_0_as_retrained_1_as_the_base_model_and_the_head_does_not_count() -> None:
    index, layers = information_difference_index(of(SEEING))
    assert index == 1
    assert layers == {"body": pytest.approx(0.65, abs=0.05)}
    assert information_difference_index(of(BLIND)) == (0, {"body": pytest.approx(0.15, abs=0.15)})
    part = information_difference_index(of(Scaled(0.0, 0.0)))
    assert part[0] < 0
    assert part[1] == {"body": 0}


def test_information_has_no_index_where_base_and_retrained_model_are_alike() -> None:
    index, layers = information_difference_index(of(BLIND, base=SEEING, retrained=SEEING))
    assert index is None
    assert layers is not None
