"""Matrices with their numbers, side by side, on one scale."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from salun.reports.plots.style import EMPTY, FAINT, INK, shorten

_SEQUENTIAL = "Blues"
_DIVERGING = "PuOr"
_POINTS = 72
_GLYPH = 0.6
_CELL = 0.42
_LARGE_CELL, _FEW = 0.7, 5
_SIDE = 9.6
_NUMBERED = 30
_TITLE, _PANEL_TITLE, _LABEL, _CAPTION = 11.0, 10.0, 9.0, 7.5
_LARGEST_NUMBER, _LARGEST_LABEL, _SMALLEST_LABEL = 7.5, 8.0, 5.0
_ROW_LETTERS, _COLUMN_LETTERS = 44, 24
_TALLEST_BAR, _SHORTEST_BAR = 4.0, 1.2
_LONE_TITLE = 4.0
_CROSS = "#8C8C8C"
_EMPTY_NOTE = "×: no images"
_BEYOND_NOTE = "values beyond the colour bar have the colour of its end"
_OUTLYING = 2.0


@dataclass(frozen=True)
class Panel:
    """One matrix of (R, C) values, NaN where there is none, and its labels.

    Attributes:
        marked: labels, of rows or columns, that are printed bold and framed.
        letters: of a row's label, at most; a longer one is cut in its middle.
    """

    title: str
    values: NDArray[np.float64]
    rows: Sequence[str]
    columns: Sequence[str]
    marked: frozenset[str] = frozenset()
    letters: int = _ROW_LETTERS


@dataclass(frozen=True)
class Scale:
    """What a colour means.

    Attributes:
        label: quantity and unit.
        low: value of the first colour, to `high` of the last; None for the extremes of all values.
        centre: of a diverging scale; None for a sequential one.
        form: of the numbers in the cells, as `format` takes it; "" for three digits of the largest.
        rows: what the rows are; `columns` says it of the columns.
    """

    label: str
    low: float | None = None
    high: float | None = None
    centre: float | None = None
    form: str = ".2f"
    rows: str = ""
    columns: str = ""


@dataclass(frozen=True)
class _Cells:
    """How large the cells, numbers and labels of all panels are drawn."""

    width: float
    height: float
    row_step: int
    column_step: int
    row_size: float
    column_size: float
    turn: int
    form: str | None
    number_size: float


def shared_limit(several: Sequence[NDArray[np.float64]]) -> float:
    """Choose where the colours of several matrices on one scale end, so that no outlier flattens the others.

    Args:
        several: of any shape, NaN where there is no value.

    Returns:
        The largest absolute value, at most twice the median of each matrix's own largest; 0 without values.
    """
    largest = [float(np.abs(values[np.isfinite(values)]).max(initial=0)) for values in several]
    return min(max(largest), _OUTLYING * float(np.median(largest))) or max(largest)


def heatmaps(panels: Sequence[Panel], scale: Scale, title: str = "", across: int = 3, caption: str = "") -> Figure:
    """Draw matrices on one scale.

    Args:
        panels: at least one.
        scale: of all of them.
        title: above all.
        across: panels in a row, at most.
        caption: below all.

    Returns:
        The figure; cells without a value are grey and crossed out, and explained below where there are any.
    """
    cells = _cells_of(panels, scale)
    norm = _normalised(panels, scale)
    down = -(-len(panels) // across)
    across = -(-len(panels) // down)
    labelled = [place % across == 0 or panel.rows != panels[place - 1].rows for place, panel in enumerate(panels)]
    room = max(cells.width * panels[0].values.shape[1], _LONE_TITLE if across == 1 else 0)
    titles = [_wrapped(panel.title, room) for panel in panels]
    size = _figure_size(panels, cells, (across, down), sum(labelled[:across]), max(map(len, titles)))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(compress=True, h_pad=0.08, w_pad=0.06))
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, panel, named, lines in zip(axes.flat, panels, labelled, titles, strict=False):
        image = _draw(axis, panel, cells, norm)
        _name_ticks(axis, panel, cells, named)
        axis.set(title="\n".join(lines), xlabel=scale.columns, ylabel=scale.rows if named else "")
    height = max(len(panel.rows) for panel in panels) * cells.height
    placed = np.concatenate([np.asarray(norm(panel.values)).flatten() for panel in panels])
    above = bool((placed > 1).any())
    _add_bar(figure, image, list(axes[0]), scale.label, height, (bool((placed < 0).any()), above))
    notes = [caption, _EMPTY_NOTE if np.isnan(placed).any() else "", _BEYOND_NOTE if above else ""]
    figure.supxlabel(_filled("; ".join(filter(None, notes)), size[0], _CAPTION), fontsize=_CAPTION)
    figure.suptitle(_filled(title, size[0], _TITLE), fontsize=_TITLE)
    return figure


def _filled(text: str, inches: float, size: float) -> str:
    """Break a text into lines."""
    return textwrap.fill(text, max(16, int(inches * _POINTS / (_GLYPH * size))))


def _cells_of(panels: Sequence[Panel], scale: Scale) -> _Cells:
    """Choose the size of cells and texts."""
    rows, columns = (max(panel.values.shape[side] for panel in panels) for side in (0, 1))
    largest = _LARGE_CELL if columns <= _FEW else _CELL
    width, height = min(largest, _SIDE / columns), min(largest, _SIDE / rows)
    labels = [shorten(label, _COLUMN_LETTERS) for panel in panels for label in panel.columns]
    upright = max(map(len, labels)) * _GLYPH * _LARGEST_LABEL < 0.9 * _POINTS * width
    values = np.concatenate([panel.values.flatten() for panel in panels])
    form = scale.form or _form_of(values, signed=scale.centre is not None)
    longest = max((len(_written(value, form)) for value in values[np.isfinite(values)]), default=1)
    row_size, column_size = _label_size(height), _label_size(width)
    return _Cells(
        width=width,
        height=height,
        row_step=_label_step(row_size, height),
        column_step=_label_step(column_size, width),
        row_size=row_size,
        column_size=column_size,
        turn=0 if upright else 45 if columns <= _NUMBERED else 90,
        form=form if max(rows, columns) <= _NUMBERED else None,
        number_size=min(_LARGEST_NUMBER, 0.84 * _POINTS * width / (_GLYPH * longest)),
    )


def _label_size(pitch: float) -> float:
    """Choose the size of labels."""
    return max(_SMALLEST_LABEL, min(_LARGEST_LABEL, 0.8 * _POINTS * pitch))


def _label_step(size: float, pitch: float) -> int:
    """Choose how many labels are left out, so that none overlap."""
    return math.ceil(1.15 * size / (_POINTS * pitch) - 1e-9)


def _figure_size(
    panels: Sequence[Panel], cells: _Cells, grid: tuple[int, int], labelled: int, lines: int
) -> tuple[float, float]:
    """Estimate the room that panels and their labels need."""
    across, down = grid
    rows, columns = (max(panel.values.shape[side] for panel in panels) for side in (0, 1))
    beside = max(len(shorten(label, panel.letters)) for panel in panels for label in panel.rows)
    below = max(len(shorten(label, _COLUMN_LETTERS)) for panel in panels for label in panel.columns)
    left = _GLYPH / _POINTS * beside * cells.row_size
    bottom = _GLYPH / _POINTS * below * cells.column_size * math.sin(math.radians(cells.turn))
    width = across * (cells.width * columns + 0.35) + labelled * left + 1.2
    height = down * (cells.height * rows + bottom + 0.18 * lines + 0.65) + 0.9
    return max(width, _LONE_TITLE + 0.5), height


def _wrapped(title: str, inches: float) -> list[str]:
    """Break the title of a panel."""
    return [part for line in title.splitlines() for part in _filled(line, inches, _PANEL_TITLE).splitlines()]


def _normalised(panels: Sequence[Panel], scale: Scale) -> Normalize:
    """Find the limits that all panels share."""
    values = np.concatenate([panel.values.flatten() for panel in panels])
    values = values[np.isfinite(values)]
    low = scale.low if scale.low is not None else float(values.min()) if len(values) else 0.0
    high = scale.high if scale.high is not None else float(values.max()) if len(values) else 1.0
    if scale.centre is None:
        return Normalize(low, high if high > low else low + 1.0)
    reach = max(abs(low - scale.centre), abs(high - scale.centre)) or 1.0
    return TwoSlopeNorm(scale.centre, scale.centre - reach, scale.centre + reach)


def _draw(axis: Axes, panel: Panel, cells: _Cells, norm: Normalize) -> AxesImage:
    """Draw one matrix."""
    colours = mpl.colormaps[_DIVERGING if isinstance(norm, TwoSlopeNorm) else _SEQUENTIAL].with_extremes(bad=EMPTY)
    masked = np.ma.masked_invalid(panel.values)
    image = axis.imshow(masked, cmap=colours, norm=norm, aspect=cells.height / cells.width, interpolation="nearest")
    for spine in axis.spines.values():
        spine.set(visible=True, color=FAINT, linewidth=0.6)
    axis.tick_params(length=0)
    empty = np.argwhere(np.isnan(panel.values))
    side = min(cells.width, cells.height)
    axis.scatter(empty[:, 1], empty[:, 0], s=(20 * side) ** 2, c=_CROSS, marker="x", linewidths=2 * side)
    if cells.form is not None:
        _write_numbers(axis, panel.values, cells, colours, norm)
    _frame(axis, panel)
    return image


def _write_numbers(axis: Axes, values: NDArray[np.float64], cells: _Cells, colours: Colormap, norm: Normalize) -> None:
    """Write each value into its cell."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = _contrast(colours(float(norm(value))))
            text = _written(value, cells.form or "")
            # Texts inside the cells take no part in the layout, which would otherwise measure each of them.
            axis.text(
                column, row, text, ha="center", va="center", color=shade, fontsize=cells.number_size
            ).set_in_layout(False)


