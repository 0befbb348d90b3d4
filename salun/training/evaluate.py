"""Predictions of a model and their accuracy."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.device import Precision, autocast
from salun.training.distributed import Group

_EVALUATION_BATCH = 1024
_EVALUATION_BYTES = 64 * 1024**2
MANY_CLASSES = 100
_LOWEST = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class Outputs:
    """What a model says of a set of images.

    Attributes:
        logits: (N, C) float32 on the CPU; of more than 100 classes in values that float16 holds, 0 the largest.
        labels: (N,) int64 on the CPU.
        indices: (N,) int64, where each image stands in its part of the data set; None where that is unknown.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor | None = None

    @property
    def correct(self) -> Tensor:
        """Which images have their largest logit at their label: (N,) bool."""
        return self.logits.argmax(1) == self.labels if len(self.labels) else torch.zeros(0, dtype=torch.bool)

    def in_order(self) -> "Outputs":
        """Sort by the images' indices, where they are known."""
        if self.indices is None:
            return self
        return self.take(self.indices.argsort(stable=True))

    def take(self, rows: Tensor | slice) -> "Outputs":
        """Choose some of the images, by their rows."""
        return Outputs(self.logits[rows], self.labels[rows], None if self.indices is None else self.indices[rows])


def accuracy(outputs: Outputs) -> float:
    """Compute the share of images whose largest logit is at their label.

    Args:
        outputs: logits and labels.

    Returns:
        A fraction in [0, 1]; NaN of no images, and of logits that are no numbers.
    """
    if not bool(outputs.logits.isfinite().all()):
        return math.nan
    return float(outputs.correct.float().mean())


def class_accuracies(outputs: Outputs, classes: int) -> Tensor:
    """Compute the (C,) share of each class's images that are predicted as labelled; 0 of a class without images."""
    counts = torch.bincount(outputs.labels, minlength=classes).clamp(min=1)
    return torch.bincount(outputs.labels, outputs.correct.float(), minlength=classes) / counts


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode; each of its parts is in its own mode again when the block ends."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict(
    model: nn.Module, images: Images, batch_size: int | None = None, precision: Precision = "float32"
) -> Outputs:
    """Evaluate a model on images: evaluation mode, no augmentation, in order.

    Args:
        model: is left in the mode that it was in, part by part.
        images: N images.
        batch_size: images at once; None takes as many as make a batch of 64 MiB, at most 1,024. Fewer where the
            device lacks memory.
        precision: of the forward passes.

    Returns:
        Logits, labels and indices of the N images. Of more than 100 classes, each image's largest logit is subtracted
        from its others, and the differences are rounded to float16, so that files of them are half as large.

    Raises:
        torch.OutOfMemoryError: the device has no room for a single image.
    """
    if batch_size is None and len(images):
        image = next(iter(images.take(torch.arange(1)).batches(1))).x
        batch_size = max(1, min(_EVALUATION_BATCH, _EVALUATION_BYTES // (image.numel() * image.element_size())))
    size, logits = batch_size or 1, None
    while logits is None:
        try:
            with evaluating(model), autocast(precision, images.device):
                logits = [_logits_of(model, batch.x, size) for batch in images.batches(size)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        if logits is None:
            torch.cuda.empty_cache()
            size = size // 2
    if not logits:
        return Outputs(torch.empty(0, 0), images.labels.cpu(), images.rows.cpu())
    return Outputs(torch.cat(logits).cpu(), images.labels.cpu(), images.rows.cpu())


def _rounded(logits: Tensor) -> Tensor:
    """Round (B, C) logits of many classes, in a way that no softmax and no order notices; those not finite stay so."""
    if logits.shape[1] <= MANY_CLASSES:
        return logits
    below = logits - logits.amax(1, keepdim=True)
    return torch.where(below.isfinite(), below.clamp(min=_LOWEST), below).half().float()


@contextmanager
def _unsearched() -> Iterator[None]:
    """Let cuDNN guess the fastest algorithm, where a search costs more than a batch of a size of its own."""
    searching = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = searching


def _logits_of(model: nn.Module, x: Tensor, size: int) -> Tensor:
    """Compute (B, C) float32 logits; of no images by way of a blank one, as not every model takes an empty batch."""
    if len(x):
        with nullcontext() if len(x) == size else _unsearched():
            return _rounded(cast(Tensor, model(x)).float())
    return cast(Tensor, model(x.new_zeros(1, *x.shape[1:]))).float()[:0]


def accuracy_of_all(model: nn.Module, images: Images, precision: Precision, group: Group) -> float:
    """Compute a model's accuracy on images, of which each process evaluates a share.

    Args:
        model: the same in each process.
        images: all of them.
        precision: of the forward passes.
        group: the processes.

    Returns:
        As `accuracy`, the same bits in each process.
    """
    if group.size == 1:
        return accuracy(predict(model, images, precision=precision))
    own = torch.arange(group.rank, len(images), group.size)
    outputs = predict(model, images.take(own), precision=precision)
    broken = float(not bool(outputs.logits.isfinite().all()))
    counts = group.total(torch.tensor([float(outputs.correct.sum()), len(own), broken]))
    return math.nan if counts[2] else float(counts[0] / counts[1])
