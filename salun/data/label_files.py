"""Files that say which image is of which class: CSV and JSON label files, and TinyImageNet's annotations."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from salun.errors import SalunError
from salun.io.limits import MIB, check_length, read_plain

ByClass = dict[str, list[str]]  # files of the images of each class, classes in the order of their numbers
PARTS = ("train", "val", "test")
# Ten million lines of 50 characters.
_LARGEST = 512 * MIB
_COLUMNS = "path, label and, where the parts are given, split"
_Row = tuple[str, Any, Any, Any]  # where it stands, then path, label, split


def read_labels(root: Path, file: Path) -> dict[str, ByClass]:
    """Read a label file.

    Args:
        root: the folder of images.
        file: `.csv` with the columns path, label and perhaps split, or `.json`: a list of objects with these keys, or
            one object of labels by path. Paths are relative to `root`; a split is train, val or test.

    Returns:
        For each part that is given, "train" where none is, its images by class; numeric labels in the order of their
        numbers, others in alphabetical order.

    Raises:
        SalunError: the file cannot be read, or an entry is wrong or names no file in `root`.
    """
    read = {".csv": _csv_rows, ".json": _json_rows}.get(file.suffix.lower())
    if read is None:
        raise SalunError(f"{file}: a label file ends in .csv or .json")
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    seen: set[str] = set()
    divided = None
    for place, path, label, split in read(file):
        image = _checked_image(root, f"{file}: {place}", path)
        if image in seen:
            raise SalunError(f"{file}: {place}: {path} is listed twice")
        if type(label) is not int and (not isinstance(label, str) or not label.strip()):
            raise SalunError(f"{file}: {place}: label {label!r}: must be a class name or a whole number")
        divided = bool(split) if divided is None else divided
        if (split or "") not in (PARTS if divided else ("",)):
            wanted = "must be train, val or test" if divided else "earlier entries give none"
            raise SalunError(f"{file}: {place}: split {split or ''!r}: {wanted}")
        seen.add(image)
        found[split or "train"][str(label).strip()].append(image)
    if "train" not in found:
        raise SalunError(f"{file}: lists no training images")
    return {part: _ordered(by_class) for part, by_class in found.items()}


def read_annotations(folder: Path) -> ByClass | None:
    """Read the labels of TinyImageNet's validation part, `val/val_annotations.txt` beside `val/images/`.

    Args:
        folder: the part.

    Returns:
        Its images by class; None where the file is absent.

    Raises:
        SalunError: the file cannot be read, or a line is wrong or names no file.
    """
    file = folder / f"{folder.name}_annotations.txt"
    if not file.is_file():
        return None
    found: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(_lines(file), 1):
        name, _, rest = line.rstrip("\n").partition("\t")
        label = rest.partition("\t")[0]
        if not label:
            raise SalunError(f"{file}: line {number}: must hold a file name and a class, between tabs")
        found[label].append(_checked_image(folder / "images", f"{file}: line {number}", name))
    return _ordered(found)


def by_parts(path: str) -> list[str]:
    """Order files folder by folder, as `pathlib` does.

    Args:
        path: of a file.

    Returns:
        What to sort by.
    """
    return path.split(os.sep)


def _ordered(by_class: ByClass) -> ByClass:
    """Order the classes and the images of each."""
    numeric = all(label.isdecimal() for label in by_class)
    return {
        label: sorted(by_class[label], key=by_parts)
        for label in sorted(by_class, key=lambda label: (int(label) if numeric else 0, label))
    }


def _checked_image(root: Path, place: str, name: Any) -> str:
    """Find an image that is named by its path in a folder."""
    if not isinstance(name, str) or not name:
        raise SalunError(f"{place}: path {name!r}: must be that of an image, relative to {root}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not (root / path).is_file():
        raise SalunError(f"{place}: {name}: no such image in {root}")
    return str(root / path)


def _lines(file: Path) -> Iterator[str]:
    """Read the lines of a text."""
    check_length(file, _LARGEST)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            yield from text
    except (OSError, UnicodeDecodeError) as error:
        raise SalunError(f"{file}: cannot be read: {error}") from error


def _csv_rows(file: Path) -> Iterator[_Row]:
    """Read the rows of a CSV file."""
    reader = csv.DictReader(_lines(file), strict=True)
    try:
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            columns = ", ".join(reader.fieldnames or ()) or "none"
            raise SalunError(f"{file}: its columns are {columns[:200]}; must be {_COLUMNS}")
        for row in reader:
            yield f"line {reader.line_num}", row["path"], row["label"], row.get("split")
    except csv.Error as error:
        raise SalunError(f"{file}: line {reader.reader.line_num}: no CSV: {error}") from error


def _json_rows(file: Path) -> Iterable[_Row]:
    """Read the entries of a JSON file."""
    content = read_plain(file, _LARGEST)
    if isinstance(content, dict):
        return [(f"key {path!r}", path, label, None) for path, label in content.items()]
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise SalunError(f"{file}: must be a list of objects with the keys {_COLUMNS}, or one object of labels by path")
    return [
        (f"entry {number}", entry.get("path"), entry.get("label"), entry.get("split"))
        for number, entry in enumerate(content, 1)
    ]
