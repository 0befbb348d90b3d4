"""Images in folders, one folder a class: in memory, or in a file where they are many."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from salun.data.dataset import Dataset, Subset, held_out
from salun.data.memmap import PixelFile
from salun.errors import SalunError
from salun.io.files import replacing

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
MEMORY_LIMIT = "SALUN_MEMORY_LIMIT"
_DEFAULT_LIMIT = 2 * 1024**3
_MIXED_SIZE = 64
# Of Pillow's decoders those of the above: others start programs, or are not meant for pictures from strangers.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
# Pixels: Pillow's own limit, beyond which it warns of a decompression bomb.
_LARGEST_IMAGE = 89_478_485


class _Listing(NamedTuple):
    """The images of a folder: class names, files, their labels, and a line for each that was skipped."""

    classes: list[str]
    files: list[Path]
    labels: list[int]
    skipped: tuple[str, ...]


def read_folder(name: str, root: Path, size: int | None, cache: Path, skip_corrupt: bool = False) -> Dataset:
    """Read `root/CLASS/image` or `root/train/CLASS/image` with `root/test/CLASS/image`.

    Images are numbered in turn over the classes (first of each, second of each, ...), so that any run of indices holds
    all classes. Without a test folder a stratified fifth is the test part.

    Args:
        name: what the data set is called.
        root: the folder.
        size: side in pixels, shorter side scaled and centre cut out; None: the images' own if all are alike, else 64.
        cache: where a file of them is kept if the pixels exceed `SALUN_MEMORY_LIMIT` bytes (2 GiB unless set).
        skip_corrupt: whether images that cannot be decoded are left out, for which each is decoded once more.

    Returns:
        RGB images; classes are the folders' names in alphabetical order.

    Raises:
        SalunError: the folder is absent, holds no images, or one of them cannot be decoded.
    """
    if not os.path.isdir(root):
        raise SalunError(f"data set '{name}': {root} is not a folder; it must hold one folder of images a class")
    parted = bool(_class_folders(root / "train"))
    classes, files, labels, skipped = _list_images(root / "train" if parted else root, skip_corrupt)
    side = size or _common_size(files) or _MIXED_SIZE
    if parted and (root / "test").is_dir():
        test_classes, test_files, test_labels, gone = _list_images(root / "test", skip_corrupt)
        skipped += gone
        if unknown := sorted(set(test_classes) - set(classes)):
            raise SalunError(f"data set '{name}': {root / 'test' / unknown[0]} has no counterpart in train/")
        renumbered = torch.tensor([classes.index(test_classes[label]) for label in test_labels])
        train, test = _decode(files, side, cache), _decode(test_files, side, cache)
        named = _names_of(files, root), _names_of(test_files, root)
        parts = Subset(train, torch.tensor(labels), named[0]), Subset(test, renumbered, named[1])
    else:
        known = torch.tensor(labels)
        out, left = held_out(known, 0.2, seed=0)
        if not len(out):
            raise SalunError(f"data set '{name}': {root} holds too few images a class to set a test part aside")
        chosen = [[files[place] for place in places] for places in (left, out)]
        pixels = [_decode(each, side, cache) for each in chosen]
        parts = (
            Subset(pixels[0], known[left], _names_of(chosen[0], root)),
            Subset(pixels[1], known[out], _names_of(chosen[1], root)),
        )
    return Dataset(name, *parts, tuple(classes), padding=side // 8, flip=True, skipped=skipped, root=root)


def _names_of(files: list[Path], root: Path) -> tuple[str, ...]:
    """Name images by their paths in a folder."""
    return tuple(path.relative_to(root).as_posix() for path in files)


def read_class_folders(root: Path, size: int | None = None) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """Read all images of `root/CLASS/image` into memory, numbered in turn over the classes.

    Args:
        root: the folder.
        size: side in pixels, as `read_folder` takes it.

    Returns:
        (N, 3, size, size) uint8 pixels, (N,) int64 labels, class names by label, and each image's path in the folder.

    Raises:
        SalunError: the folder is absent, holds no images, or one of them cannot be decoded.
    """
    if not root.is_dir():
        raise SalunError(f"{root} is not a folder; it must hold one folder of images a class")
    classes, files, labels, _ = _list_images(root, skip_corrupt=False)
    pixels = _decode_into_memory(files, size or _common_size(files) or _MIXED_SIZE)
    return pixels, torch.tensor(labels), classes, list(_names_of(files, root))


def _list_images(root: Path, skip_corrupt: bool) -> _Listing:
    """Number the images of a folder in turn over its classes."""
    folders = _class_folders(root)
    if len(folders) < 2:
        raise SalunError(f"{root}: holds {len(folders)} class folder(s); at least 2 are needed")
    found: list[tuple[int, int, Path]] = []
    skipped: list[str] = []
    for label, folder in enumerate(folders):
        images = sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)) and path.is_file())
        if not images:
            raise SalunError(f"{folder}: holds no image ({', '.join(sorted(_SUFFIXES))})")
        if skip_corrupt:
            faults = {path: fault for path in images if (fault := _fault_of_image(path)) is not None}
            images, skipped = [path for path in images if path not in faults], [*skipped, *faults.values()]
            if not images:
                raise SalunError(f"{folder}: holds no image that can be decoded")
        found += [(place, label, path) for place, path in enumerate(images)]
    found.sort()
    files, labels = [path for _, _, path in found], [label for _, label, _ in found]
    return _Listing([folder.name for folder in folders], files, labels, tuple(skipped))


def _class_folders(root: Path) -> list[Path]:
    """Find the folders that name classes."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    """Tell images by their names; hidden files and folders are a system's own."""
    return path.suffix.lower() in _SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _common_size(files: list[Path]) -> int | None:
    """Find the side that all images share, from their headers."""
    sizes = set()
    for path in files:
        with _opened(path) as image:
            sizes.add(image.size)
        if len(sizes) > 1:
            return None
    width, height = sizes.pop()
    return width if width == height else None


