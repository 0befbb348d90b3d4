"""What a training reports, epoch by epoch."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One point of a training curve.

    Attributes:
        epoch: from 1.
        loss: mean over the images, as optimised.
        accuracy: share of the images whose given label was predicted while training.
        validation: accuracy on the validation set, where one is watched.
        lr: learning rate of the epoch.
        seconds: wall time of the training steps.
        evaluation_seconds: wall time of the validation.
    """

    epoch: int
    loss: float
    accuracy: float
    validation: float | None
    lr: float
    seconds: float
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Where a training stands: images and seconds are of the epoch, `done` its figures once it is over."""

    epoch: int
    epochs: int
    images: int
    seconds: float
    done: Epoch | None = None


Callback = Callable[[Progress], None]


def no_callback(progress: Progress) -> None:
    """Ignore the progress of a training."""
