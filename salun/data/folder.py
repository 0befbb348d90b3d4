"""Images in folders: which files are of which class, and which of them are the test part."""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from salun.data.dataset import Dataset, Subset, held_out
from salun.data.decode import KEPT, decode, decode_into_memory, faults_of, side_of
from salun.data.label_files import PARTS, ByClass, by_parts, read_annotations, read_labels
from salun.data.memmap import PixelFile
from salun.errors import SalunError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
_MOST_NAMED = 3
_STREAMED_SIZE = 224
_Listed = tuple[list[str], Tensor]  # files and (N,) int64 labels of a part's images


class _Layout(NamedTuple):
    """Which images are of which class, in the training and in the test part."""

    train: ByClass
    test: ByClass | None  # None: to be drawn from the training part
    title: str  # what the test part is called
    kind: str  # what names a class
    notes: list[str]  # a line for each thing that is not used


def read_folder(
    name: str,
    root: Path,
    size: int | None,
    cache: Path,
    skip_corrupt: bool = False,
    labels: str | None = None,
    nested: bool = False,
    streamed: bool = False,
) -> Dataset:
    """Read `root/CLASS/image`, `root/train/CLASS/image` with `root/test/` or `root/val/`, or what a label file lists.

    Images are numbered in turn over the classes, so that any run of indices holds all classes. The test part is
    `test/`, else `val/`, else a stratified fifth; its notices say which.

    Args:
        name: what the data set is called.
        root: the folder.
        size: side in pixels, shorter side scaled and centre cut out; None: the images' own if all are alike, else 64.
        cache: where the pixels are kept if they exceed `SALUN_MEMORY_LIMIT` bytes (2 GiB unless set), and statistics.
        skip_corrupt: whether images that cannot be decoded are left out, for which each is decoded once more.
        labels: name of a label file, in the folder or elsewhere, as `read_labels` reads it.
        nested: whether the folders in a class's folder are its subclasses; else images are of the class at any depth.
        streamed: whether images are decoded as batches ask for them, cropped at random for training (`size`: 224).

    Returns:
        RGB images, named by their paths in the folder; classes are the folders' names in alphabetical order.

    Raises:
        SalunError: the folder is absent, holds no images, or one of them cannot be decoded; or the label file is wrong.
    """
    if not os.path.isdir(root):
        raise SalunError(f"data set '{name}': {root} is not a folder; it must hold one folder of images a class")
    found = _from_folders(root) if labels is None else _from_labels(root, root / labels)
    skipped: list[str] = []
    if skip_corrupt:
        tested = None if found.test is None else _without_corrupt(found.test, skipped)
        found = found._replace(train=_without_corrupt(found.train, skipped), test=tested)
    classes = list(found.train)
    train, test, told = _divided(found, classes, f"data set '{name}'")
    side = size or (_STREAMED_SIZE if streamed else side_of([*chain.from_iterable(found.train.values())]))
    fine, subclasses = _subclasses_of([train[0], test[0]], root) if nested else ([None, None], ())
    subsets = []
    for (files, known), numbers in zip((train, test), fine, strict=True):
        names = _names_of(files, root)
        pixels = _streamed(root, names, side, cache) if streamed else decode(files, side, cache)
        subsets.append(Subset(pixels, known, names, fine=numbers))
    notes = (f"test part: {told}", *found.notes, *_numbered_otherwise(classes, found.kind))
    return Dataset(
        name,
        subsets[0],
        subsets[1],
        tuple(classes),
        padding=0 if streamed else side // 8,
        flip=True,
        skipped=tuple(skipped),
        root=root,
        notes=tuple(f"{name}: {line}" for line in notes),
        subclasses=subclasses,
    )


def _streamed(root: Path, names: tuple[str, ...], side: int, cache: Path) -> PixelFile:
    """Let images be decoded as batches ask for them."""
    from salun.data.stream import StreamedFiles  # only now: torchvision takes a second to import

    return StreamedFiles(root, names, side, cache / KEPT)


