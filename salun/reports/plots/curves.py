"""Curves over epochs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from salun.reports.curves import Curve
from salun.reports.plots.rows import DrawnRow, add_title, describe_runs, drawn_rows, figure_with_legend
from salun.reports.summary import Row

_Floats = NDArray[np.float64]
_SPREAD = 0.4
_LABELS = {
    "loss": "loss, as optimised",
    "accuracy": "accuracy on given labels, %",
    "validation": "validation accuracy, %",
}


def curves(found: Sequence[Curve], rows: Sequence[Row], title: str) -> Figure:
    """Draw what was measured epoch by epoch: methods above, retraining, which takes longer, below.

    Args:
        found: at least one curve.
        rows: of their group, which decide the styles.
        title: the problem.
    """
    members = drawn_rows(rows)
    by_row = {id(curve.row): curve for curve in found}
    bands: dict[str, list[tuple[Curve, DrawnRow]]] = {"unlearning": [], "retraining": []}
    for member in members:
        if id(member.row) in by_row:
            band = "retraining" if member.row.kind == "retrain" else "unlearning"
            bands[band].append((by_row[id(member.row)], member))
    bands = {band: lines for band, lines in bands.items() if lines}
    names = {band: _known_of([curve for curve, _ in lines]) for band, lines in bands.items()}
    entries = [Line2D([], [], **member.line, label=member.label) for lines in bands.values() for _, member in lines]
    across = max(map(len, names.values()))
    figure = figure_with_legend(max(3.3 * across, 5.0), 2.7 * len(bands), entries)
    columns = math.lcm(*map(len, names.values()))
    grid = figure.add_gridspec(len(bands), columns)
    for row, (band, lines) in enumerate(bands.items()):
        span = columns // len(names[band])
        for place, name in enumerate(names[band]):
            axis = figure.add_subplot(grid[row, place * span : (place + 1) * span])
            _curve_panel(axis, lines, name)
            if not place:
                axis.set_title(band, loc="left", fontweight="bold")
    add_title(figure, title, f"epoch by epoch: mean (thick) of {describe_runs(rows)} (thin)")
    return figure


def _known_of(found: Sequence[Curve]) -> list[str]:
    """List the quantities that some curve has."""
    return [name for name in _LABELS if any(np.isfinite(curve.values[name]).any() for curve in found)] or ["loss"]


def _curve_panel(axis: Axes, found: Sequence[tuple[Curve, DrawnRow]], name: str) -> None:
    """Draw one quantity over the epochs, each mean thinner than those before it and beside them, so that all show."""
    if not any(np.isfinite(curve.values[name]).any() for curve, _ in found):
        axis.set_axis_off()
        axis.text(0.5, 0.5, f"no {name} recorded", transform=axis.transAxes, ha="center", va="center", fontsize=8)
        return
    factor = 1 if name == "loss" else 100
    for (curve, member), rank in zip(found, np.linspace(1, 0, len(found) + 1)[1:], strict=True):
        line, epochs = member.line, curve.epochs + _SPREAD * (0.5 - rank) * (len(found) > 1)
        for run in curve.values[name]:
            axis.plot(epochs, factor * run, color=line["color"], linewidth=0.6, alpha=0.55)
        every = max(1, len(epochs) // 8)
        first = int(rank * len(found)) % every
        axis.plot(epochs, factor * curve.mean(name), **line, linewidth=1.4 + 2 * rank, markevery=(first, every))
    if name == "loss" and _is_wide([curve.values[name] for curve, _ in found]):
        axis.set_yscale("symlog", linthresh=1.0)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(xlabel="epoch", ylabel=_LABELS[name])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    epochs = np.unique(np.concatenate([curve.epochs for curve, _ in found]))
    if len(epochs) == 1:
        axis.set_xticks(epochs)


def _is_wide(values: Sequence[_Floats]) -> bool:
    """Tell whether losses differ so much that a linear axis would hide most of them."""
    sizes = np.concatenate([np.abs(value).flatten() for value in values])
    sizes = sizes[np.isfinite(sizes)]
    return bool(len(sizes)) and float(sizes.max()) > max(10.0, 30 * float(np.median(sizes)))
