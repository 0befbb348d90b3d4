"""Images as uint8 pixels on the device, and the sets and batches taken from them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from salun.data.memmap import PixelFile


class _View(Protocol):
    """Turns stored pixels into model input."""

    def __call__(self, pixels: Tensor, generator: torch.Generator | None, /) -> Tensor:
        """Prepare images."""


class Batch(NamedTuple):
    """What one step sees."""

    x: Tensor  # (B, C, H, W) float32, ready for the model
    y: Tensor  # (B,) int64 labels
    at: Tensor  # (B,) int64 positions in the `Images` that the batch was taken from


@dataclass(frozen=True)
class Images:
    """A set of images: rows of a pixel store that several sets share."""

    pixels: Tensor | PixelFile  # (M, C, H, W) uint8, on the device or in a file; or float32 in [0, 1]
    rows: Tensor  # (N,) int64 on the store's device: each image's index in its part of the data set
    labels: Tensor  # (N,) int64 on `device`
    device: torch.device  # where batches go
    view: _View  # turns stored pixels into model input, augmented where it is given a generator

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "Images":
        """Select the images at (K,) int64 positions in this set; no pixel is copied."""
        rows = self.rows[positions.to(self.rows.device)]
        return replace(self, rows=rows, labels=self.labels[positions.to(self.labels.device)])

    def relabel(self, labels: Tensor) -> "Images":
        """Give the images other labels: (N,) int64."""
        return replace(self, labels=labels.to(self.device))

    def join(self, other: "Images") -> "Images":
        """Put another set after this one; sets of different stores are copied into a new one."""
        labels = torch.cat([self.labels, other.labels])
        if self.pixels is other.pixels:
            return replace(self, rows=torch.cat([self.rows, other.rows]), labels=labels)
        ours, theirs = self.pixels[self.rows], other.pixels[other.rows].to(self.pixels.device)
        if ours.dtype != theirs.dtype:
            ours, theirs = unit_interval(ours), unit_interval(theirs)
        pixels = torch.cat([ours, theirs])
        rows = torch.arange(len(pixels), device=pixels.device)
        return replace(self, pixels=pixels, rows=rows, labels=labels)

    def batches(self, size: int | list[int], generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Go once through the images.

        Args:
            size: images a batch, of which the last one may be smaller; or the size of each batch, in order.
            generator: shuffles and augments; without it the images come in order and plain.
        """
        for at, rows, y in self._ordered(size, generator):
            yield Batch(self.view(self.moved(self.pixels[rows]), generator), y, at)

    def _ordered(
        self, size: int | list[int], generator: torch.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Put the images into batches."""
        count = len(self)
        if generator is None:
            order = torch.arange(count, device=self.device)
        else:
            order = torch.randperm(count, generator=generator, device=generator.device).to(self.device)
        ordered = (order, self.rows[order.to(self.rows.device)], self.labels[order])
        sizes = size if isinstance(size, list) else min(size, max(count, 1))
        return zip(*(part.split(sizes) for part in ordered), strict=True)

    def moved(self, pixels: Tensor) -> Tensor:
        """Bring pixels to `device`, without waiting for CUDA to have taken them."""
        if self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True)


def even_sizes(count: int, most: int, fewest: int = 1) -> list[int]:
    """Divide images into batches that differ by one image at most, so that each may count alike.

    Args:
        count: images, at least 1.
        most: images a batch.
        fewest: images a batch, at most `most`; where no division keeps to both, batches are below twice this.

    Returns:
        The size of each batch.
    """
    parts = max(1, min(-(-count // most), count // fewest))
    return [count // parts + (place < count % parts) for place in range(parts)]


def unit_interval(pixels: Tensor) -> Tensor:
    """Bring stored pixels, uint8 or float32 already in [0, 1], to float32 in [0, 1]."""
    return pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels
