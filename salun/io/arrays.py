"""Files of arrays: written whole, read without pickle and within bounds."""

import math
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from salun.errors import SalunError
from salun.io.files import replacing
from salun.io.limits import check_unpacked

UNREADABLE = (OSError, ArithmeticError, ValueError, LookupError, EOFError, TypeError, RuntimeError, MemoryError)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Header(NamedTuple):
    """What an array in numpy's own format says of itself; `by_columns`: its first axis runs fastest."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    begin: int


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays whole, so that `read_arrays` reads them.

    Args:
        path: ends in `.npz`.
        arrays: numbers, arrays, texts, and lists of them.

    Raises:
        SalunError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays, of which none may claim more than the file holds; a broken file is told within `readable`.

    Args:
        path: an `.npz` file.
        names: of the arrays that are wanted; None for all.

    Returns:
        Those that are there, by name.

    Raises:
        OSError: the file is missing, or cannot be opened.
        ValueError: it is damaged, holds anything but arrays, or is a decompression bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            check_unpacked(archive.infolist(), path.stat().st_size)
            return {name: _read_array(archive, members[name]) for name in members if names is None or name in names}
    except (OSError, ValueError):
        raise
    except Exception as error:  # decoders raise errors of every kind on a broken file
        raise ValueError(str(error) or type(error).__name__) from error


def read_array(path: Path) -> np.ndarray:
    """Read a file of one array within its bounds; a broken file is told within `readable`.

    Args:
        path: an `.npy` file.

    Returns:
        The array.

    Raises:
        OSError: the file is missing, or cannot be opened.
        ValueError: it holds no array, or claims more than it holds.
    """
    with path.open("rb") as file:
        check_header(read_header(file), path.stat().st_size)
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one array of an archive."""
    with archive.open(member) as file:
        check_header(read_header(file), member.file_size)
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def read_header(file: IO[bytes]) -> _Header:
    """Read what an array in numpy's own format says of itself.

    Args:
        file: open, at its begin.

    Returns:
        The header; the file stands at the first value.

    Raises:
        ValueError: it is none; headers that are no Python literal raise errors of every kind.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"arrays of format {version} are not read")
    shape, by_columns, dtype = _HEADERS[version](file)
    return _Header(shape, by_columns, dtype, file.tell())


def check_header(header: _Header, length: int) -> None:
    """Check that an array holds what it claims.

    Args:
        header: of the array.
        length: in bytes, with the header.

    Raises:
        ValueError: it holds more or less, or values that only code could make.
    """
    if header.dtype.hasobject or not header.dtype.itemsize:
        raise ValueError(f"holds values of type {header.dtype}, which are not read")
    claimed, held = math.prod(header.shape) * header.dtype.itemsize, length - header.begin
    if min(header.shape, default=0) < 0 or claimed != held:
        raise ValueError(f"an array of shape {header.shape} claims {claimed} bytes, and {held} are there")


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn what a broken file raises into one line.

    Args:
        path: the file.
        what: it holds, for the text of the error.

    Raises:
        SalunError: the file could not be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise SalunError(f"{path}: no such file of {what}") from error
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SalunError(f"{path}: not a readable file of {what}: {reason}") from error
