"""How much a file from outside may hold: checked before memory is taken for it."""

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipInfo

from salun.errors import SalunError
from salun.io.files import read_json

MIB, _GIB = 2**20, 2**30
# CIFAR-100's training batch is the largest of the pickled ones, of 155 MB.
LARGEST_BATCH = 512 * MIB
# Ten million indices are 90 MB of text, ten thousand experiments with all their keys 5 MB.
_LARGEST_LIST = 256 * MIB
# Features as JSON: 100,000 images of 2,048 numbers.
LARGEST_FEATURES = 4 * _GIB
_DEEPEST = 50
# A file of a few MiB may unpack to this in any case, a larger one to as many times its length. Float32 features and
# logits shrink to about nine tenths, those behind a ReLU to a fifth, and marks of which all are equal to a thousandth.
_UNPACKED = 256 * MIB
_SHRUNK = 100
_MOST_VALUES = 20_000_000
_MOST_CONTAINERS = 1_000_000
_LONGEST_NUMBER = 64


def check_length(path: Path, most: int) -> None:
    """Check that a path leads to a file, not to a device or a pipe that may never end, and that it is not too long.

    Args:
        path: of what is to be read; what is missing, or a folder, is left to the reader.
        most: bytes.

    Raises:
        SalunError: it is none, or longer.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise SalunError(f"{path}: cannot be read: a device or a pipe, not a file")
    if found.st_size > most:
        raise SalunError(f"{path}: cannot be read: holds {found.st_size / MIB:.0f} MiB; at most {most / MIB:.0f} are")


def read_plain(path: Path, most: int = _LARGEST_LIST) -> Any:
    """Read a JSON file of bounded length and depth.

    Args:
        path: the file.
        most: bytes.

    Returns:
        What the file holds.

    Raises:
        SalunError: the file is missing, unreadable, not JSON, too long, or nested too deeply.
    """
    check_length(path, most)
    content = read_json(path)
    if _is_deep(content):
        raise SalunError(f"{path}: nested too deeply; at most {_DEEPEST} lists and objects inside each other are read")
    return content


def read_text(path: Path) -> str:
    """Read a text file of bounded length.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        SalunError: the file is missing, unreadable, no text, or too long.
    """
    check_length(path, _LARGEST_LIST)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SalunError(f"{path}: not a text file") from error
    except (OSError, ValueError) as error:
        raise SalunError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _is_deep(content: Any) -> bool:
    """Tell whether lists and objects are nested more deeply than anything that is read here."""
    level = [content]
    for _ in range(_DEEPEST):
        level = [part for value in level for part in _parts_of(value) if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def _parts_of(value: Any) -> Iterable[Any]:
    """List what a container holds."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple)) else ()


def check_unpacked(members: Iterable[ZipInfo], length: int) -> None:
    """Check that the members of a zip file claim no more than is in proportion to its length.

    Args:
        members: of the zip file.
        length: of the file in bytes.

    Raises:
        ValueError: it is not: a decompression bomb.
    """
    check_claim(sum(member.file_size for member in members), length)


def check_claim(claimed: int, length: int) -> None:
    """Check that what a compressed file claims to hold is in proportion to its length.

    Args:
        claimed: bytes once unpacked.
        length: of the file in bytes.

    Raises:
        ValueError: it is not: a decompression bomb.
    """
    most = max(_UNPACKED, _SHRUNK * length)
    if claimed > most:
        raise ValueError(f"unpacks to {claimed / MIB:.0f} MiB; of such a file at most {most / MIB:.0f} are taken")


def check_stored(members: Iterable[ZipInfo], length: int) -> None:
    """Check that the members of a zip file lie in it as they are, and so take no more memory than the file is long.

    Args:
        members: of the zip file.
        length: of the file in bytes.

    Raises:
        ValueError: one is compressed, or they claim more than the file holds.
    """
    listed = list(members)
    if any(member.compress_type != ZIP_STORED or member.compress_size != member.file_size for member in listed):
        raise ValueError("holds compressed tensors")
    if sum(member.file_size for member in listed) > length:
        raise ValueError("claims more than it holds")


def check_values(content: Any) -> list[Any]:
    """Check that lists and dictionaries hold no more than any file of ours, even where they hold each other in turns.

    Args:
        content: nested lists, tuples and dictionaries.

    Returns:
        What they hold that is no text, number or container, each as often as it stands there.

    Raises:
        ValueError: they are nested too deeply, hold too many values, or a number that is out of all bounds.
    """
    level, others, count, containers = [content], [], 0, 0
    for _ in range(_DEEPEST + 1):
        inner: list[Any] = []
        for value in level:
            count += 1
            if isinstance(value, (dict, list, tuple)):
                containers += 1
                inner.extend(_parts_of(value))
            elif isinstance(value, int):
                if value.bit_length() > _LONGEST_NUMBER:
                    raise ValueError("holds a number that is out of all bounds")
            elif not isinstance(value, (str, bytes, float, type(None))):
                others.append(value)
            if count + len(inner) > _MOST_VALUES or containers > _MOST_CONTAINERS:
                raise ValueError("holds more values than any file of ours")
        if not inner:
            return others
        level = inner
    raise ValueError("is nested too deeply")
