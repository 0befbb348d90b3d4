from itertools import cycle, islice

import pytest
import torch
import torch.nn.functional as F
from plain_training import small_task
from torch import nn

from salun.errors import SalunError
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn
from salun.unlearning.accounting import NoisySteps, epsilon_of

NOISE = {"init_clip": 0.5, "step_clip": 0.2, "noise_lr": 0.1, "noise_decay": 2.0, "noise_steps": 7}
FINE = {"lr": 0.05, "epochs": 1, "batch_size": 6, "weight_decay": 0.01, "momentum": 0.0}


def test_takes_clipped_steps_from_a_clipped_start_and_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[float] = []
    monkeypatch.setattr(
        "salun.unlearning.methods.noisy_ft.add_noise", lambda task, weights, std, source: added.append(std)
    )
    task, other = small_task(4, 20), small_task(4, 20)
    unlearn(task, "noisy_ft", NOISE | FINE)
    model, weights = other.model.train(), list(other.model.parameters())
    with torch.no_grad():
        norm = torch.cat([weight.flatten() for weight in weights]).norm()
        for weight in weights:
            weight *= min(1.0, 0.5 / float(norm))
    batches = [*other.retain.batches(6)]
    for batch in islice(cycle(batches), 7):
        found = torch.autograd.grad(F.cross_entropy(model(batch.x), batch.y), weights)
        norm = torch.cat([gradient.flatten() for gradient in found]).norm()
        with torch.no_grad():
            for weight, gradient in zip(weights, found, strict=True):
                weight -= 0.1 * (gradient * min(1.0, 0.2 / float(norm)) + 2.0 * weight)
    for layer in (model.bn1, model.bn2):
        layer.reset_running_stats()
    updates = torch.optim.SGD(weights, lr=0.05, weight_decay=0.01)
    for batch in batches:
        updates.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        updates.step()
    assert len(added) == 7
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, model.state_dict()[key], atol=1e-5), key


def test_the_certificate_says_what_noise_guarantees_what() -> None:
    task = small_task(4, 20)
    unlearn(task, "noisy_ft", NOISE | FINE | {"epsilon": 2.0, "delta": 1e-3})
    found = task.certificate
    assert found is not None
    assert {name: found[name] for name in ("delta", "steps", "lr", "decay", "init_clip", "step_clip")} == {
        "delta": 1e-3, "steps": 7, "lr": 0.1, "decay": 2.0, "init_clip": 0.5, "step_clip": 0.2
    }  # fmt: skip
    assert found["epsilon"] == pytest.approx(2.0, rel=1e-4)
    assert found["epsilon"] == epsilon_of(NoisySteps(0.1, 2.0, 0.5, 0.2).rate(found["sigma"], 7), 1e-3)


def test_the_noise_of_a_step_has_the_deviation_that_the_certificate_names(task: Task, trained: Checkpoint) -> None:
    task.retain = task.retain.take(torch.arange(40))
    one = {"noise_steps": 1, "noise_decay": 0.0, "noise_lr": 1e-6, "step_clip": 1e-3, "init_clip": 1.0}
    unlearn(task, "noisy_ft", one | {"epochs": 1, "lr": 1e-12, "epsilon": 50.0, "batch_size": 20})
    assert task.certificate is not None
    start = torch.cat([trained.weights[name].flatten() for name, _ in task.model.named_parameters()])
    now = torch.cat([weight.detach().flatten() for weight in task.model.parameters()])
    difference = now - start / start.norm()
    assert float(difference.std()) == pytest.approx(task.certificate["sigma"], rel=0.02)


def test_a_budget_that_ends_the_noise_early_lowers_what_is_guaranteed() -> None:
    task = small_task(4, 20)
    task.passes.budget = 2 * 6 * 3
    unlearn(task, "noisy_ft", NOISE | FINE | {"epsilon": 1.0})
    assert task.certificate is not None
    assert task.certificate["steps"] == 3
    assert task.certificate["epsilon"] > 1.0
    broke = small_task(4, 20)
    broke.passes.budget = 1
    unlearn(broke, "noisy_ft", NOISE | FINE)
    assert broke.certificate is None


def test_running_statistics_of_before_are_gone(task: Task, trained: Checkpoint) -> None:
    other = trained.restore()
    for layer in other.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(1e6)
    task.model.load_state_dict(other.state_dict())
    task.retain = task.retain.take(torch.arange(40))
    unlearn(task, "noisy_ft", NOISE | {"epochs": 1, "batch_size": 20})
    means = [buffer for name, buffer in task.model.named_buffers() if name.endswith("running_mean")]
    assert all(float(mean.abs().max()) < 1e4 for mean in means)


def test_refuses_a_decay_that_turns_weights_over(task: Task) -> None:
    with pytest.raises(SalunError, match=r"noise_lr=0.1 times noise_decay=50 is 5; must be at most 1"):
        unlearn(task, "noisy_ft", {"noise_lr": 0.1, "noise_decay": 50.0})


def test_other_methods_give_no_certificate(task: Task) -> None:
    unlearn(task, "ft", {"epochs": 1})
    assert task.certificate is None
