import pytest
import torch
import torch.nn.functional as F
from reference import SmallNetwork, arrays, raw_images, tensors
from torch import nn

from salun.data.images import Images
from salun.unlearning.gradients import (
    absolute_gradients,
    image_gradients,
    squared_gradients,
)


@pytest.fixture
def model() -> nn.Module:
    return SmallNetwork(tensors("saliency_mask_state"))


@pytest.fixture
def images() -> Images:
    data = arrays("saliency_mask")
    return raw_images(data["inputs"], data["labels"])


def one_by_one(model: nn.Module, images: Images) -> list[dict[str, torch.Tensor]]:
    model.eval()
    found = []
    for batch in images.batches(1):
        model.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        found.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    return found


def test_absolute_gradients_are_averaged_over_images(model: nn.Module, images: Images) -> None:
    loop = one_by_one(model, images)
    for name, values in absolute_gradients(model, images).items():
        expected = torch.stack([each[name].abs() for each in loop]).mean(0)
        torch.testing.assert_close(values, expected, atol=1e-7, rtol=1e-5)


def test_many_images_come_in_parts(model: nn.Module, images: Images) -> None:
    many = images.take(torch.arange(len(images)).repeat(4))
    counts = [len(found["fc.bias"]) for found in image_gradients(model, many)]
    assert sum(counts) == len(many)
    assert max(counts) <= 64
    assert len(counts) > 1


def test_squares_of_images_are_the_fisher_diagonal_and_those_of_batches_are_not(
    model: nn.Module, images: Images
) -> None:
    loop = one_by_one(model, images)
    of_images, of_batches = (squared_gradients(model, images, each, batch_size=8) for each in ("image", "batch"))
    singles = squared_gradients(model, images, "batch", batch_size=1)
    for name, values in of_images.items():
        expected = torch.stack([each[name].square() for each in loop]).mean(0)
        torch.testing.assert_close(values, expected, atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(singles[name], expected, atol=1e-7, rtol=1e-5)
    whole = (sum(float(values.sum()) for values in each.values()) for each in (of_images, of_batches))
    assert next(whole) > next(whole)


def test_the_model_is_left_as_it_was(model: nn.Module, images: Images) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    model.conv1.eval()
    list(image_gradients(model, images))
    squared_gradients(model, images, "batch", 8)
    assert model.training
    assert not model.conv1.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_take_no_gradient_have_none(model: nn.Module, images: Images) -> None:
    model.conv1.weight.requires_grad_(False)
    assert "conv1.weight" not in squared_gradients(model, images)
    assert "conv1.weight" not in squared_gradients(model, images, "batch")
