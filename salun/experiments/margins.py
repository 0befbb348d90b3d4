"""Margins of a shadow model's outputs, and the files that keep them."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salun.errors import SalunError
from salun.io.arrays import read_arrays, readable, write_arrays

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Margins:
    """Margins z_y - ln sum over c != y of exp z_c of one model.

    Attributes:
        candidates: (N,).
        witnesses: (R,) of retained images.
        test: (T,).
    """

    candidates: Singles
    witnesses: Singles
    test: Singles

    @property
    def diverged(self) -> bool:
        """Whether any is not a number, or infinite."""
        return not all(np.isfinite(part).all() for part in vars(self).values())


def write_margins(path: Path, margins: Margins) -> None:
    """Write margins.

    Args:
        path: of the file.
        margins: of one model.

    Raises:
        SalunError: the file cannot be written.
    """
    write_arrays(path, asdict(margins))


def read_margins(path: Path) -> Margins:
    """Read margins that were kept.

    Args:
        path: of the file.

    Returns:
        The margins.

    Raises:
        SalunError: the file is missing or damaged.
    """
    with readable(path, "margins"):
        content = read_arrays(path, Margins.__dataclass_fields__)
        for name, part in content.items():
            if part.dtype != np.float32 or part.ndim != 1:
                raise ValueError(f"{name} of type {part.dtype} in {part.ndim} dimensions, not a list of float32")
        return Margins(**{name: content[name] for name in Margins.__dataclass_fields__})


def are_kept(path: Path) -> bool:
    """Tell whether margins are kept and whole.

    Args:
        path: of the file.
    """
    try:
        read_margins(path)
    except SalunError:
        return False
    return True
