"""Folders of small pictures, one folder a class."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw(root: Path, counts: dict[str, int], seed: int = 0) -> None:
    """Write `root/CLASS/00.png`, `01.png`, ... of 8 x 8 pixels, so many of each class, all different."""
    random = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")


def draw_many(root: Path, parts: dict[str, int], classes: int, side: int = 32) -> None:
    """Write `root/PART/n0000/0000.jpg`, ...: so many smooth pictures of each class in each part."""
    random = np.random.default_rng(0)
    for part, count in parts.items():
        for label in range(classes):
            folder = root / part / f"n{label:04}"
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                width, height = random.integers(side, 2 * side, 2).tolist()
                small.resize((width, height)).save(folder / f"{number:04}.jpg")
