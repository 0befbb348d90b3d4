"""MedMNIST: medical images of 28 pixels, by the package of its authors (Yang et al., 2023)."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salun.data.dataset import Dataset, Subset
from salun.data.download import fetch
from salun.errors import SalunError, did_you_mean
from salun.io.arrays import read_arrays, readable

_PARTS = ("train", "test")


def medmnist_classes(name: str) -> int:
    """Tell the number of classes of a data set of MedMNIST.

    Args:
        name: `medmnist:NAME`.

    Returns:
        The number.

    Raises:
        SalunError: the package is absent, or knows no such data set of images with one label each.
    """
    return len(_info_of(name)["label"])


def read_medmnist(name: str, data_dir: Path, download: bool) -> Dataset:
    """Read a data set of MedMNIST.

    Args:
        name: `medmnist:NAME`, such as medmnist:bloodmnist.
        data_dir: where `NAME.npz` lies.
        download: whether it may be fetched if it is absent.

    Returns:
        Its training and test part, neither mirrored nor cropped.

    Raises:
        SalunError: the name is unknown, or the data are absent and cannot be had, or damaged.
    """
    info, kind = _info_of(name), name.partition(":")[2]
    path = data_dir / f"{kind}.npz"
    if not path.is_file():
        reader = getattr(importlib.import_module("medmnist"), info["python_class"])
        fetch(name, data_dir, path.name, download, lambda root: reader(split="train", root=root, download=True))
    with readable(path, "images"):
        found = read_arrays(path, [f"{part}_{what}" for part in _PARTS for what in ("images", "labels")])
        train, test = (_subset(found[f"{part}_images"], found[f"{part}_labels"]) for part in _PARTS)
    notes = (f"{name}: test part: its own ({len(test.labels)} images); its validation part is not used",)
    return Dataset(name, train, test, tuple(info["label"].values()), notes=notes)


def _subset(images: np.ndarray, labels: np.ndarray) -> Subset:
    """Bring the arrays of one part to ours: (N, 28, 28) or (N, 28, 28, 3) images, (N, 1) labels."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != (len(images), 1):
        raise ValueError(f"images of shape {images.shape} and {images.dtype}, labels of shape {labels.shape}")
    pixels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Subset(torch.from_numpy(pixels.copy(order="C")), torch.from_numpy(labels[:, 0].astype(np.int64)))


def _info_of(name: str) -> dict[str, Any]:
    """Look a data set up in the package."""
    kind = name.partition(":")[2]
    try:
        known: dict[str, dict[str, Any]] = importlib.import_module("medmnist").INFO
    except ImportError as error:
        needed = "needs the package medmnist: pip install 'salun[medmnist]'"
        raise SalunError(f"data set '{name}': {needed}") from error
    usable = [key for key, info in known.items() if "multi-label" not in info["task"] and not key.endswith("3d")]
    if kind not in usable:
        raise SalunError(
            f"data set '{name}': '{kind}' unknown, or not of images with one label{did_you_mean(kind, usable)}"
        )
    return known[kind]
