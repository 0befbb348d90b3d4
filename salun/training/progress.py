"""What a training reports, epoch by epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich import progress


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


@contextmanager
def progress_bar(title: str) -> Iterator[Callback]:
    """Show a training's progress on the terminal, or in a notebook, while the block runs.

    Args:
        title: stands before the bar.

    Yields:
        The callback that moves the bar.
    """
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TimeElapsedColumn()
    with progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(step: Progress) -> None:
            done = step.epoch if step.done else step.epoch - 1
            figures = f"{title}: epoch {step.epoch} of {step.epochs}, {step.images} images"
            bar.update(task, total=step.epochs, completed=done, description=figures)

        yield show
