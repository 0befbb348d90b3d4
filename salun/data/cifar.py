"""The files of CIFAR: archives read in place, pickled batches decoded without running code from them."""

import gzip
import io
import pickle
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from salun.io.limits import LARGEST_BATCH, MIB, check_length

# CIFAR-100's archive unpacks to 186 MB.
LARGEST_ARCHIVE = 1024 * MIB
# Text that Python 3 packs arrays in at protocol 2, which a file can name again and again.
_MOST_TEXT = 2**30
_GZIPPED = b"\x1f\x8b"


def read_batch(folder: Path, archive: Path, file: str) -> dict[str, Any]:
    """Decode one batch, a pickled dictionary, as its authors' Python 2 wrote it or as Python 3 writes it.

    Args:
        folder: holds the unpacked batches, where it exists.
        archive: holds them else, compressed or not.
        file: the batch's name.

    Returns:
        The dictionary, keys as text; `whole_numbers` takes arrays and `as_text` names out of it.

    Raises:
        pickle.UnpicklingError: it holds more than arrays, numbers, text and lists.
        Exception: of any kind, where it is damaged.
    """
    if folder.is_dir():
        check_length(folder / file, LARGEST_BATCH)
        with (folder / file).open("rb") as opened:
            content = _ArraysOnly(opened).load()
    else:
        with _opened(archive) as tar, _member(tar, f"{folder.name}/{file}") as opened:
            content = _ArraysOnly(opened).load()
    return {as_text(key): value for key, value in content.items()}


def whole_numbers(value: Any) -> np.ndarray:
    """Take an array, or a list of whole numbers, out of a batch.

    Raises:
        TypeError: it is neither.
        OverflowError: a number is too large.
    """
    if isinstance(value, _Array):
        return value.values
    # Lists may hold each other, so they are not walked into.
    if not isinstance(value, (list, tuple)) or any(type(number) is not int for number in value):
        raise TypeError("neither an array nor a list of whole numbers")
    return np.asarray(value, np.int64)


def as_text(value: str | bytes) -> str:
    """Decode a name; a TypeError where it is neither text nor bytes in UTF-8."""
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"a name of type {type(value).__name__}, not text")
    return value.decode() if isinstance(value, bytes) else value


class _Dtype:
    """Stands in for numpy's dtype, which a file could bring to an unsafe state; of whole numbers alone."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.code, self.order = as_text(name), "="
        if not re.fullmatch("[iu][1248]", self.code):
            raise pickle.UnpicklingError(f"refuses an array of type {self.code!r}: not whole numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if (order := as_text(state[1])) in ("<", ">"):
            self.order = order

    def decode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.order + self.code)


class _Array:
    """Stands in for numpy's array, and as a function for the one that numpy starts an array with."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self.values = kind.decode(data).reshape(shape, order="F" if by_columns else "C")


def _array(data: bytes, kind: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    """Build an array as numpy's `_frombuffer` does."""
    array = _Array()
    array.values = kind.decode(data).reshape(shape, order=order)
    return array


def _scalar(kind: _Dtype, data: bytes) -> int:
    """Build a number as numpy's `scalar` does."""
    return int(kind.decode(data)[0])


class _ArraysOnly(pickle.Unpickler):
    """Knows arrays of whole numbers and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="bytes")
        self.encoded = 0

    def encode(self, data: str, *_: object) -> bytes:
        """Turn text whose characters are bytes into bytes, up to a bound."""
        self.encoded += len(data)
        if self.encoded > _MOST_TEXT:
            raise pickle.UnpicklingError("asks for more memory than such a file needs")
        return data.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        match f"{module.replace('numpy._core', 'numpy.core')}.{name}":
            case "numpy.dtype":
                return _Dtype
            case "numpy.ndarray" | "numpy.core.multiarray._reconstruct":
                return _Array
            case "numpy.core.multiarray.scalar":
                return _scalar
            case "numpy.core.numeric._frombuffer":
                return _array
            case "_codecs.encode":
                return self.encode
        raise pickle.UnpicklingError(f"refuses to load {module}.{name}: not an array")


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive to be read in place: nothing of it is ever written to the disk."""
    with archive.open("rb") as raw:
        packed = raw.read(len(_GZIPPED)) == _GZIPPED
        raw.seek(0)
        with _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw) as content, tarfile.open(fileobj=content) as tar:
            yield tar


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """Open a plain file of an archive."""
    for member in tar:
        if member.name.removeprefix("./") == name:
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None or member.size > LARGEST_BATCH:
                raise ValueError("not a plain file, or too large for one of that data set")
            return content
    raise ValueError(f"the archive holds no {name}")


class _Bounded(io.BufferedIOBase):
    """A file that ends with an error where it is longer than an archive may be, whoever reads it."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self.file = file

    def read(self, size: int | None = -1) -> bytes:
        left = LARGEST_ARCHIVE - self.file.tell()
        wanted = min(left + 1 if size is None or size < 0 else size, LARGEST_BATCH)
        if wanted > left:
            raise ValueError("the archive unpacks to more than such a one holds")
        return self.file.read(wanted)

    def seek(self, place: int, whence: int = 0) -> int:
        if whence or place > LARGEST_ARCHIVE:
            raise ValueError("the archive unpacks to more than such a one holds")
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()
