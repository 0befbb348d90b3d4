"""Files that figures are written to."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from salun.cli.status import check_folder, notice
from salun.errors import SalunError
from salun.io.files import write_text
from salun.reports.formats import csv_table
from salun.reports.plots.style import save_figure

_Floats = NDArray[np.float64]
_LARGEST_DPI = 1200


@dataclass(frozen=True)
class FigureWriter:
    """A folder of figures, their format (".png", ".svg" or ".pdf"), and their dots per inch."""

    folder: Path
    ending: str
    dpi: int

    @classmethod
    def of(cls, flags: argparse.Namespace) -> "FigureWriter":
        """Take folder, format and resolution from flags, and check them before anything is computed."""
        check_folder("--out", Path(flags.out))
        if flags.dpi > _LARGEST_DPI:
            raise SalunError(f"--dpi {flags.dpi}: at most {_LARGEST_DPI}")
        return cls(Path(flags.out), f".{flags.format}", flags.dpi)

    def keep(self, figure: Figure, place: Path) -> Path:
        """Write a figure and print where."""
        path = self.at(place, self.ending)
        missing = save_figure(figure, path, self.dpi)
        if missing:
            notice(
                f"{path}: no font installed here has {missing}, drawn as boxes; one that has, such as Noto, mends it"
            )
        print(path, flush=True)
        return path

    def at(self, place: Path, ending: str) -> Path:
        """Name a file that belongs to a figure.

        Args:
            place: path in the folder, without an ending.
            ending: for example ".npz".
        """
        return self.folder / place.with_name(f"{place.name}{ending}")


def write_table(
    path: Path,
    corner: Sequence[str],
    names: Sequence[Sequence[str]],
    classes: Sequence[str],
    values: _Floats,
    errors: _Floats | None = None,
) -> None:
    """Write a matrix as comma-separated values, empty where there is none.

    Args:
        path: ends in `.csv`.
        corner: what the first columns hold, for example "class".
        names: of each row, one for each of these columns.
        classes: names of the columns.
        values: (R, C).
        errors: (R, C) standard errors, each written right of its value; None for none.
    """
    pairs = values[..., None] if errors is None else np.stack([values, errors], axis=-1)
    heads = [[name] if errors is None else [name, f"{name} (standard error)"] for name in classes]
    table: list[list[object]] = [[*corner, *(part for head in heads for part in head)]]
    for name, row in zip(names, pairs.reshape(len(values), -1).tolist(), strict=True):
        table.append([*name, *(None if math.isnan(value) else value for value in row)])
    write_text(path, csv_table(table))
