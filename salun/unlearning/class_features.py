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


def class_batches(
    model: nn.Module, images: Images, batch_size: int, classes: int
) -> Iterator[tuple[int, int, Iterator[Tensor]]]:
    """Give each class that has images: the class, their number, and their (B, D) features in batches."""
    counts = torch.bincount(images.labels, minlength=classes).tolist()
    members = images.labels.argsort(stable=True).split(counts)
    for label, places in enumerate(members):
        if len(places):
            yield label, len(places), _feature_batches(model, images.take(places), batch_size)


def _nearest_other(distances: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Choose for each of N images the class of smallest (N, C) distance that is present and not its own."""
    own = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return distances.masked_fill(own | ~present, torch.inf).argmin(1)


@torch.no_grad()
def targets(
    model: nn.Module, images: Images, batch_size: int, distances: Callable[[Tensor], Tensor], present: Tensor
) -> Tensor:
    """Choose for each of N images the present class, not its own, that its features are nearest to."""
    labels = images.labels.split(batch_size)
    found = _feature_batches(model, images, batch_size)
    pairs = zip(found, labels, strict=True)
    return torch.cat([_nearest_other(distances(features), own, present) for features, own in pairs])


def against_retain(task: Task, batch_size: int, retain_steps: int) -> Iterator[tuple[Batch, Batch]]:
    """Go once through the forget images, each batch beside at most `retain_steps` retain batches."""
    for batch in task.forget.batches(batch_size, task.generator):
        for _, kept in zip(range(retain_steps), task.retain.batches(batch_size, task.generator), strict=False):
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
