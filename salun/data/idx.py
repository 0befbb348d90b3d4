"""The files of MNIST: bytes under a header that tells their shape, compressed or not."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from salun.io.limits import MIB, check_claim, check_length

_LARGEST = 512 * MIB
_START = b"\0\0\x08"  # of a file whose values are of one byte; the number of axes follows


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an array of bytes.

    Args:
        path: of the file; compressed if it ends in `.gz`.
        axes: 1 for labels, 3 for images.

    Returns:
        (N,) labels or (N, height, width) pixels, uint8.

    Raises:
        SalunError: the file is longer than such a file may be.
        ValueError: it holds something else, more or less than it claims, or is a decompression bomb.
        OSError: it cannot be read, or is damaged.
        EOFError, struct.error: it is cut off.
    """
    check_length(path, _LARGEST)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        if file.read(4) != _START + bytes([axes]):
            raise ValueError(f"does not begin as a file of bytes with {axes} axes")
        sides = struct.unpack(f">{axes}I", file.read(4 * axes))
        length = math.prod(sides)
        check_claim(length, path.stat().st_size)
        content = bytearray()
        while len(content) <= length and (part := file.read(MIB)):
            content += part
    if len(content) != length:
        held = "more" if len(content) > length else f"{len(content)}"
        raise ValueError(f"claims {length} bytes of shape {sides}, and holds {held}")
    return np.frombuffer(content, np.uint8).reshape(sides)
