from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import steps_of, task_of

from features import features_of
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, TrainingConfig, unlearn
from salun.unlearning.methods.duck import class_centroids

SETTINGS: dict[str, Any] = {"batch_size": 128, "epochs": 3, "retain_steps": 5}


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0,)))


def nearest_centroids(task: Task) -> torch.Tensor:
    retain = F.normalize(
        torch.stack(
            [features_of(task.model, task.retain)[task.retain.labels == label].mean(0) for label in range(1, 10)]
        ),
        dim=1,
    )
    similarity = F.normalize(features_of(task.model, task.forget), dim=1) @ retain.T
    return retain[similarity.argmax(1)]


def test_forget_features_come_close_to_the_centroid_that_was_nearest(task: Task) -> None:
    target = nearest_centroids(task)
    before = (F.normalize(features_of(task.model, task.forget), dim=1) * target).sum(1).mean()
    unlearn(task, "duck", SETTINGS)
    after = (F.normalize(features_of(task.model, task.forget), dim=1) * target).sum(1).mean()
    assert float(after) > float(before) + 0.2


@pytest.mark.parametrize("batch_size", [7, 2000])
def test_centroids_are_the_mean_features_of_a_class(task: Task, batch_size: int) -> None:
    task.training = TrainingConfig(batch_size=batch_size)
    centroids, present = class_centroids(task)
    features = features_of(task.model, task.retain)
    assert present.tolist() == [False] + [True] * 9
    for label in range(1, 10):
        plain = features[task.retain.labels == label].mean(0)
        torch.testing.assert_close(centroids[label], plain, rtol=1e-4, atol=1e-5)


def test_its_loss_is_pull_and_cross_entropy(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    target = nearest_centroids(task)
    found: list[float] = []

    def first_loss(stream: Any, **rest: Any) -> None:
        step = next(iter(stream(0)))
        task.model.eval()
        logits = task.model(step.batch.x)
        found.append(float(step.loss(logits, step.batch)))
        kept = step.loss.keywords["kept"]
        features = features_of(task.model, task.forget)[step.batch.at]
        pull = 1 - (F.normalize(features, dim=1) * target[step.batch.at]).sum(1).mean()
        found.append(float(0.7 * pull + 1.3 * F.cross_entropy(task.model(kept.x) / 2, kept.y)))

    monkeypatch.setattr(task, "fit", first_loss)
    unlearn(task, "duck", {"lambda_1": 0.7, "lambda_2": 1.3, "batch_size": 500})
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(("target", "epochs"), [(1.0, 1), (0.0, 3)])
def test_stops_as_soon_as_enough_is_forgotten(task: Task, target: float, epochs: int) -> None:
    unlearn(task, "duck", SETTINGS | {"target_accuracy": target, "lr": 3e-3})
    assert len(task.curve) == epochs


def test_each_forget_batch_has_its_steps(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = steps_of(task, "duck", monkeypatch, epochs=2, batch_size=100, retain_steps=3)
    forget_batches = -(-len(task.forget) // 100)
    assert [len(steps) for steps in epochs] == [3 * forget_batches] * 2
