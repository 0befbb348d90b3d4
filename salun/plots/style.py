"""How every figure looks, and how it is written."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from salun.files import replacing

# Okabe and Ito's palette and two of Paul Tol's, ordered so that neighbours differ in lightness too.
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#332288",
    "#B8A100",
    "#882255",
    "#7A7A7A",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "p", ">", "h")
INK = "#1A1A1A"
FAINT = "#BDBDBD"
EMPTY = "#F2F2F2"

SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "salun",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Look(NamedTuple):
    """How a class is drawn.

    Attributes:
        colour: distinguishable by colour-blind readers among its ten neighbours.
        marker: differs between classes that share a colour, and between neighbours in greyscale.
    """

    colour: str
    marker: str


def look_of(label: int) -> Look:
    """Choose colour and marker of a class: a hundred pairs, no two alike.

    Args:
        label: of the class, from 0.

    Returns:
        The look; from the hundredth class on looks repeat.
    """
    turn, place = divmod(label % (len(COLOURS) * len(MARKERS)), len(COLOURS))
    return Look(COLOURS[place], MARKERS[(place + turn) % len(MARKERS)])


@contextmanager
def styled() -> Iterator[None]:
    """Give all figures made in the block one look: dark text on white, no window, class names as plain text.

    Yields:
        Nothing.
    """
    with mpl.rc_context(SETTINGS):
        yield


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure whole; the same figure gives the same bytes.

    A letter that the font lacks is drawn as a box, without a warning.

    Args:
        figure: made within `styled`, and written within it.
        path: its ending, `.png`, `.svg` or `.pdf`, names the format.
        dpi: dots per inch of a bitmap.

    Raises:
        SalunError: the file cannot be written.
    """
    kind = path.suffix[1:]
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with replacing(path) as temporary, warnings.catch_warnings(action="ignore", category=UserWarning):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=stamp)


def shorten(text: str, limit: int) -> str:
    """Cut a long name in its middle.

    Args:
        text: for example a class name.
        limit: characters at most.

    Returns:
        The text, with an ellipsis where something is left out.
    """
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"
