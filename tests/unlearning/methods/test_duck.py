from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import first_step, steps_of
from torch import Tensor

from features import features_of
from salun.unlearning import Task, unlearn

SETTINGS: dict[str, Any] = {"batch_size": 128, "epochs": 3, "retain_steps": 5}


def nearest_centroids(task: Task) -> Tensor:
    features = features_of(task.model, task.retain)
    means = torch.stack([features[task.retain.labels == label].mean(0) for label in range(1, 10)])
    similarity = F.normalize(features_of(task.model, task.forget), dim=1) @ F.normalize(means, dim=1).T
    return F.normalize(means, dim=1)[similarity.argmax(1)]


def likeness(task: Task, target: Tensor) -> Tensor:
    return (F.normalize(features_of(task.model, task.forget), dim=1) * target).sum(1)


def test_forget_features_come_close_to_the_centroid_that_was_nearest(task: Task) -> None:
    target = nearest_centroids(task)
    before = likeness(task, target).mean()
    unlearn(task, "duck", SETTINGS)
    assert float(likeness(task, target).mean()) > float(before) + 0.2


@pytest.mark.parametrize("batch_size", [7, 500, 2000])
def test_its_loss_is_pull_and_cross_entropy(batch_size: int, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lambda_1": 0.7, "lambda_2": 1.3, "batch_size": batch_size}
    step, loss = first_step(task, "duck", monkeypatch, **settings)
    kept = step.loss.keywords["kept"]
    pull = 1 - likeness(task, nearest_centroids(task))[step.batch.at].mean()
    assert loss == pytest.approx(float(0.7 * pull + 1.3 * F.cross_entropy(task.model(kept.x) / 2, kept.y)), rel=1e-4)


@pytest.mark.parametrize(("target", "epochs"), [(1.0, 1), (0.0, 3)])
def test_stops_as_soon_as_enough_is_forgotten(task: Task, target: float, epochs: int) -> None:
    unlearn(task, "duck", SETTINGS | {"target_accuracy": target, "lr": 3e-3})
    assert len(task.curve) == epochs


def test_each_forget_batch_has_its_steps(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = steps_of(task, "duck", monkeypatch, epochs=2, batch_size=100, retain_steps=3)
    forget_batches = -(-len(task.forget) // 100)
    assert [len(steps) for steps in epochs] == [3 * forget_batches] * 2
