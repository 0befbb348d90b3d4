"""Image files as pixels of one size: in memory, or in a file where they are many."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from salun.data.memmap import PixelFile
from salun.device import granted_cores
from salun.errors import SalunError
from salun.io.files import replacing

MEMORY_LIMIT = "SALUN_MEMORY_LIMIT"
KEPT = "folders"
_DEFAULT_LIMIT = 2 * 1024**3
_MIXED_SIZE = 64
# Of Pillow's decoders those of pictures: others start programs, or are not meant for files from strangers.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
# Pixels: Pillow's own limit, beyond which it warns of a decompression bomb.
_LARGEST_IMAGE = 89_478_485
# Files of pixels that were decoded otherwise are not taken: 2 turns images upright.
_DECODED_BY = 2
_AHEAD = 8  # images a core that are decoded before they are asked for


def side_of(files: list[str]) -> int:
    """Choose the side in pixels of images: their own if all are alike and square, from their headers, else 64.

    Args:
        files: at least one image.

    Raises:
        SalunError: one is no image.
    """
    sizes = set()
    with unwarned():
        for path in files:
            with _opened(path) as image:
                sizes.add(image.size)
            if len(sizes) > 1:
                return _MIXED_SIZE
    width, height = sizes.pop()
    return width if width == height else _MIXED_SIZE


def decode(files: list[str], size: int, cache: Path) -> Tensor | PixelFile:
    """Bring images to one size, as RGB, upright as their EXIF orientation says.

    Args:
        files: N images.
        size: side in pixels; the shorter side is scaled to it and the centre cut out.
        cache: where a file of them is kept if the pixels exceed `SALUN_MEMORY_LIMIT` bytes (2 GiB unless set).

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        SalunError: an image cannot be decoded.
    """
    shape = (len(files), 3, size, size)
    if int(np.prod(shape)) <= _memory_limit():
        return decode_into_memory(files, size)
    path = cache / KEPT / f"{fingerprint(files, size)}.npy"
    if not path.exists():
        with replacing(path) as temporary, temporary.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for image in _pixels_of(files, size):
                out.write(image.tobytes())
    return PixelFile(path)


def decode_into_memory(files: list[str], size: int) -> Tensor:
    """Bring images to one size in memory, however many they are.

    Args:
        files: N images.
        size: as `decode` takes it.

    Returns:
        (N, 3, size, size) uint8.

    Raises:
        SalunError: an image cannot be decoded.
    """
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


def _pixels_of(files: list[str], size: int) -> Iterator[np.ndarray]:
    """Decode images in turn, on all cores: Pillow leaves the interpreter to others meanwhile."""
    cores = granted_cores()
    ahead = _AHEAD * cores
    with unwarned(), ThreadPoolExecutor(cores) as pool:
        for first in range(0, len(files), ahead):
            yield from pool.map(partial(fitted, size=size), files[first : first + ahead])


def fitted(path: str, size: int) -> np.ndarray:
    """Decode an image, scale its shorter side and cut the centre out.

    Args:
        path: an image.
        size: side in pixels.

    Returns:
        (3, size, size) uint8.

    Raises:
        SalunError: it cannot be decoded.
    """
    image = ImageOps.fit(decoded(path), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def decoded(path: str) -> Image.Image:
    """Decode an image, the first one of a file that holds several.

    Args:
        path: an image.

    Returns:
        It in RGB, upright.

    Raises:
        SalunError: it cannot be decoded.
    """
    with _opened(path) as image, _decodable(path):
        return _in_colour(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Turn or mirror an image as its EXIF orientation says."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what else a camera wrote may be broken in every way, and the pixels whole
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def faults_of(files: list[str]) -> list[str | None]:
    """Say in a line each why images cannot be decoded; None of those that can be."""
    with unwarned(), ThreadPoolExecutor(granted_cores()) as pool:
        return list(pool.map(_fault_of, files))


def _fault_of(path: str) -> str | None:
    try:
        decoded(path)
    except SalunError as error:
        return str(error)
    return None


def _in_colour(image: Image.Image) -> Image.Image:
    """Convert an image to RGB; grey levels of 16 bits are scaled, where Pillow would cut them off at 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def _opened(path: str) -> Image.Image:
    """Open an image file."""
    with _decodable(path):
        image = Image.open(path, formats=_FORMATS)
        if image.width * image.height > _LARGEST_IMAGE:
            image.close()
            raise ValueError(f"{image.width} x {image.height} pixels, more than the {_LARGEST_IMAGE} that are decoded")
        return image


def unwarned() -> AbstractContextManager[object]:
    """Keep Pillow's warnings of odd files to itself; not within threads, which share what is kept."""
    return warnings.catch_warnings(action="ignore")


@contextmanager
def _decodable(path: str) -> Iterator[None]:
    """Turn whatever a broken image raises into one line that names it."""
    try:
        yield
    except Exception as error:  # decoders raise errors of every kind on a broken file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SalunError(f"{path}: cannot be decoded: {reason}") from error


def fingerprint(files: list[str], size: int) -> str:
    """Identify files by path, length and time of change.

    Args:
        files: of images.
        size: side in pixels that they are brought to.

    Returns:
        24 hexadecimal digits.

    Raises:
        SalunError: a file is gone.
    """
    digest = hashlib.sha256(f"{size} {_DECODED_BY}".encode())
    real = cache(os.path.realpath)  # of a folder, once
    for path in files:
        try:
            status = os.stat(path)
        except OSError as error:
            raise SalunError(f"{path}: cannot be read: {error.strerror}") from error
        folder, name = os.path.split(path)
        place = os.path.join(real(folder), name)
        digest.update(os.fsencode(place) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
