"""Files of arrays: written whole, read without pickle."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from salun.errors import SalunError
from salun.files import replacing

UNREADABLE = (
    OSError,
    ArithmeticError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays whole, so that `numpy.load` reads them without pickle.

    Args:
        path: ends in `.npz`.
        arrays: numbers, arrays, texts, and lists of them.

    Raises:
        SalunError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn what a broken file raises into one line.

    Args:
        path: the file.
        what: it holds, for the text of the error.

    Yields:
        Nothing.

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
