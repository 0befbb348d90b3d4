from dataclasses import replace

import pytest
import torch
from plain_training import in_order
from problems import same_weights
from torch import Tensor, nn

from salun.models.checkpoint import Checkpoint
from salun.training.recipe import Recipe
from salun.unlearning import Task, unlearn

MEANS = torch.tensor([[4.0, 0.0, 0.0, 3.0], [4.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]])


def small(model: nn.Module, forgotten: tuple[int, ...] = (0,), spread: float = 0.01, shape: int = 1) -> Task:
    """A task of inputs near the mean of their class, in four channels."""
    labels = torch.arange(3).repeat_interleave(20)
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    noise = noise - torch.stack([part.mean(0) for part in noise.split(20)]).repeat_interleave(20, 0)
    inputs = (MEANS[labels] + spread * noise)[:, :, None, None].expand(-1, -1, shape, shape).contiguous()
    gone = (labels[:, None] == torch.tensor(forgotten)).any(1)
    images = [in_order(inputs[part], labels[part]) for part in (gone, ~gone)]
    return Task(
        model=model,
        forget=images[0],
        retain=images[1],
        validation=images[1],
        classes=3,
        forgotten=forgotten,
        recipe=Recipe(),
        fresh=lambda: model,
        generator=torch.Generator().manual_seed(0),
    )


def linear_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 3))
    nn.init.eye_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    return model


def test_what_only_the_forgotten_class_has_no_longer_counts() -> None:
    model = linear_model()
    head = model[2].weight.detach().clone()
    unlearn(small(model), "damp")
    # Class 0 lies beside the span of the others along the last channel, and the probe tells it without a fault.
    expected = head * torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(model[2].weight.detach(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model[1].weight.detach(), torch.eye(4))


def test_several_classes_lose_a_subspace() -> None:
    model = linear_model()
    head = model[2].weight.detach().clone()
    unlearn(small(model, forgotten=(0, 2)), "damp")
    expected = head * torch.tensor([1.0, 0.0, 1.0, 0.0])
    torch.testing.assert_close(model[2].weight.detach(), expected, atol=1e-5, rtol=0)


def test_earlier_layers_lose_less() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4, bias=False) for _ in range(4)), nn.Linear(4, 3))
    for layer in model[1:5]:
        nn.init.eye_(layer.weight)
    head = model[5].weight.detach().clone()
    unlearn(small(model), "damp", {"stages": 4})
    for depth, layer in enumerate(model[2:5], 1):
        expected = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1 - depth / 4]))
        torch.testing.assert_close(layer.weight.detach(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model[5].weight.detach()[:, 3], torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(model[5].weight.detach()[:, :3], head[:, :3], atol=1e-5, rtol=0)


def test_a_convolution_is_projected_channel_by_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 5, 3, padding=1), nn.Flatten(), nn.Linear(80, 3))
    nn.init.dirac_(model[0].weight)
    kernel = model[1].weight.detach().clone()
    unlearn(small(model, shape=4), "damp", {"stages": 2})
    expected = kernel * torch.tensor([1.0, 1.0, 1.0, 0.5])[:, None, None]
    torch.testing.assert_close(model[1].weight.detach(), expected, atol=1e-5, rtol=0)


def test_inseparable_inputs_leave_the_layer_alone() -> None:
    model = linear_model()
    task = small(model)
    task.forget = replace(task.forget, pixels=task.retain.pixels[: len(task.forget)])
    head = model[2].weight.detach().clone()
    unlearn(task, "damp")
    torch.testing.assert_close(model[2].weight.detach(), head, atol=1e-6, rtol=0)


def test_a_mean_within_the_span_of_the_others_gives_no_direction() -> None:
    model = linear_model()
    task = small(model, spread=0.0)
    task.forget = replace(task.forget, pixels=(MEANS[1] + MEANS[2]).expand(20, 4)[:, :, None, None].clone())
    head = model[2].weight.detach().clone()
    unlearn(task, "damp")
    assert torch.equal(model[2].weight.detach(), head)


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_of_few_images_is_no_obstacle(count: int, task: Task, trained: Checkpoint) -> None:
    task.forget = task.forget.take(torch.arange(count))
    unlearn(task, "damp")
    assert all(bool(weight.isfinite().all()) for weight in task.model.parameters())
    assert not same_weights(task, trained)


def test_it_looks_once_at_every_image_and_trains_nothing(task: Task, trained: Checkpoint) -> None:
    unlearn(task, "damp")
    assert task.passes.forward == len(task.forget) + len(task.retain)
    assert task.passes.backward == 0
    moved: dict[str, Tensor] = dict(task.model.named_parameters())
    changed = [name for name, weight in moved.items() if not torch.equal(weight.detach(), trained.weights[name])]
    assert changed
    assert len(changed) <= 5
    assert changed[-1] == "fc.weight"
