import pytest
import timm
import torch
from torch import nn

from salun.unlearning.layers import first_layer, head_layers, matrices, reset_layers


class Plain(nn.Module):
    """A network without convolutions and without `get_classifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU())
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(x))


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("resnet18", ["conv1"], ["fc"]), ("test_vit", ["patch_embed.proj"], ["head"])],
)
def test_of_models_of_timm(name: str, first: list[str], last: list[str]) -> None:
    model = timm.create_model(name, num_classes=3)
    assert list(first_layer(model)) == first
    assert list(head_layers(model)) == last


def test_of_a_model_without_convolutions_and_without_a_known_head() -> None:
    model = Plain()
    (first,) = first_layer(model).values()
    assert first is model.body[1]
    assert matrices(first) == [model.body[1].weight]
    assert list(head_layers(model)) == ["out"]


def test_reset_layers_take_the_values_of_another_model_and_no_other_layer_does() -> None:
    model, other = Plain(), Plain()
    before = model.body[1].weight.detach().clone()
    reset_layers(head_layers(model), other)
    assert torch.equal(model.out.weight, other.out.weight)
    assert torch.equal(model.out.bias, other.out.bias)
    assert torch.equal(model.body[1].weight, before)
