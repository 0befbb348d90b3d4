"""Crop, flip, resize and normalise: whole batches, on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.memmap import PixelFile
from salun.device import layout
from salun.errors import SalunError

Augment = Literal["crop_flip"] | Callable[[Tensor], Tensor]


def unit_interval(pixels: Tensor) -> Tensor:
    """Bring stored pixels to float32: uint8 to [0, 1], float32 as they are."""
    return pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels


@dataclass(frozen=True)
class Preparation:
    """How stored pixels become model input."""

    mean: tuple[float, ...]  # per channel, of pixels in [0, 1], over the training split
    std: tuple[float, ...]  # per channel, likewise
    padding: int = 0  # pixels of black border for the random crop; 0 for none
    flip: bool = False  # whether half of the training images are mirrored left to right
    resize: int | None = None  # side in pixels that images are brought to; None keeps them

    def __call__(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Prepare one batch."""
        if generator is not None and self.padding:
            pixels = _crop(pixels, self.padding, generator)
        if generator is not None and self.flip:
            pixels = _mirror(pixels, generator)
        x = unit_interval(pixels)
        x = (x - _per_channel(self.mean, x.device)) / _per_channel(self.std, x.device)
        if self.resize is not None and self.resize != x.shape[-1]:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bilinear", antialias=True)
        return x.contiguous() if layout(x.device) is torch.contiguous_format else x


@dataclass(frozen=True)
class _Augmented:
    """A preparation, and a user's own augmentation of what it gives for training."""

    preparation: Preparation
    augment: Callable[[Tensor], Tensor]

    def __call__(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = self.preparation(pixels, generator)
        return x if generator is None else self.augment(x)


def augmented(preparation: Preparation, augment: Augment | None, side: int) -> Preparation | _Augmented:
    """Add an augmentation of training batches to a preparation.

    Args:
        preparation: of the images.
        augment: "crop_flip", a random crop after padding by an eighth of the side, and mirroring; or a function of a
            (B, C, H, W) float32 batch; or None.
        side: of the images in pixels.

    Returns:
        The preparation with it.

    Raises:
        SalunError: the augmentation is none of these.
    """
    if augment is None:
        return preparation
    if augment == "crop_flip":
        return replace(preparation, padding=side // 8, flip=True)
    if not callable(augment):
        raise SalunError(f"augment={augment!r}: must be 'crop_flip' or a function of a (B, C, H, W) batch")
    return _Augmented(preparation, augment)


@lru_cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Put one value a channel on the device, once."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _crop(pixels: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad with black and cut each image back to its size at its own random place."""
    count, _, height, width = pixels.shape
    device = pixels.device
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=generator.device)
    top, left = offsets.to(device)
    rows = top[:, None, None] + torch.arange(height, device=device)[None, :, None]
    columns = left[:, None, None] + torch.arange(width, device=device)[None, None, :]
    image = torch.arange(count, device=device)[:, None, None]
    padded = F.pad(pixels, (padding,) * 4)
    return padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


def _mirror(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    chosen = (torch.rand(len(pixels), generator=generator, device=generator.device) < 0.5).to(pixels.device)
    return torch.where(chosen[:, None, None, None], pixels.flip(-1), pixels)


def channel_statistics(pixels: Tensor | PixelFile, rows: Tensor, chunk: int = 2**22) -> tuple[list[float], list[float]]:
    """Find mean and standard deviation of each channel, reading a part at a time.

    Args:
        pixels: (M, C, H, W) uint8 store.
        rows: (N,) which images count.
        chunk: bytes read at once.

    Returns:
        Of pixels in [0, 1]; a channel that never varies has the deviation 1.
    """
    channels = pixels.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for part in rows.split(max(1, chunk // math.prod(pixels.shape[1:]))):
        taken = pixels[part].transpose(0, 1).reshape(channels, -1).cpu()
        counts += torch.stack([torch.bincount(channel, minlength=256) for channel in taken])
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ levels
    variance = share @ levels.square() - mean.square()
    std = variance.clamp_min(0).sqrt()
    return mean.tolist(), torch.where(std > 1e-6, std, torch.ones_like(std)).tolist()
