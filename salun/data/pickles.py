"""Decoding the pickled batches of the CIFAR archives without running code from them."""

import pickle
import re
from typing import IO, Any

import numpy as np

# Of the text that Python 3 packs arrays in at protocol 2, which a file can name again and again.
MOST_TEXT = 2**30


def unpickle(file: IO[bytes]) -> dict[str, Any]:
    """Decode one CIFAR batch, which is a pickled dictionary.

    Batches come as their authors' Python 2 wrote them, and as Python 3 writes them, with keys and
    names of text or of bytes.

    Args:
        file: an open binary file.

    Returns:
        The dictionary, keys as text; `whole_numbers` makes arrays of its arrays.

    Raises:
        pickle.UnpicklingError: the file asks for anything but arrays, numbers, text and lists. Other
            broken files raise errors of every kind.
    """
    content = _ArraysOnly(file).load()
    return {as_text(key): value for key, value in content.items()}


def whole_numbers(value: Any) -> np.ndarray:
    """Take an array, or a list of numbers, out of a batch.

    Args:
        value: of the dictionary; its lists may hold each other, so that they are not walked into.

    Returns:
        The array.

    Raises:
        TypeError: it is neither.
        OverflowError: a number is too large.
    """
    if isinstance(value, _PickledArray):
        return value.array
    if not isinstance(value, (list, tuple)) or any(type(number) is not int for number in value):
        raise TypeError("neither an array nor a list of whole numbers")
    return np.asarray(value, np.int64)


def as_text(value: str | bytes) -> str:
    """Decode a name.

    Args:
        value: text, or bytes in UTF-8.

    Returns:
        Text.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"a name of type {type(value).__name__}, not text")
    return value.decode() if isinstance(value, bytes) else value


class _PickledType:
    """Stands in for numpy's `dtype`, for the types of whole numbers."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        code = as_text(name)
        if not re.fullmatch("[iu][1248]", code):
            raise pickle.UnpicklingError(f"refuses an array of type {code!r}: not whole numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if (order := as_text(state[1])) in ("<", ">"):
            self.dtype = np.dtype(f"{order}{self.dtype.str[1:]}")


class _PickledArray:
    """Stands in for numpy's array, and as a function for the one that numpy starts an array with."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self.array = _array_of(data, kind, shape, "F" if by_columns else "C").array


def _array_of(data: bytes, kind: _PickledType, shape: tuple[int, ...], order: Any) -> _PickledArray:
    """Build an array from its bytes."""
    made = _PickledArray()
    made.array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
    return made


def _number_of(kind: _PickledType, data: bytes) -> int:
    """Build a number from its bytes."""
    return int(np.frombuffer(data, kind.dtype)[0])


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows arrays of whole numbers and nothing else, and calls nothing but the above."""

    known = {  # noqa: RUF012 - never changed
        "numpy.dtype": _PickledType,
        "numpy.ndarray": _PickledArray,
        "numpy.core.multiarray._reconstruct": _PickledArray,
        "numpy.core.multiarray.scalar": _number_of,
        "numpy.core.numeric._frombuffer": _array_of,
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="bytes")
        self.encoded = 0

    def encode(self, data: str, *_: object) -> bytes:
        """Turn text whose characters are bytes into bytes, not without end."""
        self.encoded += len(data)
        if self.encoded > MOST_TEXT:
            raise pickle.UnpicklingError("asks for more memory than such a file needs")
        return data.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name that the file mentions."""
        known = self.known | {"_codecs.encode": self.encode}
        found = known.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"refuses to load {module}.{name}: not an array")
        return found