def _subclasses_of(parts: list[list[str]], root: Path) -> tuple[list[Tensor], tuple[str, ...]]:
    """Number the subclasses of each part's images; a name that two classes use begins with the class."""
    skipped = int(bool(_class_folders(root / "train")))
    paths = []
    for file in (file for files in parts for file in files):
        folders = Path(file).relative_to(root).parts[skipped:-1]
        if len(folders) < 2:
            raise SalunError(f"{file}: lies in no folder of a subclass; with :subclasses each image must")
        paths.append(folders[:2])
    known = sorted(set(paths))
    places = {path: number for number, path in enumerate(known)}
    shared = Counter(name for _, name in known)
    numbers = torch.tensor([places[path] for path in paths], dtype=torch.int64)
    names = tuple(name if shared[name] == 1 else f"{parent}/{name}" for parent, name in known)
    return list(numbers.split([len(files) for files in parts])), names


def _divided(found: _Layout, classes: list[str], where: str) -> tuple[_Listed, _Listed, str]:
    """Number the images of the training and the test part, and say which the latter is."""
    files, labels = _in_turn(found.train, classes)
    if found.test is None:
        out, left = held_out(labels, 0.2, seed=0)
        if not len(out):
            raise SalunError(f"{where}: its {len(files)} images are too few a class to set a test part aside")
        train, test = (([files[place] for place in places], labels[places]) for places in (left, out))
        return train, test, f"a stratified fifth of {_count(len(files))}, drawn by seed 0"
    if unknown := sorted(set(found.test) - set(classes)):
        image = found.test[unknown[0]][0]
        raise SalunError(f"{where}: class '{unknown[0]}' of {image} has no counterpart in the training part, train")
    test = _in_turn(found.test, classes)
    return (files, labels), test, f"{found.title} ({_count(len(test[0]))})"


def read_class_folders(root: Path, size: int | None = None) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """Read all images of `root/CLASS/image` into memory, numbered in turn over the classes.

    Args:
        root: the folder.
        size: side in pixels, as `read_folder` takes it.

    Returns:
        (N, 3, size, size) uint8 pixels, (N,) int64 labels, class names by label, and each image's path in the folder.

    Raises:
        SalunError: the folder is absent, is divided into parts, holds no images, or one of them cannot be decoded.
    """
    if not root.is_dir():
        raise SalunError(f"{root} is not a folder; it must hold one folder of images a class")
    if parts := [folder.name for folder in _class_folders(root) if folder.name in PARTS and _class_folders(folder)]:
        raise SalunError(f"{root}: holds parts ({', '.join(parts)}), not classes; salun.load('folder:{root}') reads it")
    by_class = _by_folder(root)
    files, labels = _in_turn(by_class, list(by_class))
    return decode_into_memory(files, size or side_of(files)), labels, list(by_class), list(_names_of(files, root))


def _names_of(files: list[str], root: Path) -> tuple[str, ...]:
    """Name images by their paths in a folder."""
    before = 0 if root == Path() else len(os.path.join(root, ""))
    return tuple(path[before:].replace(os.sep, "/") for path in files)


def _from_folders(root: Path) -> _Layout:
    """Find the parts of a data set in which folders name the classes."""
    if not _class_folders(root / "train"):
        return _Layout(_by_folder(root), None, "", "folder", [])
    train, test, title, notes = _by_folder(root / "train"), None, "", []
    folders = {folder.name: folder for folder in _class_folders(root)}
    for part in ("test", "val"):
        if part in folders and test is not None:
            notes.append(f"{part}/ is not used: validation images are drawn from train/")
        elif part in folders:
            test, title = _labelled(folders[part], train), f"{part}/"
            if test is None:
                notes.append(f"{part}/ is not used: no folder in it is a class of train/")
    notes += [f"{part}/ is not used: parts are {', '.join(PARTS)}" for part in folders if part not in PARTS]
    return _Layout(train, test, title, "folder", notes)


