"""Crop, flip, resize and normalise: whole batches, on the device."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import unit_interval
from salun.data.memmap import PixelFile
from salun.device import layout


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
