import pytest
import torch
import torch.nn.functional as F
from steps import task_of

from features import features_of
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import accuracy, predict
from salun.unlearning import TrainingConfig
from salun.unlearning.class_features import accuracy_sought, against_retain, class_batches, targets


@pytest.mark.parametrize("batch_size", [7, 500])
def test_classes_come_one_after_the_other_in_batches(digits: Dataset, trained: Checkpoint, batch_size: int) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 90)
    task.training = TrainingConfig(batch_size=batch_size)
    features = features_of(task.model, task.retain)
    found = {label: (count, list(batches)) for label, count, batches in class_batches(task)}
    assert sorted(found) == task.retain.labels.unique().tolist()
    for label, (count, batches) in found.items():
        assert max(map(len, batches)) <= batch_size
        plain = features[task.retain.labels == label]
        assert count == len(plain)
        torch.testing.assert_close(torch.cat(batches), plain, rtol=1e-4, atol=1e-5)


def test_targets_are_the_same_whatever_the_batch(digits: Dataset, trained: Checkpoint) -> None:
    task = task_of(digits, trained, ForgetRequest(share=0.3), 90)
    features = features_of(task.model, task.forget)
    centres, present = features[:10], torch.arange(10) != 3

    def distances(some: torch.Tensor) -> torch.Tensor:
        return torch.cdist(some, centres)

    own = F.one_hot(task.forget.labels, 10).bool()
    plain = distances(features).masked_fill(own | ~present, torch.inf).argmin(1)
    for batch_size in (7, 500):
        task.training = TrainingConfig(batch_size=batch_size)
        found = targets(task, distances, present)
        assert float((found == plain).float().mean()) > 0.98
        assert not bool((found == task.forget.labels).any())
        assert 3 not in found


@pytest.mark.parametrize(("retain_steps", "steps"), [(1, 3), (2, 6), (99, 9)])
def test_each_forget_batch_meets_several_retain_batches(
    digits: Dataset, trained: Checkpoint, retain_steps: int, steps: int
) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 60)
    task.training = TrainingConfig(batch_size=20)
    pairs = list(against_retain(task, retain_steps))
    assert len(pairs) == steps
    met = torch.cat([batch.at for batch, _ in pairs[:: steps // 3]])
    assert sorted(met.tolist()) == list(range(60))
    assert all(set(batch.y.tolist()) == {0} and 0 not in kept.y for batch, kept in pairs)


def test_classes_are_forgotten_at_nothing_and_others_at_the_accuracy_on_unseen_images(
    digits: Dataset, trained: Checkpoint
) -> None:
    assert accuracy_sought(task_of(digits, trained, ForgetRequest(classes=(0,)), 60)) == 0.01
    task = task_of(digits, trained, ForgetRequest(share=0.1))
    validation = accuracy(predict(task.model, task.validation))
    assert accuracy_sought(task, 0.015) == pytest.approx(validation - 0.015)
