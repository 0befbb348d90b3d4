"""Bars of metrics."""

from collections.abc import Sequence
from dataclasses import replace
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke

from salun.reports.plots.rows import (
    LETTER_WIDTH,
    LETTERS_PER_INCH,
    LINE_STYLES,
    MEANINGS,
    DrawnRow,
    add_title,
    describe_runs,
    drawn_rows,
    have_spread,
    hues_of,
    method_of,
    whiskers,
)
from salun.reports.plots.style import COLOURS, FAINT, INK, style_of
from salun.reports.summary import Row

_MASKED = "/////"
_TARGET = "...."
_WHISKERS = "whiskers: 95 % t-interval of the mean, cut at 0 and 100"
_HALO: list[AbstractPathEffect] = [withStroke(linewidth=2.2, foreground="white")]


def bars(rows: Sequence[Row], names: Sequence[str], title: str) -> Figure:
    """Draw each metric as a panel of bars, a bar a row, with the retrained models' mean as a line.

    Args:
        rows: of one group.
        names: metrics in percent, at least one.
        title: the problem.
    """
    members = drawn_rows(rows)
    hues = hues_of(row for row in rows if row.kind == "method")
    if len(hues) <= len(COLOURS):
        members = [
            replace(member, style=style_of(hues[method_of(member.row)])) if member.row.kind == "method" else member
            for member in members
        ]
    room = 0.4 + LETTER_WIDTH * max(len(member.label) for member in members)
    figure = Figure(figsize=(max(room + 2.0 * len(names), 5.5), 1.7 + 0.27 * len(members)))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        _bar_panel(axis, members, name)
    axes[0].set_yticks(range(len(members)), [member.label for member in members])
    axes[0].set_ylim(len(members) - 0.4, -0.6)
    for text, member in zip(axes[0].get_yticklabels(), members, strict=True):
        text.set_fontweight("normal" if member.row.kind == "method" else "bold")
    notes = ["numbers: means"]
    if have_spread(rows, names):
        notes.append(_WHISKERS)
    if any(member.masked for member in members):
        notes.append("hatched: with a mask")
    if any(row.kind == "retrain" for row in rows):
        notes.append("dashed: mean of the retrained models")
    add_title(figure, title, f"mean over {describe_runs(rows)}")
    figure.supxlabel(fill("; ".join(notes), int(figure.get_figwidth() * LETTERS_PER_INCH * 1.2)), fontsize=8)
    return figure


def _bar_panel(axis: Axes, members: Sequence[DrawnRow], name: str) -> None:
    """Draw the bars of one metric."""
    beside = axis.get_yaxis_transform()
    for place, member in enumerate(members):
        value = member.row.value(name)
        if value.mean is None:
            reason = "diverged" if member.row.diverged else "–"
            axis.text(1.04, place, reason, transform=beside, va="center", fontsize=7)
            continue
        hatch = _TARGET if member.row.kind == "retrain" else _MASKED if member.masked else None
        axis.barh(place, 100 * value.mean, 0.74, color=member.style.colour, edgecolor=INK, linewidth=0.6, hatch=hatch)
        axis.text(1.04, place, f"{100 * value.mean:.2f}", transform=beside, va="center", fontsize=7)
        if value.low is not None and value.low != value.high:
            line = axis.errorbar(100 * value.mean, place, xerr=whiskers([value]), color=INK, elinewidth=1, capsize=2.5)
            for part in line.get_children():
                part.set_path_effects(_HALO)
        if member.row.kind == "retrain":
            axis.axvline(100 * value.mean, color=INK, linestyle=LINE_STYLES["retrain"], linewidth=1.1, clip_on=False)
    axis.set_title(f"{name}, %\n{MEANINGS[name]}", fontsize=8.5)
    axis.set_xlim(0, 100)
    axis.set_xticks((0, 50, 100), ("0", "50", "100"))
    axis.set_xticks((25, 75), minor=True)
    axis.grid(axis="x", which="both", color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
