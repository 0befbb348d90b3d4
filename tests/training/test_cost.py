from copy import deepcopy

import pytest
import torch
from reference import raw_images
from torch import Tensor, nn

from salun.training.cost import PassCounter
from salun.unlearning.gradients import image_gradients


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))


def test_forward_and_backward_are_counted_apart(model: nn.Module) -> None:
    passes, x = PassCounter(), torch.rand(6, 3, 8, 8)
    with passes.counting(model):
        model(x).sum().backward()
        model(x[:4]).sum().backward()
        with torch.no_grad():
            model(x[:2])
        model(x)
        with passes.paused():  # what is looked at aside
            model(x).sum().backward()
    model(x).sum().backward()
    assert (passes.forward, passes.backward, passes.total) == (18, 10, 28)


def test_a_gradient_of_the_input_alone_counts(model: nn.Module) -> None:
    passes, x = PassCounter(), torch.rand(5, 3, 8, 8, requires_grad=True)
    model.requires_grad_(False)
    with passes.counting(model):
        torch.autograd.grad(model(x).sum(), x)
    assert (passes.forward, passes.backward) == (5, 5)


def test_copies_are_counted_too(model: nn.Module) -> None:
    passes = PassCounter()
    with passes.counting(model):
        teacher = deepcopy(model)
        teacher(torch.rand(3, 3, 8, 8))
    assert passes.forward == 3


def test_single_images_in_vmap_count_one_each(model: nn.Module) -> None:
    passes = PassCounter()
    with passes.counting(model):
        found = list(image_gradients(model, raw_images(torch.rand(70, 3, 8, 8), torch.arange(70) % 10)))
    assert sum(len(gradients["3.weight"]) for gradients in found) == 70
    assert (passes.forward, passes.backward) == (70, 70)


@pytest.mark.parametrize(("budget", "spent"), [(None, False), (14, False), (13, True), (12, True), (1, True)])
def test_a_budget_is_of_both_together(model: nn.Module, budget: int | None, spent: bool) -> None:
    passes = PassCounter(budget=budget)
    with passes.counting(model):
        output: Tensor = model(torch.rand(6, 3, 8, 8))
        output.sum().backward()
    assert passes.left == (float("inf") if budget is None else budget - 12)
    assert passes.exhausted is spent
    with passes.reserving(2):
        assert passes.exhausted is (budget is not None)
    assert passes.exhausted is spent
