import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import task_of
from torch import nn

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, find_method, unlearn

STEP = {"epochs": 1, "batch_size": 96, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0,)), 96)


def renewed(task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """Where each weight differs from the trained one when the training begins."""
    monkeypatch.setattr(task, "fit", lambda stream, **rest: None)
    find_method("msg").run(task, **settings)
    return {name: weight != trained.weights[name] for name, weight in task.model.named_parameters()}


def convolutions(model: nn.Module) -> list[str]:
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def test_the_weights_of_the_smallest_gradient_are_drawn_anew(
    task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = renewed(task, trained, monkeypatch, share=0.3, batch_size=96)
    model = trained.restore().eval()
    for images, sign in ((task.retain, 1), (task.forget, -1)):
        batch = next(iter(images.batches(96)))
        (sign * F.cross_entropy(model(batch.x), batch.y)).backward()
    gradients = {name: weight.grad.abs() for name, weight in model.named_parameters() if weight.grad is not None}
    for name, changed in found.items():
        if name not in convolutions(model):
            assert not bool(changed.any()), name
            continue
        assert int(changed.sum()) == round(0.3 * changed.numel())
        assert float(gradients[name][changed].max()) <= float(gradients[name][~changed].min()) * 1.01 + 1e-9


def test_drawn_weights_have_the_spread_of_the_fan_out(
    task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(
        bool(found.all())
        for name, found in renewed(task, trained, monkeypatch, share=1.0).items()
        if name in convolutions(task.model)
    )
    weight = max((task.model.get_parameter(name) for name in convolutions(task.model)), key=torch.numel).detach()
    expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
    assert float(weight.std()) == pytest.approx(expected, rel=0.05)
    assert abs(float(weight.mean())) < expected / 10


def test_other_convolution_weights_learn_more_slowly(digits: Dataset, trained: Checkpoint) -> None:
    def change(damping: float) -> dict[str, torch.Tensor]:
        task = task_of(digits, trained, ForgetRequest(classes=(0,)), 96)
        unlearn(task, "msg", {**STEP, "lr": 0.1, "share": 0.0, "damping": damping})
        return {name: weight.detach() - trained.weights[name] for name, weight in task.model.named_parameters()}

    free, slow, still = change(1.0), change(0.25), change(0.0)
    for name in free:
        factor = 0.25 if name in convolutions(trained.restore()) else 1.0
        assert torch.allclose(slow[name], factor * free[name], rtol=1e-3, atol=1e-6), name
        assert bool(still[name].any()) == (factor == 1.0), name


def test_a_later_training_is_not_slowed(task: Task) -> None:
    unlearn(task, "msg", {**STEP, "damping": 0.0, "share": 0.0})
    start = {name: weight.detach().clone() for name, weight in task.model.named_parameters()}
    unlearn(task, "ft", {**STEP, "lr": 0.1})
    assert all(not torch.equal(task.model.get_parameter(name), start[name]) for name in convolutions(task.model))
