"""What a training tells of itself, epoch by epoch."""

import time
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
    """Where a training stands.

    Attributes:
        epoch: from 1.
        epochs: planned.
        images: seen in this epoch.
        seconds: since the epoch began.
        done: the epoch's figures, once it is over.
    """

    epoch: int
    epochs: int
    images: int
    seconds: float
    done: Epoch | None = None


Callback = Callable[[Progress], None]


def no_callback(progress: Progress) -> None:
    """Watch nothing.

    Args:
        progress: is ignored.
    """


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class EpochProgress:
    """Which epoch is running, since when, and who watches."""

    number: int
    epochs: int
    begun: float
    callback: Callback

    def tell(self, images: int) -> None:
        """Report a step.

        Args:
            images: seen so far in this epoch.
        """
        self.callback(Progress(self.number + 1, self.epochs, images, time.perf_counter() - self.begun))
