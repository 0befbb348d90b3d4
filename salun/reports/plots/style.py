"""How every figure looks, and how it is written."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from salun.errors import one_line
from salun.io.files import replacing

# Ten hues with names of their own, as far apart in OKLab as a search found, to eyes without red or green cones too.
COLOURS = ("#2F5AC2", "#DB8228", "#117909", "#CE85DF", "#03DFBF", "#E5003A", "#62027C", "#C2C100", "#781405", "#7F8582")
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "p", ">", "h")
INK = "#1A1A1A"
FAINT = "#BDBDBD"
EMPTY = "#F2F2F2"
_FAMILY = "DejaVu Sans"
_LAST_RESORT = "Last Resort"  # has a box for every character, and comes with matplotlib
_SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": _FAMILY,
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


def save_figure(figure: Figure, path: Path, dpi: int) -> str:
    """Write a figure whole; the same figure gives the same bytes.

    Marks that control a terminal or the direction of writing are left out. Scripts that the figures' own font lacks are
    drawn in an installed font that has them.

    Args:
        figure: made within `styled`, and written within it.
        path: its ending, `.png`, `.svg` or `.pdf`, names the format.
        dpi: dots per inch of a bitmap.

    Returns:
        The characters that no font here has, which are drawn as boxes.

    Raises:
        SalunError: the file cannot be written.
    """
    texts = figure.findobj(Text)
    for text in texts:
        text.set_text("".join(mark for mark in text.get_text() if mark.isprintable() or mark == "\n"))
    families, missing = _families_for({mark for text in texts for mark in text.get_text()} - {"\n"})
    for text in texts if len(families) > 1 else ():
        text.set_fontfamily(families)
    kind = path.suffix[1:]
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with replacing(path) as temporary, warnings.catch_warnings(action="ignore", category=UserWarning):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=stamp)
    return "".join(sorted(missing))


def _families_for(marks: set[str]) -> tuple[list[str], set[str]]:
    """Choose the fonts that have some characters, the figures' own first, and tell which no font has."""
    families, missing = [_FAMILY], marks - _marks_in(font_manager.findfont(_FAMILY))
    fonts = [font for font in font_manager.fontManager.ttflist if _LAST_RESORT not in font.name]
    for entry in sorted(fonts, key=lambda font: font.name) if missing else ():
        found = missing & _marks_in(entry.fname)
        if found:
            families.append(entry.name)
            missing = missing - found
    return families, missing


@cache
def _marks_in(font: str) -> set[str]:
    """List the characters of a font's file."""
    return set(map(chr, font_manager.get_font(font).get_charmap()))


def shorten(text: str, limit: int) -> str:
    """Bring a name into one line of so many characters at most, with an ellipsis in the middle of a longer one."""
    name = one_line(text)
    name = f" {name}" if name.startswith("_") else name  # matplotlib leaves "_name" out of a legend
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 3
    return f"{name[: limit - 1 - tail]}…{name[len(name) - tail :]}"
