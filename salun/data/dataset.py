"""A data set as read: its two parts, its class names, and how its images may be augmented."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salun.data.memmap import PixelFile
from salun.errors import SalunError

_MOST_NAMED = 10
_AT_ONCE = 1024


class Subset(NamedTuple):
    """One part of a data set."""

    pixels: Tensor | PixelFile  # (N, C, H, W) uint8, in memory or in a file
    labels: Tensor  # (N,) int64
    names: tuple[str, ...] | None = None  # of the N images: their paths in the data set's folder
    digests: tuple[str, ...] | None = None  # of the N images: SHA-256, where it is recorded
    absent: tuple[int, ...] = ()  # images that are recorded, but are not there any more: their pixels are another's
    fine: Tensor | None = None  # (N,) int64 numbers of the N images' subclasses; None where there are none


class Corrupted(NamedTuple):
    """What was done to training images on purpose."""

    drawn: Tensor  # (K,) int64 indices of the corrupted images, in the order in which they are found
    labels: Tensor  # (N,) int64 true labels of all training images
    described: dict[str, Any]  # how, as checkpoints and records hold it
    triggered: Tensor | PixelFile | None = None  # pixels of the test part with the trigger; None of other kinds
    target: int | None = None  # class that the trigger stands for

    def found(self, share: float) -> Tensor:
        """Take the first of the corrupted images."""
        return self.drawn[: round(share * len(self.drawn))]


@dataclass(frozen=True)
class Dataset:
    """A data set: parts, class names, augmentation of its training images."""

    name: str  # as the user gave it
    train: Subset  # the training part; forget files index it
    test: Subset  # the test part
    classes: tuple[str, ...]  # class names, by label
    padding: int = 0  # border in pixels for random crops; 0 for none
    flip: bool = False  # whether mirrored images are still images of their class
    skipped: tuple[str, ...] = ()  # a line for each image that cannot be decoded and was left out
    root: Path | None = None  # folder that the images' names begin at
    notes: tuple[str, ...] = ()  # lines that tell how the parts were chosen, and what has been deleted since
    corrupted: Corrupted | None = None  # what was done to its training part; None of data as they lie on disk
    subclasses: tuple[str, ...] = ()  # names of the classes' parts, by number; empty where classes have none

    def __post_init__(self) -> None:
        for title, part in (("training", self.train), ("test", self.test)):
            if fault := _fault_of(part, len(self.classes), len(self.subclasses)):
                raise SalunError(f"data set '{self.name}': its {title} part {fault}")
        shapes = [tuple(part.pixels.shape[1:]) for part in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise SalunError(f"data set '{self.name}': training images are {shapes[0]}, test images {shapes[1]}")

    @property
    def notices(self) -> list[str]:
        """What the user must be told: how the parts were chosen; of images left out a line each, of many the first."""
        rest = len(self.skipped) - _MOST_NAMED
        more = [f"data set '{self.name}': {rest} more images skipped"] if rest > 0 else []
        return [*self.notes, *(f"skipped: {line}" for line in self.skipped[:_MOST_NAMED]), *more]

    @cached_property
    def digests(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """SHA-256 of each image's file, without files of its pixels: those of the training and of the test part."""
        return self._digests_of(self.train), self._digests_of(self.test)

    def _digests_of(self, part: Subset) -> tuple[str, ...]:
        if part.digests is not None:
            return part.digests
        if part.names is not None and self.root is not None:
            return tuple(_file_digest(self.root / name) for name in part.names)
        rows = torch.arange(len(part.pixels), device=part.pixels.device).split(_AT_ONCE)
        images = (image for row in rows for image in part.pixels[row].cpu().numpy())
        return tuple(hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images)

    @property
    def true_labels(self) -> Tensor:
        """(N,) labels of the training part as they are on disk."""
        return self.train.labels if self.corrupted is None else self.corrupted.labels

    @property
    def channels(self) -> int:
        """Colour channels an image."""
        return self.train.pixels.shape[1]

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return self.train.pixels.shape[-1]


def _file_digest(path: Path) -> str:
    """Digest a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SalunError(f"{path}: cannot be read: {error.strerror or error}") from error


def _fault_of(part: Subset, classes: int, subclasses: int) -> str | None:
    """Say what is wrong with a part."""
    if len(part.pixels) != len(part.labels):
        return f"holds {len(part.pixels)} images, {len(part.labels)} labels"
    if not len(part.labels):
        return "is empty"
    if part.pixels.ndim != 4 or part.pixels.shape[2] != part.pixels.shape[3]:
        return f"holds images of shape {tuple(part.pixels.shape[1:])}, not square ones (channels, side, side)"
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= classes:
        return f"has labels from {low} to {high}, not 0 to {classes - 1}"
    if (part.fine is not None) != bool(subclasses):
        return f"has {'no' if part.fine is None else 'numbers of'} subclasses, of which {subclasses} are named"
    if part.fine is None:
        return None
    if len(part.fine) != len(part.labels) or not 0 <= int(part.fine.min()) <= int(part.fine.max()) < subclasses:
        return f"has numbers of subclasses that are not one of 0 to {subclasses - 1} an image"
    return None


def held_out(labels: Tensor, share: float, seed: int | list[int], total: int | None = None) -> tuple[Tensor, Tensor]:
    """Draw a stratified share: the same part of every class.

    Args:
        labels: (N,) int64.
        share: part that is held out, in (0, 1).
        seed: of the draw.
        total: images held out, share * N rounded either way; None rounds each class's part for itself.

    Returns:
        The positions held out and the positions left, both sorted.
    """
    generator = np.random.default_rng(seed)
    known = labels.cpu().numpy()
    classes, sizes = np.unique(known, return_counts=True)
    counts = [round(share * size) for size in sizes.tolist()]
    if total is not None:
        counts = _by_largest_remainder(share * sizes, total)
    drawn = []
    for label, count in zip(classes, counts, strict=True):
        drawn.append(generator.permutation(np.flatnonzero(known == label))[:count])
    out = np.zeros(len(known), dtype=bool)
    out[np.concatenate(drawn)] = True
    return torch.from_numpy(np.flatnonzero(out)), torch.from_numpy(np.flatnonzero(~out))


def _by_largest_remainder(parts: NDArray[np.floating], total: int) -> list[int]:
    """Round parts so that they add up: all down, then those up that lose most, of equal ones the earlier."""
    counts = np.floor(parts).astype(int)
    counts[np.argsort(counts - parts, kind="stable")[: total - counts.sum()]] += 1
    return [int(count) for count in counts]
