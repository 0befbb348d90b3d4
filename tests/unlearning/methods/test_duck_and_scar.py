from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import same_weights
from steps import first_step, steps_of, task_of
from torch import Tensor

from features import features_of
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import accuracy, predict
from salun.unlearning import Task, unlearn
from salun.unlearning.class_features import accuracy_sought

SETTINGS: dict[str, Any] = {"batch_size": 128, "epochs": 3, "retain_steps": 5}


def nearest_centroids(task: Task) -> Tensor:
    features = features_of(task.model, task.retain)
    means = torch.stack([features[task.retain.labels == label].mean(0) for label in range(1, 10)])
    similarity = F.normalize(features_of(task.model, task.forget), dim=1) @ F.normalize(means, dim=1).T
    return F.normalize(means, dim=1)[similarity.argmax(1)]


def likeness(task: Task, target: Tensor) -> Tensor:
    return (F.normalize(features_of(task.model, task.forget), dim=1) * target).sum(1)


@pytest.mark.parametrize("batch_size", [7, 500, 2000])
def test_ducks_loss_is_pull_and_cross_entropy(batch_size: int, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lambda_1": 0.7, "lambda_2": 1.3, "batch_size": batch_size}
    step, loss = first_step(task, "duck", monkeypatch, **settings)
    kept = step.loss.keywords["kept"]
    pull = 1 - likeness(task, nearest_centroids(task))[step.batch.at].mean()
    assert loss == pytest.approx(float(0.7 * pull + 1.3 * F.cross_entropy(task.model(kept.x) / 2, kept.y)), rel=1e-4)


@pytest.mark.parametrize(("target", "epochs"), [(1.0, 1), (0.0, 3)])
def test_duck_stops_as_soon_as_enough_is_forgotten(task: Task, target: float, epochs: int) -> None:
    unlearn(task, "duck", SETTINGS | {"target_accuracy": target, "lr": 3e-3})
    assert len(task.curve) == epochs


@pytest.mark.parametrize(("retain_steps", "steps"), [(1, 3), (2, 6), (99, 9)])
def test_each_forget_batch_meets_several_retain_batches(
    retain_steps: int, steps: int, digits: Dataset, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 60)
    for found in steps_of(task, "duck", monkeypatch, epochs=2, batch_size=20, retain_steps=retain_steps):
        assert len(found) == steps
        met = torch.cat([step.batch.at for step in found[:: steps // 3]])
        assert sorted(met.tolist()) == list(range(60))
        assert all(set(step.batch.y.tolist()) == {0} and 0 not in step.loss.keywords["kept"].y for step in found)


def test_classes_are_forgotten_at_nothing_and_others_at_the_accuracy_on_unseen_images(
    digits: Dataset, trained: Checkpoint
) -> None:
    assert accuracy_sought(task_of(digits, trained, ForgetRequest(classes=(0,)), 60)) == 0.01
    task = task_of(digits, trained, ForgetRequest(share=0.1))
    validation = accuracy(predict(task.model, task.validation))
    assert accuracy_sought(task, 0.015) == pytest.approx(validation - 0.015)


def power(features: Tensor) -> Tensor:
    return features.sign() * features.abs().clamp(min=1e-6) ** 0.5


def distances(task: Task, retained: Tensor, gamma_1: float = 3.0, gamma_2: float = 3.0) -> Tensor:
    """The (N, C) distances of the forget images to classes of such features, written out from the paper."""
    kept, lost = power(retained), power(features_of(task.model, task.forget))
    found = torch.full((len(lost), task.classes), torch.inf)
    off = ~torch.eye(kept.shape[1], dtype=torch.bool)
    for label in task.retain.labels.unique():
        members = kept[task.retain.labels == label]
        shrunken = torch.cov(members.T)
        for _ in range(2):
            spread, shared = shrunken.diagonal().mean(), shrunken[off & (shrunken != 0)].mean()
            shrunken = shrunken + torch.where(off, gamma_2 * shared, gamma_1 * spread)
        scale = shrunken.diagonal().sqrt()
        inverse = torch.linalg.pinv(shrunken / scale / scale[:, None], hermitian=True)
        apart = F.normalize(lost, dim=1) - F.normalize(members.mean(0), dim=0)
        found[:, label] = ((apart @ inverse) * apart).sum(1)
    return found


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("batch_size", [7, 500])
def test_scars_pull_is_the_papers_distance_to_the_nearest_class(
    batch_size: int, shift: float, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.model.global_pool.register_forward_hook(lambda layer, inputs, output: output - shift)
    settings = {"lambda_1": 0.7, "lambda_2": 0.0, "batch_size": batch_size, "gamma_1": 2.0, "gamma_2": 3.0}
    step, loss = first_step(task, "scar", monkeypatch, **settings)
    retained = features_of(task.model, task.retain)
    wanted = 0.7 * distances(task, retained, 2.0, 3.0).min(1).values[step.batch.at].mean()
    assert loss == pytest.approx(float(wanted), rel=2e-3)


def test_scars_features_of_zero_and_below_have_a_gradient(task: Task) -> None:
    zero = torch.arange(task.model.num_features) < 8
    task.model.global_pool.register_forward_hook(lambda layer, inputs, output: (output - 0.3).masked_fill(zero, 0))
    unlearn(task, "scar", {"epochs": 1, "batch_size": 128})
    assert task.diverged is None
    assert all(bool(weight.isfinite().all()) for weight in task.model.parameters())


def test_scar_obeys_the_base_model_but_for_the_forgotten_class(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    step, loss = first_step(task, "scar", monkeypatch, lambda_1=0.0, lambda_2=2.0, batch_size=200)
    base = task.model(step.loss.keywords["kept"].x).detach()
    wanted = base.clone()
    wanted[:, 0] = base.min()
    kl = F.kl_div(base.log_softmax(1), wanted.softmax(1), reduction="batchmean")
    assert loss == pytest.approx(float(2 * kl), rel=1e-3)


@pytest.mark.parametrize(("target", "epochs"), [(1.0, 3), (0.0, 4)])
def test_scar_stops_from_the_third_epoch_on(digits: Dataset, trained: Checkpoint, target: float, epochs: int) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 96)
    unlearn(task, "scar", {"batch_size": 96, "epochs": 4, "target_accuracy": target, "lr": 5e-3})
    assert len(task.curve) == epochs


def test_scar_pulls_a_class_that_is_known_little_no_more(digits: Dataset, trained: Checkpoint) -> None:
    task, still = (task_of(digits, trained, ForgetRequest(share=0.1), 200) for _ in range(2))
    settings: dict[str, Any] = {"batch_size": 256, "epochs": 2, "lambda_2": 0.0, "optimizer": "sgd", "momentum": 0.0}
    for each in (task, still):
        each.forget = each.forget.relabel((each.forget.labels + 1) % 10)
    unlearn(task, "scar", settings)
    unlearn(still, "scar", settings | {"epochs": 1})
    # Labels that the model never gives: from the second epoch on nothing is pulled, so no weight moves.
    assert same_weights(task, still, dict(task.model.named_parameters()))
