"""Generated images: a learnable CIFAR-shaped data set with wrong labels to memorise."""

from typing import Any

import torch
import torch.nn.functional as F

from salun.data.dataset import Dataset, Subset
from salun.errors import SalunError, did_you_mean

_MOST_BYTES = 64 * 2**30


def parse_synthetic(options: str) -> dict[str, Any]:
    """Read the options of `synthetic:`.

    Args:
        options: as in "n=1000,size=8".

    Returns:
        Every option by name, as `make_synthetic` takes it.

    Raises:
        SalunError: an option is unknown or out of bounds.
    """
    bounds = {"n": (20, 10**7), "size": (4, 512), "classes": (2, 1000), "noise": (0.0, 0.9), "seed": (0, 2**31)}
    settings: dict[str, Any] = {"n": 10_000, "size": 32, "classes": 10, "noise": 0.1, "seed": 0}
    for option in filter(None, options.split(",")):
        key, _, text = option.partition("=")
        if key not in bounds:
            raise SalunError(f"data set 'synthetic:{options}': option '{key}' unknown{did_you_mean(key, bounds)}")
        low, high = bounds[key]
        try:
            value = type(settings[key])(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise SalunError(f"data set 'synthetic:{options}': {key}={text}: must be a number from {low} to {high}")
        settings[key] = value
    if settings["n"] < 10 * settings["classes"]:
        raise SalunError(f"data set 'synthetic:{options}': n={settings['n']}: needs at least 10 images a class")
    if (pixels := 3 * settings["n"] * settings["size"] ** 2) > _MOST_BYTES:
        raise SalunError(f"data set 'synthetic:{options}': would take {pixels / 2**30:.0f} GiB; at most 64 are made")
    return settings


def make_synthetic(name: str, *, n: int, size: int, classes: int, noise: float, seed: int) -> Dataset:
    """Generate a data set: a coarse pattern a class under grains of noise.

    Args:
        name: as the user gave it.
        n: training images; a fifth as many are for testing.
        size: side in pixels.
        classes: number of classes.
        noise: share of training labels that are drawn anew.
        seed: of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(classes, 3, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)

    def subset(count: int, noise: float) -> Subset:
        labels = torch.arange(count) % classes
        pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)
        for rows in torch.arange(count).split(4096):
            grain = torch.randn(len(rows), 3, size, size, generator=generator)
            pixels[rows] = (128 + 32 * patterns[labels[rows]] + 40 * grain).clamp(0, 255).byte()
        drawn = torch.randint(0, classes, (count,), generator=generator)
        wrong = torch.rand(count, generator=generator) < noise
        return Subset(pixels, torch.where(wrong, drawn, labels))

    names = tuple(f"class {number}" for number in range(classes))
    return Dataset(name, subset(n, noise), subset(max(n // 5, classes), 0.0), names, padding=size // 8, flip=True)