def _form_of(values: NDArray[np.float64], signed: bool) -> str:
    """Choose a form for `format` that gives the largest value three digits."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if len(finite) else 0.0
    magnitude = math.floor(math.log10(largest)) if largest > 0 else 0
    sign = "+" if signed else ""
    if not -3 <= magnitude <= 4:
        return f"{sign}.1e"
    return f"{sign}.{max(0, 2 - magnitude)}f"


def _written(value: float, form: str) -> str:
    """Print a value; "0" where it is zero when rounded so."""
    text = format(value, form)
    return text if float(text) else "0"


def _name_ticks(axis: Axes, panel: Panel, cells: _Cells, first: bool) -> None:
    """Write the labels of rows and columns, every few of them where there are too many."""
    columns, rows = range(0, len(panel.columns), cells.column_step), range(0, len(panel.rows), cells.row_step)
    anchor = {0: "center", 45: "right", 90: "right"}[cells.turn]
    axis.set_xticks(
        columns,
        [shorten(panel.columns[at], _COLUMN_LETTERS) for at in columns],
        fontsize=cells.column_size,
        rotation=cells.turn,
        ha=anchor,
        va={0: "top", 45: "top", 90: "center"}[cells.turn],
        rotation_mode="anchor",
    )
    axis.set_yticks(
        rows, [shorten(panel.rows[at], panel.letters) for at in rows] if first else [], fontsize=cells.row_size
    )
    for labels, names in (
        (axis.get_xticklabels(), [panel.columns[at] for at in columns]),
        (axis.get_yticklabels(), [panel.rows[at] for at in rows]),
    ):
        for text, name in zip(labels, names, strict=False):
            text.set_fontweight("bold" if name in panel.marked else "normal")


def _frame(axis: Axes, panel: Panel) -> None:
    """Frame the rows and columns of marked labels."""
    down, across = panel.values.shape
    boxes = [((-0.5, row - 0.5), across, 1) for row, name in enumerate(panel.rows) if name in panel.marked]
    boxes += [((column - 0.5, -0.5), 1, down) for column, name in enumerate(panel.columns) if name in panel.marked]
    for corner, width, height in boxes:
        box = Rectangle(corner, width, height, fill=False, edgecolor=INK, linewidth=1.0, clip_on=False, zorder=3)
        axis.add_patch(box)


def _add_bar(
    figure: Figure, image: AxesImage, axes: list[Axes], label: str, height: float, beyond: tuple[bool, bool]
) -> None:
    """Add the colour bar: beside the first row of panels, or below all where that is too low for one."""
    ends = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}[beyond]
    if height < _SHORTEST_BAR:
        bar = figure.colorbar(image, ax=figure.axes, location="bottom", aspect=30, pad=0.02, extend=ends)
    else:
        shrink = min(1.0, _TALLEST_BAR / height)
        label = _filled(label, min(height, _TALLEST_BAR), _LABEL)
        bar = figure.colorbar(image, ax=axes, location="right", shrink=shrink, aspect=20, pad=0.02, extend=ends)
    bar.set_label(label)
    bar.outline.set(edgecolor=FAINT, linewidth=0.6)


def _contrast(colour: tuple[float, float, float, float]) -> str:
    """Choose a text colour for a background (Web Content Accessibility Guidelines 2.2, "contrast ratio")."""
    light, dark, own = _luminance("white"), _luminance(INK), _luminance(colour)
    return "white" if (light + 0.05) / (own + 0.05) > (own + 0.05) / (dark + 0.05) else INK


def _luminance(colour: str | tuple[float, float, float, float]) -> float:
    """Compute relative luminance: 0 of black, 1 of white."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
