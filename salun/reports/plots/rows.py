"""What all figures of runs share: order, names and styles of rows, titles, legends and whiskers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from salun.reports.plots.style import COLOURS, INK, MARKERS, ClassStyle, shorten, style_of
from salun.reports.statistics import Estimate
from salun.reports.summary import Row

_Floats = NDArray[np.float64]
LONGEST_LABEL = 40
LETTER_WIDTH = 0.072
LETTERS_PER_INCH = 11.5
_LEGEND_LINE = 0.19
_BASE = ClassStyle("#C4C4C4", "X")
_RETRAINED = ClassStyle("#FFFFFF", "*")
MEANINGS = {
    "UA": "error on the forget set",
    "RA": "accuracy on the retain set",
    "TA": "accuracy on the test set",
    "MIA": "forget set taken for unseen",
    "ASR": "success of the trigger",
    "CA_found": "accuracy on those found",
    "CA_undiscovered": "on those not found",
    "gap": "average distance to retrained",
}

LINE_STYLES: dict[str, Any] = {"retrain": (0, (4, 2)), "base": (0, (1, 2)), "masked": "-."}


@dataclass(frozen=True)
class DrawnRow:
    """A row as it is drawn in every figure of its group."""

    row: Row
    label: str
    style: ClassStyle

    @property
    def masked(self) -> bool:
        """Whether its runs had a mask."""
        return is_masked(self.row)

    @property
    def line(self) -> dict[str, Any]:
        """How its lines and markers are drawn: one stroke for models with a mask, one each for base and retrained."""
        stroke = LINE_STYLES.get("masked" if self.masked else self.row.kind, "-")
        return line_style(self.style) | {"linestyle": stroke}


def is_masked(row: Row) -> bool:
    """Tell whether a row's runs had a mask."""
    return bool(row.records) and row.records[0].settings["mask"] is not None


def drawn_rows(rows: Iterable[Row]) -> list[DrawnRow]:
    """Choose order, names and styles of a group's rows."""
    parts: dict[str, list[Row]] = {"base": [], "retrain": [], "method": []}
    for row in rows:
        parts[row.kind].append(row)
    hues = hues_of(parts["method"])
    methods = sorted(parts["method"], key=lambda row: hues[method_of(row)])
    members = [*parts["base"], *parts["retrain"], *methods]
    styles = [_BASE] * len(parts["base"]) + [_RETRAINED] * len(parts["retrain"]) + _styles_of(methods, hues)
    return [DrawnRow(*found) for found in zip(members, _labels_of(members), styles, strict=True)]


def method_of(row: Row) -> str:
    """Tell a row's method."""
    return str(row.records[0].settings["method"])


def hues_of(rows: Iterable[Row]) -> dict[str, int]:
    """Number the methods of a group."""
    return {method: place for place, method in enumerate(dict.fromkeys(map(method_of, rows)))}


def _styles_of(rows: Sequence[Row], hues: dict[str, int]) -> list[ClassStyle]:
    """Choose styles: a colour a method, a marker a variant of it, as far as there are enough of both."""
    variants = Counter(map(method_of, rows))
    if len(hues) > len(COLOURS) or max(variants.values(), default=0) > len(MARKERS):
        return [style_of(place) for place in range(len(rows))]
    seen: Counter[str] = Counter()
    styles = []
    for method in map(method_of, rows):
        marker = MARKERS[(hues[method] + seen[method]) % len(MARKERS)]
        styles.append(ClassStyle(COLOURS[hues[method]], marker))
        seen[method] += 1
    return styles


def _labels_of(rows: Sequence[Row]) -> list[str]:
    """Name rows briefly."""
    counts = {len(row.records) for row in rows if row.records}
    labels, twins = list[str](), Counter[str]()
    for row in rows:
        label = shorten(row.title, LONGEST_LABEL) or "unnamed"
        if row.diverged:
            label += f", {row.diverged} of {len(row.records)} diverged"
        elif row.records and len(counts) > 1:
            label += f", n = {len(row.records)}"
        twins[label] += 1
        labels.append(f"{label} [{twins[label]}]" if twins[label] > 1 else label)
    return labels


def whiskers(values: Sequence[Estimate]) -> _Floats:
    """Compute the whiskers of percentages."""
    means = np.array([100 * (value.mean or 0.0) for value in values])
    ends = np.array([(value.low, value.high) for value in values], dtype=np.float64).reshape(-1, 2).T
    down, up = np.nan_to_num([[1], [-1]] * (means - 100 * ends))
    return np.stack([np.minimum(down, np.maximum(means, 0)), np.minimum(up, np.maximum(100 - means, 0))])


def add_title(figure: Figure, title: str, about: str) -> None:
    """Write a figure's title, and below it what it shows."""
    width = int(figure.get_figwidth() * LETTERS_PER_INCH)
    figure.suptitle(f"{fill(title, width)}\n{fill(about, width)}", fontsize=10)


def describe_runs(rows: Iterable[Row]) -> str:
    """Say over how many runs means were taken."""
    counts = sorted({len(row.records) for row in rows if row.records})
    if len(counts) > 1:
        return f"n = {counts[0]} to {counts[-1]} runs"
    return f"n = {counts[0]} run{'' if counts == [1] else 's'}"


def describe_means(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Say what points and whiskers are."""
    return f"mean over {describe_runs(rows)}" + (", 95 % t-intervals" if have_spread(rows, names) else "")


def have_spread(rows: Iterable[Row], names: Sequence[str]) -> bool:
    """Tell whether any interval can be drawn."""
    return any(row.value(name).low is not None for row in rows for name in names)


def line_style(style: ClassStyle) -> dict[str, Any]:
    """Say how a line and its markers are drawn; the line of a white marker is ink."""
    star = style.marker == _RETRAINED.marker
    return {
        "color": INK if star else style.colour,
        "marker": style.marker,
        "markerfacecolor": style.colour,
        "markersize": 10 if star else 6,
        "markeredgecolor": INK,
        "markeredgewidth": 0.9 if star else 0.5,
    }


def figure_with_legend(width: float, panels: float, entries: Sequence[Line2D]) -> Figure:
    """Make a figure with a legend below and room for its title above."""
    longest = max((len(str(line.get_label())) for line in entries), default=0)
    columns = max(1, min(len(entries), int(width / (0.85 + LETTER_WIDTH * longest))))
    lines = -(-len(entries) // columns)
    figure = Figure(figsize=(width, panels + _LEGEND_LINE * lines + 0.8))
    if entries:
        figure.legend(handles=list(entries), loc="outside lower center", ncols=columns, handlelength=4.5)
    return figure
