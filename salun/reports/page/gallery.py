"""The gallery of a page: forget images with what the models before, after and retrained make of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from salun.data.dataset import Dataset
from salun.data.thumbnails import thumbnail
from salun.errors import one_line
from salun.reports.page.outputs import Sight

_MOST = 96


def gallery(sights: Sequence[Sight], dataset: Dataset | None) -> dict[str, Any] | None:
    """Gather the forget images that moved most, or that a method still knows.

    Args:
        sights: of the group's models; the first of each row is shown.
        dataset: that the images are of; None where it is not at hand.

    Returns:
        Images, class names and what each model predicts; None without outputs of a base model and of a method.
    """
    first: dict[str, Sight] = {}
    for sight in sights:
        first.setdefault(sight.title, sight)
    base = next((sight for sight in first.values() if sight.kind == "base"), None)
    methods = [sight for sight in first.values() if sight.kind == "method"]
    if base is None or not methods:
        return None
    gold = next((sight for sight in first.values() if sight.kind == "retrain"), None)
    places = _chosen(base, methods, gold)
    pictures = _pictures_of(dataset, base.indices, base.labels)
    return {
        "count": len(base.indices),
        "images": [
            {"index": int(base.indices[place]), "label": int(base.labels[place]), "picture": pictures(place),
             "name": name_of(dataset, int(base.indices[place]))}
            for place in places
        ],
        "classes": _class_names(dataset, base.probabilities.shape[1]),
        "before": _predicted(base, places),
        "retrained": None if gold is None else _predicted(gold, places),
        "after": {one_line(sight.title): _predicted(sight, places) for sight in methods},
    }  # fmt: skip


def _own(sight: Sight) -> NDArray[np.float32]:
    """Give the probability of each forget image's own class."""
    return sight.probabilities[np.arange(len(sight.labels)), sight.labels]


def _chosen(base: Sight, methods: Sequence[Sight], gold: Sight | None) -> list[int]:
    """Choose images: first those that some method still knows and retraining does not, then those that moved most."""
    known = [sight.probabilities.argmax(1) == sight.labels for sight in methods]
    still = np.any(known, axis=0)
    if gold is not None:
        still = still & (gold.probabilities.argmax(1) != gold.labels)
    moved = np.max([np.abs(_own(sight) - _own(base)) for sight in methods], axis=0)
    chosen: list[int] = np.lexsort((-moved, ~still))[:_MOST].tolist()
    return chosen


def _predicted(sight: Sight, places: Sequence[int]) -> list[list[float]]:
    """Give prediction, its probability and that of the image's own class, of some images."""
    best, own = sight.probabilities.argmax(1), _own(sight)
    return [
        [int(best[place]), round(float(sight.probabilities[place, best[place]]), 4), round(float(own[place]), 4)]
        for place in places
    ]


def _class_names(dataset: Dataset | None, count: int) -> list[str]:
    """Name classes, by number where no data are at hand."""
    return [str(label) for label in range(count)] if dataset is None else [one_line(name) for name in dataset.classes]


def name_of(dataset: Dataset | None, index: int) -> str:
    """Name a training image by its path, or its number where it has none."""
    named = dataset is not None and dataset.train.names is not None and index < len(dataset.train.names)
    return one_line(dataset.train.names[index]) if named and dataset and dataset.train.names else f"image {index}"


def _pictures_of(
    dataset: Dataset | None, indices: NDArray[np.int64], labels: NDArray[np.int64]
) -> Callable[[int], str | None]:
    """Give what draws the image at a place; nothing is drawn where the data at hand have other labels."""
    if dataset is None or indices.max(initial=-1) >= len(dataset.train.labels):
        return lambda place: None
    if (dataset.train.labels.cpu().numpy()[indices] != labels).any():
        return lambda place: None
    pixels = dataset.train.pixels
    return lambda place: thumbnail(pixels[torch.tensor([int(indices[place])])][0])
