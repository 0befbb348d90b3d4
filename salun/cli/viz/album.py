"""Where figures go, and in which format."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salun.cli.arguments import check_folder, filled, positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST_DPI = 1200


def add_figure_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all figures share.

    Args:
        parser: gets the flags.
    """
    parser.add_argument("--out", type=filled, default="images", metavar="DIR", help="default: images")
    parser.add_argument("--format", choices=("png", "svg", "pdf"), default="png", help="of figures (default: png)")
    parser.add_argument("--dpi", type=positive, default=150, help="dots per inch of figures (default: 150)")


@dataclass(frozen=True)
class FigureWriter:
    """A folder of figures.

    Attributes:
        folder: where they go.
        ending: ".png", ".svg" or ".pdf".
        dpi: dots per inch.
    """

    folder: Path
    ending: str
    dpi: int

    @classmethod
    def of(cls, flags: argparse.Namespace) -> "FigureWriter":
        """Take the flags of `add_figure_flags`, and check them before anything is computed.

        Args:
            flags: of the command line.

        Returns:
            The album.

        Raises:
            SalunError: the folder cannot be written to, or the resolution is absurd.
        """
        from salun.errors import SalunError

        check_folder("--out", Path(flags.out))
        if flags.dpi > _LARGEST_DPI:
            raise SalunError(f"--dpi {flags.dpi}: at most {_LARGEST_DPI}")
        return cls(Path(flags.out), f".{flags.format}", flags.dpi)

    def keep(self, figure: "Figure", place: Path) -> Path:
        """Write a figure and print where.

        Args:
            figure: what to write.
            place: its path in the folder, without an ending.

        Returns:
            The file.

        Raises:
            SalunError: it cannot be written.
        """
        from salun.reports.plots.style import save_figure

        path = self.at(place, self.ending)
        save_figure(figure, path, self.dpi)
        print(path, flush=True)
        return path

    def at(self, place: Path, ending: str) -> Path:
        """Name a file that belongs to a figure.

        Args:
            place: path in the folder, without an ending.
            ending: for example ".npz".

        Returns:
            The path.
        """
        return self.folder / place.with_name(f"{place.name}{ending}")
