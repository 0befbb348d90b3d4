"""What can be measured, at which sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.measure import Goal, Result
from salun.models.architecture import TINY, Architecture

Measure = Callable[["Bench"], list[Result]]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        model: timm's name.
        size: side of the images in pixels.
        batch: images a step.
        train: images of an epoch of ours.
        control: images of an epoch of the control's, a part of ours.
        epochs: of ours, in a repetition.
        steps: of ours with one and the same batch, in a repetition.
        control_steps: of the control, likewise.
        forget: images that a mask is computed on.
        evaluated: images that are evaluated.
        members: known members of the attacks, and as many non-members.
        targets: of the attacks.
        product: side of the matrices whose product is the ceiling.
        growth: images of the smallest epoch of those whose cost is compared.
        repeats: of everything that does not take minutes.
    """

    model: str
    size: int
    batch: int
    train: int
    control: int
    epochs: int
    steps: int
    control_steps: int
    forget: int
    evaluated: int
    members: int
    targets: int
    product: int
    growth: int
    repeats: int


SCALES = {
    "quick": Scale(TINY, 8, 32, 128, 64, 1, 2, 2, 32, 64, 60, 30, 128, 64, 1),
    "cpu": Scale("resnet18", 32, 128, 1280, 1280, 1, 3, 3, 128, 512, 10_000, 4500, 2048, 1000, 3),
    "cuda": Scale("resnet18", 32, 256, 45_000, 25_600, 5, 400, 60, 4500, 20_000, 10_000, 4500, 8192, 4000, 3),
}


@dataclass(frozen=True)
class Bench:
    """Where, and how much, is measured.

    Attributes:
        device: that both sides compute on.
        folder: for whatever is written; it is empty at first.
        quick: whether only the code is tried.
        workers: of the control's loaders.
    """

    device: torch.device
    folder: Path
    quick: bool = False
    workers: int = 2

    @property
    def scale(self) -> Scale:
        """Sizes for the device."""
        if self.quick:
            return SCALES["quick"]
        return SCALES["cuda" if self.device.type == "cuda" else "cpu"]

    @property
    def architecture(self) -> Architecture:
        """Of the model that is trained."""
        return Architecture(self.scale.model, 10, 3, self.scale.size)

    def goal(self, *, least: float | None = None, most: float | None = None, of_ratio: bool = False) -> Goal | None:
        """Set a goal, unless only the code is tried.

        Args:
            least: the value is to be at least that.
            most: the value is to be at most that.
            of_ratio: whether the ratio is meant.

        Returns:
            The goal, or None.
        """
        return None if self.quick else Goal(least, most, of_ratio)


@dataclass(frozen=True)
class Item:
    """Something that can be measured.

    Attributes:
        name: on the command line.
        about: in one line.
        measure: gives the lines of the table.
        devices: on which it is measured unasked; none for never.
    """

    name: str
    about: str
    measure: Measure
    devices: tuple[str, ...] = field(default=("cpu", "cuda", "mps"))


ITEMS: dict[str, Item] = {}


def item(about: str, *, devices: tuple[str, ...] = ("cpu", "cuda", "mps")) -> Callable[[Measure], Measure]:
    """Register a function that measures something under its own name.

    Args:
        about: what it measures, in one line.
        devices: on which it is measured unasked; none for never.

    Returns:
        A decorator for a function of a `Bench`.
    """

    def register(measure: Measure) -> Measure:
        name = str(getattr(measure, "__name__", ""))
        ITEMS[name] = Item(name, about, measure, devices)
        return measure

    return register
