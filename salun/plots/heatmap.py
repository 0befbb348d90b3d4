"""Matrices with their numbers, side by side, on one scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from salun.plots.style import EMPTY, FAINT, INK, shorten

SEQUENTIAL = "cividis_r"
DIVERGING = "PuOr"
CELL = 0.42
NUMBERED = 30
LABELLED = 60
LONGEST_LABEL = 22


@dataclass(frozen=True)
class Panel:
    """One matrix.

    Attributes:
        title: above it.
        values: (R, C); NaN where there is no value.
        rows: R labels.
        columns: C labels.
        marked: labels, of rows or columns, that are printed bold.
    """

    title: str
    values: NDArray[np.float64]
    rows: Sequence[str]
    columns: Sequence[str]
    marked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Scale:
    """What a colour means.

    Attributes:
        label: quantity and unit.
        low: value of the first colour; None for the smallest there is.
        high: value of the last; None for the largest there is.
        centre: of a diverging scale; None for a sequential one.
        form: of the numbers in the cells, as `format` takes it.
        rows: what the rows are.
        columns: what the columns are.
    """

    label: str
    low: float | None = None
    high: float | None = None
    centre: float | None = None
    form: str = ".2f"
    rows: str = ""
    columns: str = ""


def heatmaps(panels: Sequence[Panel], scale: Scale, title: str = "", across: int = 3) -> Figure:
    """Draw matrices on one scale.

    Args:
        panels: at least one.
        scale: of all of them.
        title: above all.
        across: panels in a row.

    Returns:
        The figure; cells without a value are grey and crossed out, and named below where there are any.
    """
    norm = normalised(panels, scale)
    across = min(across, len(panels))
    down = -(-len(panels) // across)
    height, width = (max(len(getattr(panel, side)) for panel in panels) for side in ("rows", "columns"))
    cell = CELL if max(height, width) <= NUMBERED else CELL * NUMBERED / max(height, width)
    labels = 0.075 * max(
        len(shorten(label, LONGEST_LABEL)) for panel in panels for label in [*panel.rows, *panel.columns]
    )
    side = max(2.2, cell * width) + labels + 0.9, max(1.4, cell * height) + labels + 0.8
    figure = Figure(figsize=(across * side[0] + 1.0, down * side[1] + 0.7))
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for place in axes[len(panels) :]:
        place.set_axis_off()
    image = None
    for axis, panel in zip(axes, panels, strict=False):
        image = draw(axis, panel, scale, norm)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02, aspect=30)
    bar.set_label(scale.label)
    bar.outline.set_visible(False)
    if any(np.isnan(panel.values).any() for panel in panels):
        figure.text(0.995, 0.005, "×: no value, for lack of images", ha="right", va="bottom", fontsize=7)
    if title:
        figure.suptitle(title)
    return figure


def normalised(panels: Sequence[Panel], scale: Scale) -> Normalize:
    """Find the limits that all panels share.

    Args:
        panels: their values.
        scale: limits that are given.

    Returns:
        A map from values to [0, 1]; symmetric about the centre of a diverging scale.
    """
    values = np.concatenate([panel.values.flatten() for panel in panels])
    values = values[np.isfinite(values)]
    low = scale.low if scale.low is not None else float(values.min()) if len(values) else 0.0
    high = scale.high if scale.high is not None else float(values.max()) if len(values) else 1.0
    if scale.centre is None:
        return Normalize(low, high if high > low else low + 1.0)
    reach = max(abs(low - scale.centre), abs(high - scale.centre)) or 1.0
    return TwoSlopeNorm(scale.centre, scale.centre - reach, scale.centre + reach)


def draw(axis: Axes, panel: Panel, scale: Scale, norm: Normalize) -> AxesImage:
    """Draw one matrix.

    Args:
        axis: where.
        panel: what.
        scale: its kind.
        norm: its limits.

    Returns:
        The image, for a colour bar.
    """
    colours = mpl.colormaps[SEQUENTIAL if scale.centre is None else DIVERGING].with_extremes(bad=EMPTY)
    image = axis.imshow(np.ma.masked_invalid(panel.values), cmap=colours, norm=norm, aspect="equal")
    name_ticks(axis, panel)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.tick_params(length=0)
    axis.set(title=panel.title, xlabel=scale.columns, ylabel=scale.rows)
    numbered = max(panel.values.shape) <= NUMBERED
    for (row, column), value in np.ndenumerate(panel.values):
        if np.isnan(value):
            axis.text(column, row, "×", ha="center", va="center", color=FAINT, fontsize=8)
        elif numbered:
            shade = contrast(colours(norm(value)))
            axis.text(column, row, format(value, scale.form), ha="center", va="center", color=shade, fontsize=6.5)
    return image


def name_ticks(axis: Axes, panel: Panel) -> None:
    """Write the labels of rows and columns, every few of them where there are many.

    Args:
        axis: of the panel.
        panel: its labels.
    """
    for labels, set_ticks in ((panel.columns, axis.set_xticks), (panel.rows, axis.set_yticks)):
        step = -(-len(labels) // LABELLED)
        ticks = range(0, len(labels), step)
        set_ticks(list(ticks), [shorten(labels[tick], LONGEST_LABEL) for tick in ticks])
    size = 8 if max(panel.values.shape) <= NUMBERED else 5
    for text in [*axis.get_xticklabels(), *axis.get_yticklabels()]:
        text.set_fontsize(size)
        text.set_fontweight("bold" if text.get_text() in panel.marked else "normal")
    for text in axis.get_xticklabels():
        text.set(rotation=45, ha="right", rotation_mode="anchor")


def contrast(colour: tuple[float, float, float, float]) -> str:
    """Choose a text colour for a background.

    Args:
        colour: red, green, blue and opacity in [0, 1].

    Returns:
        White on dark, ink on light, by the luminance of ITU-R BT.709.
    """
    luminance = float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))
    return "white" if luminance < 0.45 else INK
