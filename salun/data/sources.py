"""Where images come from: data sets registered by name, a folder, or generated."""

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from salun.data.celeba import read_celeba
from salun.data.dataset import Dataset, Subset, held_out
from salun.data.folder import read_folder
from salun.data.medmnist import medmnist_classes, read_medmnist
from salun.data.memmap import rearranged
from salun.data.synthetic import make_synthetic, parse_synthetic
from salun.errors import SalunError, did_you_mean
from salun.io.files import find_place
from salun.registry import claim, file_of, load_installed

_OPEN = {"folder": "folder:PATH", "synthetic": "synthetic", "celeba": "celeba", "medmnist": "medmnist:NAME"}
_BUILTIN = "salun.data.builtin"
_Read = Callable[[Path, bool], Dataset]


class _Source(NamedTuple):
    """A registered data set: its reader, number of classes and subclasses, and the module that registered it."""

    read: _Read
    classes: int
    home: str
    subclasses: int = 0


SOURCES: dict[str, _Source] = {}


def dataset(name: str, *, classes: int, subclasses: int = 0) -> Callable[[_Read], _Read]:
    """Register a data set.

    Args:
        name: as in JSON and on the command line.
        classes: number of classes.
        subclasses: number of their parts; 0 where classes have none.

    Returns:
        A decorator for a function of the folder of data and whether absent data may be fetched, which gives the
        data set under that very name.

    Raises:
        TypeError: the name or the number cannot be one.
        SalunError: the name is taken.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name in _OPEN or classes < 1:
        raise TypeError(f"data set '{name}' of {classes} classes: needs a name of letters and digits, and classes")

    def register(read: _Read) -> _Read:
        claim("data set", name, read.__module__, {known: source.home for known, source in SOURCES.items()})
        SOURCES[name] = _Source(read, classes, read.__module__, subclasses)
        return read

    return register


def load(name: str, data_dir: Path = Path("data"), download: bool = True, *, skip_corrupt: bool = False) -> Dataset:
    """Load a data set by name.

    Args:
        name: a registered one, or `NAME:n=IMAGES` for a stratified subset of its training images;
            `folder:PATH[:labels=FILE][:size=PIXELS][:stream][:subclasses]`, `celeba[:ATTRIBUTE]`, `medmnist:NAME`, or
            `synthetic[:n=...,size=...,classes=...,noise=...,seed=...]`.
        data_dir: where downloaded data lie, and folders that are not found as given; large folders are cached there.
        download: whether absent data may be fetched.
        skip_corrupt: whether images of a folder that cannot be decoded are left out; they are named in `skipped`.

    Returns:
        Training and test part with their class names.

    Raises:
        SalunError: the name is unknown, or the data are absent and cannot be had, unreadable, or not as registered.
    """
    kind, _, rest = name.partition(":")
    match kind:
        case "folder":
            given = _parse_folder(name)
            root = find_place(given.path, data_dir) or given.path
            return read_folder(
                name, root, given.size, data_dir, skip_corrupt, given.labels, given.nested, given.streamed
            )
        case "synthetic":
            return make_synthetic(name, **parse_synthetic(rest))
        case "celeba":
            return read_celeba(name, data_dir, download)
        case "medmnist":
            return read_medmnist(name, data_dir, download)
    source, count = _find_source(name)
    found = source.read(data_dir, download)
    if source.home != _BUILTIN:
        _check_read(name.partition(":")[0], source, found)
    return found if count is None else _stratified(found, name, count)


def _stratified(found: Dataset, name: str, count: int) -> Dataset:
    """Take a stratified subset of the training images, the same one each time."""
    part, total, classes = found.train, len(found.train.labels), len(found.classes)
    if not 10 * classes <= count < total:
        limits = f"{10 * classes} (10 a class) to {total - 1}"
        raise SalunError(f"data set '{name}': n={count}: must be a number of training images from {limits}")
    rows = held_out(part.labels, count / total, seed=0, total=count)[0]
    names, digests = (
        None if known is None else tuple(known[row] for row in rows.tolist()) for known in (part.names, part.digests)
    )
    fine = None if part.fine is None else part.fine[rows]
    train = Subset(rearranged([part.pixels], rows), part.labels[rows], names, digests, fine=fine)
    note = f"data set '{name}': a stratified {count} of {total} training images; lists of indices count among these"
    return replace(found, name=name, train=train, notes=(*found.notes, note))


def _check_read(name: str, source: _Source, found: object) -> None:
    """Check that a function outside this package gave the data set that it is registered for."""
    place = f"data set '{name}': the function of {file_of(source.home)} gave"
    if not isinstance(found, Dataset):
        raise SalunError(f"{place} a {type(found).__name__}; it must return a salun.data.dataset.Dataset")
    if (found.name, len(found.classes)) != (name, source.classes):
        raise SalunError(f"{place} '{found.name}' of {len(found.classes)} classes; registered are {source.classes}")
    if len(found.subclasses) != source.subclasses:
        raise SalunError(f"{place} {len(found.subclasses)} subclasses; registered are {source.subclasses}")
    for part in (found.train, found.test):
        if (part.pixels.dtype, part.labels.dtype) != (torch.uint8, torch.int64):
            types = f"pixels of {part.pixels.dtype} and labels of {part.labels.dtype}"
            raise SalunError(f"{place} {types}; they must be torch.uint8 and torch.int64")


def _find_source(name: str) -> tuple[_Source, int | None]:
    """Look `NAME[:n=IMAGES]` up: the source, and how many of its training images are wanted; None for all."""
    whole, colon, option = name.partition(":")
    if whole not in SOURCES:
        load_sources()
    if whole not in SOURCES:
        raise SalunError(f"data set '{name}': unknown{did_you_mean(name, [*SOURCES, *_OPEN.values()])}")
    count = re.fullmatch(r"n=(\d{1,9})", option, re.ASCII)
    if colon and count is None:
        raise SalunError(f"data set '{name}': '{option}': must be n=IMAGES, a number of training images")
    return SOURCES[whole], None if count is None else int(count[1])


def load_sources() -> None:
    """Import the data sets of the package, and those that installed packages add."""
    importlib.import_module(_BUILTIN)
    load_installed("salun.datasets")


def class_count(name: str) -> int | None:
    """Tell the number of classes without reading the data.

    Args:
        name: a data set's name, as `load` takes it.

    Returns:
        The number, or None where only the data can tell (`folder:`).

    Raises:
        SalunError: the name is unknown or its options are wrong.
    """
    kind, _, rest = name.partition(":")
    match kind:
        case "synthetic":
            return int(parse_synthetic(rest)["classes"])
        case "folder":
            _parse_folder(name)
            return None
        case "celeba":
            return 2
        case "medmnist":
            return medmnist_classes(name)
    return _find_source(name)[0].classes


def subclass_count(name: str) -> int | None:
    """Tell the number of subclasses without reading the data.

    Args:
        name: a data set's name, as `load` takes it.

    Returns:
        The number, 0 where classes have no parts, or None where only the data can tell (`folder:PATH:subclasses`).

    Raises:
        SalunError: the name is unknown or its options are wrong.
    """
    kind = name.partition(":")[0]
    if kind == "folder":
        return None if _parse_folder(name).nested else 0
    return 0 if kind in _OPEN else _find_source(name)[0].subclasses


class _Folder(NamedTuple):
    """What a folder's name asks for."""

    path: Path
    size: int | None
    labels: str | None
    nested: bool
    streamed: bool


def _parse_folder(name: str) -> _Folder:
    """Split `folder:PATH[:labels=FILE][:size=PIXELS][:stream][:subclasses]`, the options in any order."""
    found = re.fullmatch(r"folder:(.+?)((?::(?:size|labels)=[^:]+|:subclasses|:stream)*)", name)
    if found is None:
        raise SalunError(f"data set '{name}': name the folder, as in folder:PATH")
    path, given = Path(found[1]).expanduser(), [option.partition("=") for option in found[2].split(":")[1:]]
    options = {key: value for key, _, value in given}
    if len(options) < len(given):
        raise SalunError(f"data set '{name}': an option is given twice")
    size = options.get("size")
    if size is not None and (not re.fullmatch(r"\d{1,4}", size, re.ASCII) or not 4 <= int(size) <= 1024):
        raise SalunError(f"data set '{name}': size={size}: must be a whole number of pixels from 4 to 1024")
    if {"labels", "subclasses"} <= set(options):
        raise SalunError(f"data set '{name}': subclasses are folders; a label file (labels=) names classes alone")
    side = None if size is None else int(size)
    return _Folder(path, side, options.get("labels"), "subclasses" in options, "stream" in options)
