"""What the methods share that draw the features of forget images towards another class."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from salun.data.images import Batch, Images
from salun.models.features import features_seen
from salun.training.evaluate import accuracy, evaluating, predict
from salun.unlearning import Task

_FORGOTTEN = 0.01


@torch.no_grad()
def _feature_batches(model: nn.Module, images: Images, batch_size: int) -> Iterator[Tensor]:
    """Compute what the head sees of images, (B, D) a batch: evaluation mode, no augmentation, in order."""
    with evaluating(model), features_seen(model) as seen:
        for batch in images.batches(batch_size):
            model(batch.x)
            yield seen()


def class_batches(task: Task) -> Iterator[tuple[int, int, Iterator[Tensor]]]:
    """Give each class that has retain images: the class, their number, and their (B, D) features in batches."""
    counts = torch.bincount(task.retain.labels, minlength=task.classes).tolist()
    members = task.retain.labels.argsort(stable=True).split(counts)
    for label, places in enumerate(members):
        if len(places):
            batches = _feature_batches(task.model, task.retain.take(places), task.training.batch_size)
            yield label, len(places), batches


@torch.no_grad()
def targets(task: Task, distances: Callable[[Tensor], Tensor], present: Tensor) -> Tensor:
    """Choose for each forget image the present class, not its own, that its features are nearest to."""
    batches = _feature_batches(task.model, task.forget, task.training.batch_size)
    found = torch.cat([distances(features) for features in batches])
    own = torch.zeros_like(found, dtype=torch.bool).scatter_(1, task.forget.labels[:, None], True)
    return found.masked_fill(own | ~present, torch.inf).argmin(1)


def against_retain(task: Task, retain_steps: int) -> Iterator[tuple[Batch, Batch]]:
    """Go once through the forget images, each batch beside at most `retain_steps` retain batches."""
    for batch in task.batches(task.forget):
        for _, kept in zip(range(retain_steps), task.batches(task.retain), strict=False):
            yield batch, kept


def accuracy_sought(task: Task, tolerance: float = 0.0) -> float:
    """Tell below which accuracy on the forget images they count as forgotten.

    Args:
        task: with its model as it was before.
        tolerance: is taken off the validation accuracy.

    Returns:
        0.01 where whole classes are forgotten, else the model's accuracy on validation images; NaN where there are
        none.
    """
    return _FORGOTTEN if task.forgotten else accuracy(predict(task.model, task.validation)) - tolerance
