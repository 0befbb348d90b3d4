"""Matrices of numbers from MATLAB 5 files, which is what SVHN comes as; within bounds, and nothing else of them."""

import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_ORDERS = {b"IM": "<", b"MI": ">"}
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x800


def read_matrices(path: Path, names: Collection[str], most: int) -> dict[str, np.ndarray]:
    """Read some of the matrices of a file.

    Args:
        path: the file.
        names: of the matrices.
        most: bytes that the file may unpack to.

    Returns:
        Those that are there, by name.

    Raises:
        ValueError: the file is none, is cut off, unpacks to more, or one of them holds no real numbers.
        zlib.error: a compressed part is damaged.

    Source:
        The MathWorks, "MAT-File Format", version 5, chapter 1.
    """
    content = memoryview(path.read_bytes())
    order = _ORDERS.get(bytes(content[126:128]))
    if order is None:
        raise ValueError("not a MATLAB 5 file")
    found = {}
    for kind, part in _elements(content[128:], order):
        if kind == _COMPRESSED:
            unpacked = _inflated(part, most)
            most -= len(unpacked)
            kind, part = next(_elements(memoryview(unpacked), order), (_COMPRESSED, part))
        name = _name_of(part, order) if kind == _MATRIX else ""
        if name in names:
            found[name] = _matrix_of(part, order)
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Walk over the elements of a file, or of an element."""
    at = 0
    while at + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, at)
        small = kind >> 16 > 0  # up to four bytes stand in the second half of the tag
        if small:
            kind, length = kind & 0xFFFF, kind >> 16
        begin = at + (4 if small else 8)
        if length > (4 if small else len(content) - begin):
            raise ValueError("it ends within an element")
        yield kind, content[begin : begin + length]
        padded = length if kind == _COMPRESSED else length + -length % 8
        at += 8 if small else 8 + padded


def _inflated(part: memoryview, most: int) -> bytes:
    """Unpack a compressed element."""
    packed = zlib.decompressobj()
    whole = packed.decompress(part, most + 1)
    if len(whole) > most:
        raise ValueError("it unpacks to more than such a file holds")
    if not packed.eof:
        raise ValueError("it ends within a compressed element")
    return whole


def _name_of(part: memoryview, order: str) -> str:
    """Tell the name of a matrix."""
    named = list(islice(_elements(part, order), 3))
    return bytes(named[2][1]).decode("latin1") if len(named) == 3 else ""


def _matrix_of(part: memoryview, order: str) -> np.ndarray:
    """Take a matrix of numbers from its element."""
    (_, flags), (_, sides), _, *rest = islice(_elements(part, order), 4)
    flag = struct.unpack_from(f"{order}I", flags)[0] if len(flags) >= 4 else 0
    if not rest or flag & 0xFF not in _CLASSES or flag & _COMPLEX or rest[0][0] not in _STORED:
        raise ValueError("it holds no matrix of numbers")
    kind, values = rest[0]
    shape = np.frombuffer(sides, f"{order}i4").tolist()
    stored = np.frombuffer(values, np.dtype(f"{order}{_STORED[kind]}"))
    return stored.reshape(shape, order="F").astype(_CLASSES[flag & 0xFF], copy=False)
