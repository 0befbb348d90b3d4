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
def feature_batches(model: nn.Module, images: Images, batch_size: int) -> Iterator[Tensor]:
    """Compute what the classification head sees of images: evaluation mode, no augmentation, in order.

    Args:
        model: any timm model; is left in the mode that it was in.
        images: N images.
        batch_size: images at once.

    Yields:
        (B, D) float32 of each batch.
    """
    with evaluating(model), features_seen(model) as seen:
        for batch in images.batches(batch_size):
            model(batch.x)
            yield seen()


def class_batches(
    model: nn.Module, images: Images, batch_size: int, classes: int
) -> Iterator[tuple[int, int, Iterator[Tensor]]]:
    """Compute the features of images class after class, no more of them at a time than of one batch.

    Args:
        model: any timm model; is left in the mode that it was in.
        images: N images.
        batch_size: images at once.
        classes: number of classes.

    Yields:
        Of each class that has images: the class, their number, and their features in batches.
    """
    counts = torch.bincount(images.labels, minlength=classes).tolist()
    members = images.labels.argsort(stable=True).split(counts)
    for label, places in enumerate(members):
        if len(places):
            yield label, len(places), feature_batches(model, images.take(places), batch_size)


def nearest_other(distances: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Choose for each image the nearest class that is not its own.

    Args:
        distances: (N, C) from images to classes.
        labels: (N,) int64, the images' own classes.
        present: (C,) boolean, the classes that may be chosen.

    Returns:
        (N,) int64.
    """
    own = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return distances.masked_fill(own | ~present, torch.inf).argmin(1)


@torch.no_grad()
def targets(
    model: nn.Module, images: Images, batch_size: int, distances: Callable[[Tensor], Tensor], present: Tensor
) -> Tensor:
    """Choose for each image the class, not its own, that its features are nearest to.

    Args:
        model: any timm model; is left in the mode that it was in.
        images: N images.
        batch_size: images at once.
        distances: of (B, D) features to the classes, (B, C).
        present: (C,) boolean, the classes that may be chosen.

    Returns:
        (N,) int64.
    """
    labels = images.labels.split(batch_size)
    found = feature_batches(model, images, batch_size)
    pairs = zip(found, labels, strict=True)
    return torch.cat([nearest_other(distances(features), own, present) for features, own in pairs])


def against_retain(task: Task, batch_size: int, retain_steps: int) -> Iterator[tuple[Batch, Batch]]:
    """Go once through the forget images, each batch beside several batches of retain images.

    Args:
        task: its forget and retain set are shuffled.
        batch_size: images a batch, of each.
        retain_steps: most retain batches a forget batch.

    Yields:
        A forget and a retain batch.
    """
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
