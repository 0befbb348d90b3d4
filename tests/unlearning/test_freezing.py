import pytest
import torch
from torch import nn

from salun.unlearning.freezing import last_layers, training_only


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.Linear(4, 4)


class Model(nn.Module):
    """A token of its own, a convolution, two blocks with a scale each, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.stem = nn.Conv2d(1, 4, 3)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)


def trained(model: nn.Module, k: int) -> set[str]:
    with training_only(model, last_layers(model, k).values()):
        return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_the_last_layers_are_trained_with_what_stands_after_them_and_a_blocks_own_weight_with_the_block() -> None:
    head = {"head.weight", "head.bias"}
    assert trained(Model(), 1) == head
    assert trained(Model(), 2) == head | {"blocks.1.inner.weight", "blocks.1.inner.bias", "norm.weight", "norm.bias"}
    assert "blocks.1.scale" in trained(Model(), 3)
    assert "blocks.0.scale" not in trained(Model(), 3)
    assert "token" not in trained(Model(), 4)


@pytest.mark.parametrize("k", [5, 50])
def test_more_layers_than_there_are_is_the_whole_model(k: int) -> None:
    model = Model()
    assert trained(model, k) == {name for name, _ in model.named_parameters()}


def test_weights_take_a_gradient_afterwards_where_they_did_before() -> None:
    model = Model()
    model.stem.weight.requires_grad_(False)
    before = [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(RuntimeError), training_only(model, [model.head]):
        raise RuntimeError
    assert [weight.requires_grad for weight in model.parameters()] == before