def _decode(files: list[Path], size: int, cache: Path) -> Tensor | PixelFile:
    """Bring images to one size as uint8, in memory or in a file."""
    shape = (len(files), 3, size, size)
    if int(np.prod(shape)) <= _memory_limit():
        return _decode_into_memory(files, size)
    path = cache / "folders" / f"{_fingerprint(files, size)}.npy"
    if not path.exists():
        with replacing(path) as temporary, temporary.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for image in _pixels_of(files, size):
                out.write(image.tobytes())
    return PixelFile(path)


def _decode_into_memory(files: list[Path], size: int) -> Tensor:
    """Bring images to one size: (N, 3, size, size) uint8."""
    pixels = np.empty((len(files), 3, size, size), np.uint8)
    for place, image in enumerate(_pixels_of(files, size)):
        pixels[place] = image
    return torch.from_numpy(pixels)


def _memory_limit() -> int:
    """Read how many bytes of a folder's pixels may be held in memory."""
    text = os.environ.get(MEMORY_LIMIT, str(_DEFAULT_LIMIT))
    if not text.isdecimal():
        raise SalunError(f"{MEMORY_LIMIT}={text}: must be a whole number of bytes")
    return int(text)


def _pixels_of(files: list[Path], size: int) -> Iterator[np.ndarray]:
    """Decode one image after another."""
    for path in files:
        fitted = ImageOps.fit(_decoded(path), (size, size), Image.Resampling.BILINEAR)
        yield np.asarray(fitted).transpose(2, 0, 1)


def _decoded(path: Path) -> Image.Image:
    """Decode an image, the first one of a file that holds several."""
    with _opened(path) as image, _decodable(path), warnings.catch_warnings(action="ignore"):
        return _in_colour(image)


def _fault_of_image(path: Path) -> str | None:
    """Say why an image cannot be decoded."""
    try:
        _decoded(path)
    except SalunError as error:
        return str(error)
    return None


def _in_colour(image: Image.Image) -> Image.Image:
    """Convert an image to RGB; grey levels of 16 bits are scaled, where Pillow would cut them off at 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _opened(path: Path) -> Image.Image:
    """Open an image file."""
    with _decodable(path), warnings.catch_warnings(action="ignore"):
        image = Image.open(path, formats=_FORMATS)
        if image.width * image.height > _LARGEST_IMAGE:
            image.close()
            raise ValueError(f"{image.width} x {image.height} pixels, more than the {_LARGEST_IMAGE} that are decoded")
        return image


@contextmanager
def _decodable(path: Path) -> Iterator[None]:
    """Turn whatever a broken image raises into one line that names it."""
    try:
        yield
    except Exception as error:  # decoders raise errors of every kind on a broken file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SalunError(f"{path}: cannot be decoded: {reason}") from error


def _fingerprint(files: list[Path], size: int) -> str:
    """Identify files by path, length and time of change."""
    digest = hashlib.sha256(str(size).encode())
    for path in files:
        status = path.stat()
        digest.update(os.fsencode(path.resolve()) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
