"""Decoding the pickled batches of the CIFAR archives without running code from them."""

import pickle
import re
from typing import IO, Any

import numpy as np


def unpickle(file: IO[bytes]) -> dict[str, Any]:
    """Decode one CIFAR batch, which is a pickled dictionary.

    Batches come as their authors' Python 2 wrote them, and as Python 3 writes them, with keys and
    names of text or of bytes.

    Args:
        file: an open binary file.

    Returns:
        The dictionary, keys as text; `np.asarray` makes arrays of its arrays.

    Raises:
        pickle.UnpicklingError: the file asks for anything but arrays, numbers, text and lists. Other
            broken files raise errors of every kind.
    """
    content = ArraysOnly(file, encoding="latin1").load()
    return {as_text(key): value for key, value in content.items()}


def as_text(value: str | bytes) -> str:
    """Decode a name.

    Args:
        value: text, or bytes in UTF-8.

    Returns:
        Text.
    """
    return value.decode() if isinstance(value, bytes) else str(value)


class PickledType:
    """Stands in for numpy's `dtype`, for the types of whole numbers."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch("[iu][1248]", code):
            raise pickle.UnpicklingError(f"refuses an array of type {code!r}: not whole numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """Stands in for numpy's array, and as a function for the one that numpy starts an array with."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        self.array = array_of(data, kind, shape, "F" if by_columns else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def array_of(data: Any, kind: PickledType, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """Build an array from its bytes.

    Args:
        data: bytes, or text whose characters are bytes (Python 2).
        kind: type of the numbers.
        shape: of the array.
        order: "C" or "F".

    Returns:
        The array.
    """
    return np.frombuffer(latin1(data), kind.dtype).reshape(shape, order=order).copy()


def number_of(kind: PickledType, data: Any) -> int:
    """Build a number from its bytes.

    Args:
        kind: type of the number.
        data: as `array_of` takes it.

    Returns:
        The number.
    """
    return int(np.frombuffer(latin1(data), kind.dtype)[0])


def latin1(data: Any, *_: object) -> Any:
    """Turn text whose characters are bytes into bytes.

    Args:
        data: text; bytes are left as they are.

    Returns:
        Bytes.
    """
    return data.encode("latin1") if isinstance(data, str) else data


class ArraysOnly(pickle.Unpickler):
    """An unpickler that knows arrays of whole numbers and nothing else, and calls nothing but the above."""

    known = {  # noqa: RUF012 - never changed
        "numpy.dtype": PickledType,
        "numpy.ndarray": PickledArray,
        "numpy.core.multiarray._reconstruct": PickledArray,
        "numpy.core.multiarray.scalar": number_of,
        "numpy.core.numeric._frombuffer": array_of,
        "_codecs.encode": latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name that the file mentions.

        Args:
            module: its module.
            name: its name there.

        Returns:
            What stands in for it.

        Raises:
            pickle.UnpicklingError: the name is not one that arrays need.
        """
        found = self.known.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"refuses to load {module}.{name}: not an array")
        return found
