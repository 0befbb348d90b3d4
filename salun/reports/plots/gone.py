"""How much of what was forgotten comes back, and by which way."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from salun.metrics import METRICS, load_metrics
from salun.reports.plots.rows import (
    LETTER_WIDTH,
    LINE_STYLES,
    DrawnRow,
    add_title,
    describe_means,
    drawn_rows,
    line_style,
)
from salun.reports.plots.style import FAINT, INK
from salun.reports.summary import Row

WAYS = {
    "probe_forget": "a new head\non its features",
    "kNN_forget": "neighbours\nin its features",
    "IDI": "information\nin its layers",
    "relearn_retain": "training on\nretain images",
    "relearn_few": "and on 10\nforget images",
    "barrier_base": "barrier to the\nbase model",
    "RF_JSD": "distance to\nunseen images",
    "Apollo_under": "attack by\nlabels alone",
}
_CURVES = {
    "relearn_retain": "trained on retain images",
    "relearn_few": "trained on retain images and 10 forget images",
}
_LINES = {"retrain": "dashed: retrained", "base": "dotted: base"}


def gone(rows: Sequence[Row], names: Sequence[str], title: str) -> Figure:
    """Draw each way as a panel of points, a point a row, and below how the forgotten is learned again.

    Args:
        rows: of one group.
        names: of `WAYS`, at least one.
        title: the problem.
    """
    load_metrics()
    members = drawn_rows(rows)
    learned = [name for name in names if name in _CURVES and any(_curve_of(row, name) for row in rows)]
    room, above = 0.5 + LETTER_WIDTH * max(len(member.label) for member in members), 1.6 + 0.27 * len(members)
    figure = Figure(figsize=(max(room + 1.25 * len(names), 6.0), above + 2.6 * bool(learned)))
    heights = (above, 2.6) if learned else (above,)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        _way_panel(axis, members, name)
    axes[0].set_yticks(range(len(members)), [member.label for member in members])
    axes[0].set_ylim(len(members) - 0.4, -0.6)
    marked = [text for kind, text in _LINES.items() if any(row.kind == kind for row in rows)]
    parts[0].supxlabel("; ".join(["points: means", *marked]), fontsize=8)
    if learned:
        below = parts[1].subplots(1, len(learned), sharey=True, squeeze=False)[0]
        for axis, name in zip(below, learned, strict=True):
            _curve_panel(axis, members, name)
        below[0].set_ylabel("accuracy on\nforget images, %")
    add_title(figure, title, f"what comes back: {describe_means(rows, names)}")
    return figure


def _way_panel(axis: Axes, members: Sequence[DrawnRow], name: str) -> None:
    """Draw the points of one way."""
    unit = METRICS[name].unit
    factor = 100 if unit == "%" else 1
    for place, member in enumerate(members):
        value, style = member.row.value(name), line_style(member.style)
        if value.mean is None:
            axis.text(0.5, place, "–", transform=axis.get_yaxis_transform(), ha="center", va="center", fontsize=7)
            continue
        if member.row.kind in LINE_STYLES:
            axis.axvline(factor * value.mean, color=INK, linestyle=LINE_STYLES[member.row.kind], linewidth=0.9)
        if value.low is not None and value.high is not None:
            axis.hlines(place, factor * value.low, factor * value.high, color=INK, linewidth=1)
        axis.plot(factor * value.mean, place, linestyle="none", **style)
    axis.set_title(f"{name}{f', {unit}' if unit else ''}\n{WAYS[name]}", fontsize=7.5)
    if unit == "%":
        axis.set_xlim(-6, 106)
        axis.set_xticks((0, 50, 100))
    else:
        axis.margins(x=0.15)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="both", color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)


def _curve_of(row: Row, name: str) -> dict[int, float]:
    """Average the accuracies of a row's runs by epoch, as percentages, where every run has one."""
    found = [record.details.get(f"{name}_curve") for record in row.records]
    curves = [curve for curve in found if isinstance(curve, dict)]
    if not curves:
        return {}
    epochs = [epoch for epoch in curves[0] if all(curve.get(epoch) is not None for curve in curves)]
    return {int(epoch): 100 * float(np.mean([curve[epoch] for curve in curves])) for epoch in epochs}


def _curve_panel(axis: Axes, members: Sequence[DrawnRow], name: str) -> None:
    """Draw how the accuracy on forget images rises."""
    for member in members:
        curve = _curve_of(member.row, name)
        axis.plot([*curve], [*curve.values()], **member.line, linewidth=1.4)
    axis.set(xlabel=f"epoch, {_CURVES[name]}", ylim=(-4, 104))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color=FAINT, linewidth=0.5)