def _labelled(folder: Path, classes: ByClass) -> ByClass | None:
    """List the images of a part by class; None where it has no labels, as TinyImageNet's `test/images/`."""
    if (annotated := read_annotations(folder)) is not None:
        return annotated
    inner = [inside.name for inside in _class_folders(folder)]
    return None if not inner or (len(inner) == 1 and inner[0] not in classes) else _by_folder(folder)


def _from_labels(root: Path, file: Path) -> _Layout:
    """Find the parts of a data set whose classes stand in a label file."""
    parts = read_labels(root, file)
    if len(parts["train"]) < 2:
        raise SalunError(f"{file}: its training images are of 1 class; at least 2 are needed")
    listed = {path for by_class in parts.values() for paths in by_class.values() for path in paths}
    rest = sum(path not in listed for path in _images_in(root))
    notes = [f"{_count(rest)} that {file.name} does not list: not used"] if rest else []
    if {"test", "val"} <= set(parts):
        notes.append(f"split val of {file.name} is not used: validation images are drawn from split train")
    tested = "test" if "test" in parts else "val"
    return _Layout(parts["train"], parts.get(tested), f"split {tested} of {file.name}", "label", notes)


def _count(number: int) -> str:
    """Count images in words."""
    return f"{number} image" if number == 1 else f"{number} images"


def _by_folder(root: Path) -> ByClass:
    """List the images of each class folder."""
    folders = _class_folders(root)
    if len(folders) < 2:
        raise SalunError(f"{root}: holds {len(folders)} class folder(s); at least 2 are needed")
    found = {folder.name: _images_in(folder) for folder in folders}
    for folder in folders:
        if not found[folder.name]:
            raise SalunError(f"{folder}: holds no image ({', '.join(sorted(_SUFFIXES))})")
    return found


def _class_folders(root: Path) -> list[Path]:
    """Find the folders that name classes."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_in(folder: Path) -> list[str]:
    """List the images of a folder, at any depth; hidden files and folders are a system's own."""
    found, inner = [], [str(folder)]
    while inner:
        for entry in _entries(inner.pop()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.path)
            elif _is_image(entry):
                found.append(entry.path.removeprefix(f".{os.sep}"))  # as pathlib spells it
    return sorted(found, key=by_parts)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """List what is in a folder; unlike pathlib, this asks the system once a folder, not once a file."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SalunError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tell images by their names, and by what links lead to."""
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in _SUFFIXES and (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path))


def _without_corrupt(by_class: ByClass, skipped: list[str]) -> ByClass:
    """Leave out images that cannot be decoded, with a line for each."""
    sound = {}
    for name, images in by_class.items():
        faults = {path: fault for path, fault in zip(images, faults_of(images), strict=True) if fault is not None}
        sound[name] = [path for path in images if path not in faults]
        skipped += faults.values()
        if not sound[name]:
            raise SalunError(f"class '{name}': holds no image that can be decoded: {skipped[-1]}")
    return sound


def _in_turn(by_class: ByClass, classes: list[str]) -> _Listed:
    """Number images in turn over the classes."""
    lists = [by_class.get(name, []) for name in classes]
    labels = np.repeat(np.arange(len(lists)), [len(files) for files in lists])
    order = np.lexsort((labels, np.concatenate([np.arange(len(files)) for files in lists])))
    files = [*chain.from_iterable(lists)]
    return [files[place] for place in order.tolist()], torch.from_numpy(labels[order])


def _numbered_otherwise(classes: Sequence[str], kind: str) -> list[str]:
    """Tell of classes whose name is another number than their own."""
    odd = [
        f"class {number} is {kind} '{name}'"
        for number, name in enumerate(classes)
        if name.isdecimal() and int(name) != number
    ]
    more = f" and {len(odd) - _MOST_NAMED} others" if len(odd) > _MOST_NAMED else ""
    told = f"{', '.join(odd[:_MOST_NAMED])}{more}: classes are numbered from 0 in the order of their names"
    return [told] if odd else []
