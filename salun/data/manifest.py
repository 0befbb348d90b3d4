"""Manifests: index, path, class, split and digest of every image, by which a checkpoint finds its images again."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from salun.data.dataset import Dataset, Subset
from salun.data.memmap import rearranged
from salun.data.split import learnt_and_held_out
from salun.errors import SalunError, enumerated
from salun.io.files import write_text
from salun.io.limits import read_text

_HEADER = ["index", "path", "class", "class_name", "split", "sha256"]
_TEST = "test"


class _Image(NamedTuple):
    """What a manifest says of an image."""

    path: str
    label: int
    class_name: str
    digest: str


class _Recorded(NamedTuple):
    """The images of a data set as a manifest lists them, by index."""

    train: list[_Image]
    test: list[_Image]


def manifest_path(checkpoint: Path) -> Path:
    """Name the manifest beside a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.stem}_manifest.csv")


def write_manifest(path: Path, dataset: Dataset, split_seed: int = 0) -> None:
    """Write a table of all images: index in the training or test part, path, class, split, SHA-256.

    Args:
        path: the CSV file.
        dataset: the data.
        split_seed: of the validation split.

    Raises:
        SalunError: an image cannot be read, or the file not be written.
    """
    held = set(learnt_and_held_out(dataset, split_seed)[1].tolist())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    labels = dataset.true_labels.tolist(), dataset.test.labels.tolist()
    for part, own, digests in zip((dataset.train, dataset.test), labels, dataset.digests, strict=True):
        paths = _plain_names(part) or [""] * len(digests)
        for index, (name, label, digest) in enumerate(zip(paths, own, digests, strict=True)):
            split = _TEST if part is dataset.test else "validation" if index in held else "train"
            writer.writerow([index, name, label, dataset.classes[label], split, digest])
    write_text(path, text.getvalue())


def as_recorded(dataset: Dataset, checkpoint: Path, *, moved: bool) -> Dataset:
    """Bring a data set into the order that the manifest beside a checkpoint records, so that its indices stay true.

    Args:
        dataset: as the images lie now.
        checkpoint: its file; without a manifest beside it the data are left as they are.
        moved: whether they lie in another folder, whose images must be compared by content even where names are equal.

    Returns:
        The data with the recorded paths and digests. Images that were deleted since are `absent`, and the notes name
        them.

    Raises:
        SalunError: the manifest cannot be read, or there are images now that it does not list.
    """
    path = manifest_path(checkpoint)
    if dataset.root is None or not path.is_file():
        return dataset
    recorded, parts = _read_manifest(path), (dataset.train, dataset.test)
    if not moved and all(
        _plain_names(part) == [image.path for image in images] for part, images in zip(parts, recorded, strict=True)
    ):
        known = [_with_digests(part, images) for part, images in zip(parts, recorded, strict=True)]
        return replace(dataset, train=known[0], test=known[1])
    places = _places_of(checkpoint, recorded, dataset)
    count = len(recorded.train)
    train = _rebuilt(recorded.train, places[:count], dataset)
    test = _rebuilt(recorded.test, places[count:], dataset)
    names = {image.label: image.class_name for images in recorded for image in images}
    gone = [image.path for image, place in zip([*recorded.train, *recorded.test], places, strict=True) if place is None]
    notes = [f"{dataset.name}: the parts are those that {path} records"]
    if gone:
        notes.append(f"{checkpoint}: {len(gone)} of its images deleted since, and left out: {enumerated(gone)}")
    classes = tuple(names[label] for label in sorted(names))
    return replace(dataset, train=train, test=test, classes=classes, notes=tuple(notes))


def _with_digests(part: Subset, images: list[_Image]) -> Subset:
    """Take the recorded digests, so that no file need be read for them."""
    return part._replace(digests=tuple(image.digest for image in images))


def _places_of(checkpoint: Path, recorded: _Recorded, dataset: Dataset) -> list[int | None]:
    """Find each recorded image among those of today, both parts in a row; None where it is gone."""
    labels = torch.cat([dataset.train.labels, dataset.test.labels]).tolist()
    names = [*_plain_names(dataset.train), *_plain_names(dataset.test)]
    contents = [*dataset.digests[0], *dataset.digests[1]]
    left: dict[tuple[str, str], dict[str, int]] = {}
    for place, (name, label, digest) in enumerate(zip(names, labels, contents, strict=True)):
        left.setdefault((digest, dataset.classes[label]), {})[name] = place
    images = [*recorded.train, *recorded.test]
    found = [left.get((image.digest, image.class_name), {}).pop(image.path, None) for image in images]
    for at, image in enumerate(images):  # of equal images those first that kept their paths
        alike = left.get((image.digest, image.class_name), {})
        if found[at] is None and alike:
            found[at] = alike.pop(next(iter(alike)))
    unknown = [name for alike in left.values() for name in alike]
    if unknown:
        others = f"was trained on other images than '{dataset.name}' holds: {len(unknown)} of these are not in its"
        raise SalunError(f"{checkpoint}: {others} manifest: {enumerated(unknown)}; the data have changed since")
    return found


def _rebuilt(images: list[_Image], places: Sequence[int | None], dataset: Dataset) -> Subset:
    """Put the images of one recorded part together."""
    order = torch.tensor([place or 0 for place in places], dtype=torch.int64)
    fine = [part.fine for part in (dataset.train, dataset.test) if part.fine is not None]
    labels: Tensor = torch.tensor([image.label for image in images], dtype=torch.int64)
    return Subset(
        rearranged((dataset.train.pixels, dataset.test.pixels), order),
        labels.to(dataset.train.labels.device),
        tuple(image.path for image in images),
        tuple(image.digest for image in images),
        tuple(index for index, place in enumerate(places) if place is None),
        torch.cat(fine)[order] if fine else None,
    )


def _plain_names(part: Subset) -> list[str]:
    """Give the names of images as a text file can hold them."""
    return [os.fsencode(name).decode(errors="backslashreplace") for name in part.names or ()]


def _read_manifest(path: Path) -> _Recorded:
    """Read what `write_manifest` wrote."""
    found = _Recorded([], [])
    try:
        rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        if next(rows, None) != _HEADER:
            raise ValueError(f"does not begin with {','.join(_HEADER)}")
        for row in rows:
            index, name, label, class_name, split, digest = row
            images = found.test if split == _TEST else found.train
            if int(index) != len(images) or int(label) < 0:
                raise ValueError(f"line {rows.line_num} is out of order")
            images.append(_Image(name, int(label), class_name, digest))
    except (csv.Error, ValueError) as error:
        raise SalunError(f"{path}: not a manifest: {error}") from error
    names: dict[int, str] = {}
    for image in (*found.train, *found.test):
        if names.setdefault(image.label, image.class_name) != image.class_name:
            raise SalunError(f"{path}: not a manifest: class {image.label} has two names")
    if not found.train or not found.test or sorted(names) != list(range(len(names))):
        raise SalunError(f"{path}: not a manifest: it must have training and test images, and classes from 0 on")
    return found
