"""A small study whose every name is hostile, and the page that is made of it."""

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import salun

HOSTILE = "<img src=x onerror=alert(1)>"
TAG = "</script><script>alert(2)</script>"
CLASSES = (HOSTILE, "cat & dog", "plain")


@dataclass(frozen=True)
class Made:
    """A folder with the results of a list, and its page."""

    folder: Path
    results: salun.Results
    page: Path


def write_images(folder: Path, each: int = 18) -> None:
    """Write three classes of noise, each around its own grey."""
    chance = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = chance.integers(80 * label, 80 * label + 60, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


def make_study(folder: Path) -> Made:
    """Unlearn a class of images by two methods, twice each, keep all weights, and make the page."""
    with chdir(folder):
        write_images(Path("pets"))
        problem = {"model": "resnet_tiny", "dataset": "folder:pets", "class_to_forget": 0}
        problem |= {"recipe": {"epochs": 1, "lr": 0.05, "batch_size": 16, "schedule": "cosine"}}
        method = {"epochs": 1, "lr": 0.01, "batch_size": 16}
        entries = [
            problem | {"method": "retrain"},
            problem | {"method": "ft", **method},
            problem | {"method": "rl", **method, "use_mask": True, "mask_thr": 0.5, "tag": TAG},
        ]
        results = salun.run(entries, nexp=2, name="study", keep="all", device="cpu")
        made = salun.report("study", out="page.html", device="cpu")
        assert made.notices == ()
    return Made(folder, results, folder / "page.html")
