"""Forget-set files: images named by index, by path or by digest, as JSON, text, CSV or a NumPy array."""

import csv
import io
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from salun.data.dataset import Dataset
from salun.errors import SalunError, enumerated, nearest
from salun.io.arrays import read_array, readable
from salun.io.files import write_text
from salun.io.limits import read_plain, read_text

Order = Literal["salun", "imagefolder"]
_COLUMNS = ("path", "sha256", "index")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_NUMBER = re.compile(r"-?\d{1,18}")
_MOST_COMPARED = 10_000
_MOST_SHOWN = 3
# torchvision.datasets.folder.IMG_EXTENSIONS: ImageFolder counts no others.
_COUNTED = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class _Listed(NamedTuple):
    """What a forget-set file names: sorted indices, each once."""

    train: Tensor  # into the training part
    test: Tensor  # into the test part
    first: tuple[str, ...]  # names of the images that the first indices of the file mean; of data without names none


def read_forget(path: Path, dataset: Dataset, order: Order = "salun") -> _Listed:
    """Read a forget-set file.

    Args:
        path: a list of training indices, paths in the data set's folder, or SHA-256 digests: `.txt` with one a line,
            `.csv` with a column path, sha256 or index, `.npy` with an array of indices; any other name is read as JSON.
        dataset: that the images are of.
        order: that indices count in: ours, or that of torchvision's ImageFolder.

    Returns:
        The images; a digest names every image of that content.

    Raises:
        SalunError: the file is no such list, empty, or names an image that the data set does not hold.
    """
    entries = _READERS.get(path.suffix.lower(), _from_json)(path)
    if not entries:
        raise SalunError(f"{path}: names no image; must be a list of indices, paths or SHA-256 digests, not empty")
    return _found(path, entries, dataset, order)


def write_forget(path: Path, listed: Tensor) -> None:
    """Write indices into the training part as the file that `--itf` and `idxs_to_forget` read."""
    write_text(path, json.dumps(listed.tolist()) + "\n")


def unknown_names(where: str, unknown: Sequence[str], names: Collection[str]) -> SalunError:
    """Say that images are not there: the first of them, their number, and what the first was meant to be.

    Args:
        where: they are named.
        unknown: what the user wrote, at least one.
        names: of the images that there are.
    """
    near = nearest(unknown[0], names) if len(names) <= _MOST_COMPARED else None
    hint = f"; did you mean '{near}'?" if near else ""
    shown = enumerated([f"'{name}'" for name in unknown])
    return SalunError(f"{where}: {shown}: not among the names of {len(names)} images{hint}")


def _from_json(path: Path) -> list[Any]:
    """Read a JSON list."""
    content = read_plain(path)
    if not isinstance(content, list) or not content:
        raise SalunError(f"{path}: must be a JSON list of training indices, paths or digests, not empty")
    return content


def _from_text(path: Path) -> list[Any]:
    """Read one image a line."""
    return [_number_or_text(line) for line in map(str.strip, read_text(path).splitlines()) if line]


def _from_csv(path: Path) -> list[Any]:
    """Read a column of a table: of paths, else of digests, else of indices."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise SalunError(f"{path}: not a readable table: {error}") from error
    columns = list(rows[0]) if rows else []
    for column in _COLUMNS:
        values = [row.get(column) or "" for row in rows]
        if rows and all(values):
            return [_number_or_text(value) if column == "index" else value for value in values]
    raise SalunError(f"{path}: must have rows, and a column path, sha256 or index that is filled; has {columns}")


def _from_array(path: Path) -> list[Any]:
    """Read an array of indices."""
    with readable(path, "indices"):
        array = read_array(path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SalunError(f"{path}: must be a list of whole numbers; is {array.dtype} of shape {array.shape}")
    return list(array.tolist())


_READERS = {".txt": _from_text, ".csv": _from_csv, ".npy": _from_array}


def _number_or_text(text: str) -> int | str:
    """Take digits for an index."""
    return int(text) if _NUMBER.fullmatch(text) else text


class _Known(NamedTuple):
    """By what images are found; a place is an index into the training part with the test part behind it."""

    numbered: Sequence[int]  # places by index
    names: dict[str, int]
    digests: dict[str, list[int]]
    data: str  # name of the data set


def _found(path: Path, entries: list[Any], dataset: Dataset, order: Order) -> _Listed:
    """Look entries up."""
    count = len(dataset.train.labels)
    numbered = _as_imagefolder_counts(path, dataset) if order == "imagefolder" else range(count)
    every = [*(dataset.train.names or ()), *(dataset.test.names or ())]
    names = {name: place for place, name in enumerate(every)}
    digests: dict[str, list[int]] = {}
    if any(isinstance(entry, str) and entry not in names and _DIGEST.fullmatch(entry) for entry in entries):
        for place, digest in enumerate([*dataset.digests[0], *dataset.digests[1]]):
            digests.setdefault(digest, []).append(place)
    known = _Known(numbered, names, digests, dataset.name)
    places: set[int] = set()
    unknown: list[str] = []
    for number, entry in enumerate(entries, 1):
        found = _places_of(f"{path}: entry {number}", entry, known)
        places.update(found)
        unknown += [] if found else [entry]
    if unknown and names:
        raise unknown_names(str(path), unknown, names)
    if unknown:
        raise SalunError(f"{path}: {enumerated(unknown)}: no image of '{dataset.name}' has this digest")
    ordered = torch.tensor(sorted(places), dtype=torch.int64)
    first = [every[numbered[entry]] for entry in entries if every and type(entry) is int][:_MOST_SHOWN]
    return _Listed(ordered[ordered < count], ordered[ordered >= count] - count, tuple(first))


def _places_of(where: str, entry: Any, known: _Known) -> list[int]:
    """Look one entry up; none where it is a path or a digest of no image."""
    if type(entry) is int:
        last = len(known.numbered) - 1
        if not 0 <= entry <= last:
            part = "the training part" if isinstance(known.numbered, range) else "ImageFolder's order"
            raise SalunError(f"{where}: index {entry} is not in {part} (0 to {last})")
        return [known.numbered[entry]]
    if not isinstance(entry, str):
        raise SalunError(f"{where}: {json.dumps(entry)[:60]} is not an index, a path or a digest")
    if entry in known.names:
        return [known.names[entry]]
    if not known.names and not _DIGEST.fullmatch(entry):
        reason = f"{json.dumps(entry)[:60]} is not an index or SHA-256 digest, and '{known.data}' has no paths"
        raise SalunError(f"{where}: {reason}")
    return known.digests.get(entry.lower(), [])


def _as_imagefolder_counts(path: Path, dataset: Dataset) -> list[int]:
    """List places in the order of torchvision's ImageFolder: class by class, file by file.

    It is that of the folder `train/` where there is one, else of the whole folder, from which our test part was drawn.
    """
    train, test = dataset.train.names, dataset.test.names
    if train is None or test is None or dataset.skipped:
        lacks = "images were skipped, which ImageFolder counts" if dataset.skipped else "it is no folder of images"
        raise SalunError(f"{path}: indices in ImageFolder's order: '{dataset.name}': {lacks}")
    is_parted = {PurePosixPath(name).parts[0] for name in train} == {"train"}
    names = train if is_parted else [*train, *test]

    def key(place: int) -> tuple[str, str, str]:
        file = PurePosixPath(names[place])
        return file.parts[int(is_parted)], str(file.parent), file.name

    return sorted((place for place, name in enumerate(names) if name.lower().endswith(_COUNTED)), key=key)
