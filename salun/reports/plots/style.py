"""How every figure looks, and how it is written."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from salun.errors import one_line
from salun.io.files import replacing

# Okabe and Ito's palette and two of Paul Tol's, ordered so that neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#332288", "#B8A100", "#882255", "#7A7A7A")
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "p", ">", "h")
INK = "#1A1A1A"
FAINT = "#BDBDBD"
EMPTY = "#F2F2F2"
_SETTINGS: dict[Any, Any] = {
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


class ClassStyle(NamedTuple):
    """How a class is drawn: in a colour that colour-blind readers can tell from its neighbours', and a marker."""

    colour: str
    marker: str


def style_of(label: int) -> ClassStyle:
    """Choose colour and marker of a class, from 0: a hundred pairs, no two alike."""
    turn, place = divmod(label % (len(COLOURS) * len(MARKERS)), len(COLOURS))
    return ClassStyle(COLOURS[place], MARKERS[(place + turn) % len(MARKERS)])


@contextmanager
def styled() -> Iterator[None]:
    """Give all figures made in the block one style: dark text on white, no window, class names as plain text."""
    with mpl.rc_context(_SETTINGS):
        yield


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure whole; the same figure gives the same bytes.

    Marks that control a terminal or the direction of writing are left out.

    Args:
        figure: made within `styled`, and written within it.
        path: its ending, `.png`, `.svg` or `.pdf`, names the format.
        dpi: dots per inch of a bitmap.

    Raises:
        SalunError: the file cannot be written.
    """
    for text in figure.findobj(Text):
        text.set_text("".join(mark for mark in text.get_text() if mark.isprintable() or mark == "\n"))
    kind = path.suffix[1:]
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with replacing(path) as temporary, warnings.catch_warnings(action="ignore", category=UserWarning):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=stamp)


def shorten(text: str, limit: int) -> str:
    """Bring a name into one line of so many characters at most, with an ellipsis in the middle of a longer one."""
    name = one_line(text)
    name = f" {name}" if name.startswith("_") else name  # matplotlib leaves "_name" out of a legend
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 3
    return f"{name[: limit - 1 - tail]}…{name[len(name) - tail :]}"
