from typing import Any

import pytest
import torch
from plain_training import record_losses, small_task
from problems import same_weights
from torch import Tensor, nn

from salun.data.sets import Sets
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, find_method, unlearn


def noise_before_training(task: Task, name: str, trained: Checkpoint, **settings: Any) -> dict[str, Tensor]:
    """What was added to each weight that changed, before the first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "fit", lambda stream, **rest: None)
        find_method(name).run(task, **settings)
    moved = {
        name: (weight.detach() - trained.weights[name]).flatten() for name, weight in task.model.named_parameters()
    }
    return {name: difference for name, difference in moved.items() if bool(difference.any())}


def test_weight_distortion_reaches_every_weight_alike(task: Task, trained: Checkpoint) -> None:
    added = noise_before_training(task, "weight_distortion", trained, std=0.02)
    assert added.keys() == dict(task.model.named_parameters()).keys()
    every = torch.cat(list(added.values()))
    assert float(every.std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(every.mean())) < 0.001
    assert same_weights(task, trained, dict(task.model.named_buffers()))


def test_noise_is_not_what_the_base_model_began_with(task: Task) -> None:
    seed = task.generator.initial_seed()
    before = {name: weight.detach().clone() for name, weight in task.model.named_parameters()}
    unlearn(task, "weight_distortion", {"std": 1.0, "lr": 1e-12, "epochs": 1, "batch_size": 64})
    weight = next(iter(before))
    shape = before[weight].shape
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert not torch.allclose(task.model.get_parameter(weight).detach() - before[weight], drawn, atol=0.1)


def test_cfw_confuses_the_first_convolution_alone(task: Task, trained: Checkpoint) -> None:
    added = noise_before_training(task, "cfw", trained, first_std=0.6)
    assert list(added) == ["conv1.weight"]
    assert float(added["conv1.weight"].std()) == pytest.approx(0.6, rel=0.15)


def test_cfw_weighs_batches_by_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task(4, 20)
    task.retain = task.retain.relabel(torch.tensor([0] * 12 + [1] * 8))
    steps = record_losses(task, monkeypatch)
    unlearn(task, "cfw", {"epochs": 1, "batch_size": 10, "lr": 1e-12})
    each = torch.tensor([20 / (2 * 12)] * 12 + [20 / (2 * 8)] * 8)
    for (loss, plain), weights in zip(steps, each.split(10), strict=True):
        assert loss == pytest.approx(plain * float(weights.mean()), rel=1e-5)


@pytest.mark.parametrize(("epochs", "more"), [(1, 0.0), (3, 0.5)])
def test_cfw_adds_more_noise_before_the_last_of_several_epochs(epochs: int, more: float) -> None:
    task = small_task(4, 20)
    start = task.model.conv1.weight.detach().clone()
    still = {"lr": 1e-12, "batch_size": 10, "epochs": epochs, "first_std": 0.0}
    unlearn(task, "cfw", still | {"last_std": 0.5})
    assert float((task.model.conv1.weight.detach() - start).std()) == pytest.approx(more, rel=0.4)


def test_no_step_sees_noise_on_a_weight_that_a_mask_holds() -> None:
    task = small_task(4, 20)
    mask = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in task.model.named_parameters()}
    seen: list[Tensor] = []
    task.model.register_forward_pre_hook(lambda model, inputs: seen.append(model.conv1.weight.detach().clone()))
    start = task.model.conv1.weight.detach().clone()
    unlearn(task, "cfw", {"epochs": 2, "batch_size": 10}, mask)
    assert seen
    assert all(torch.equal(weight, start) for weight in seen)


def rni_noise(task: Task, trained: Checkpoint, **settings: Any) -> tuple[list[set[str]], dict[str, Tensor]]:
    """Which weights are trained in each epoch, and what was added to them without a step."""
    trainings: list[set[str]] = []

    def record(stream: Any, **rest: Any) -> None:
        trainings.append({name for name, weight in task.model.named_parameters() if weight.requires_grad})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "fit", record)
        find_method("rni").run(task, **settings)
    moved = {
        name: (weight.detach() - trained.weights[name]).flatten() for name, weight in task.model.named_parameters()
    }
    return trainings, {name: difference for name, difference in moved.items() if bool(difference.any())}


def test_rni_trains_a_few_tensors_and_all_normalisations_then_everything(task: Task, trained: Checkpoint) -> None:
    trainings, _ = rni_noise(task, trained, epochs=5, fine_epochs=2, tensors=4)
    every = dict(task.model.named_parameters()).keys()
    norms = {
        f"{name}.{own}"
        for name, part in task.model.named_modules()
        if isinstance(part, nn.BatchNorm2d)
        for own, _ in part.named_parameters()
    }
    assert all(trained_now >= norms for trained_now in trainings)
    assert [len(trained_now - norms) for trained_now in trainings[:3]] == [4, 4, 4]
    assert all(trained_now == every for trained_now in trainings[3:])
    assert len(set(map(frozenset, trainings[:3]))) > 1
    assert all(weight.requires_grad for weight in task.model.parameters())


@pytest.mark.parametrize(("quiet", "expected"), [(0, 2), (1, 0)])
def test_rni_adds_noise_to_a_share_of_what_it_drew(quiet: int, expected: int, task: Task, trained: Checkpoint) -> None:
    task.fresh = lambda: trained.restore()  # so that the head stays
    trainings, added = rni_noise(
        task, trained, epochs=1, fine_epochs=0, quiet_epochs=quiet, tensors=4, noise_share=0.5, noise_std=0.1
    )
    assert len(added) == expected
    assert added.keys() <= trainings[0]
    for values in added.values():
        assert float(values.std()) == pytest.approx(0.1, rel=0.5)


def test_rni_draws_the_head_anew(task: Task, trained: Checkpoint) -> None:
    fresh = task.fresh()
    task.untrained = lambda: fresh
    _, changed = rni_noise(task, trained, epochs=1, fine_epochs=1)
    assert set(changed) == {"fc.weight", "fc.bias"}
    assert same_weights(task, fresh, changed)


def test_rni_leaves_off_where_its_budget_is_spent(sets: Sets, task: Task) -> None:
    task.passes.budget = 2 * len(sets.retain)
    seen: list[int] = []
    fit = task.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "fit", lambda stream, **rest: (seen.append(1), fit(stream, **rest)))
        unlearn(task, "rni", {"epochs": 6, "batch_size": 64})
    assert len(seen) == 1
