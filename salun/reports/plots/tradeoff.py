"""Forgetting against utility."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from salun.reports.plots.rows import (
    LINE_STYLES,
    MEANINGS,
    DrawnRow,
    add_title,
    describe_means,
    drawn_rows,
    figure_with_legend,
    whiskers,
)
from salun.reports.plots.style import INK, shorten
from salun.reports.summary import Row

_Floats = NDArray[np.float64]
_Frame = tuple[_Floats, _Floats]
_NEAR = 5.0
_ENLARGED = 2.0
_LEAST_MARGINS = (1.5, 0.4)
_TOUCHING = 0.02
_COLUMNS, _LEVEL_LABELS = 40, 6


def plane(rows: Sequence[Row], names: tuple[str, str], title: str) -> Figure:
    """Draw each row as a point: how much was forgotten, and how well the rest is known.

    Args:
        rows: of one group, some of which have both values.
        names: metrics of forgetting and of utility, in percent.
        title: the problem.

    Returns:
        The figure; where methods crowd around the retrained models, that part is drawn larger beside it.
    """
    everyone = drawn_rows(rows)
    members = [member for member in everyone if all(member.row.value(name).n for name in names)]
    points = [_point_of(member, names) for member in members]
    crowded = _crowd(points)
    entries = [Line2D([], [], **member.line, linewidth=0.9, label=member.label) for member in members]
    figure = figure_with_legend(6.0 if crowded is None else 9.0, 4.0, entries)
    axes = figure.subplots(1, 1 if crowded is None else 2, squeeze=False)[0]
    _plane_panel(axes[0], points, names, _frame_of(points, room=2))
    if crowded is not None:
        low, high = _frame_of(crowded)
        axes[0].add_patch(Rectangle((low[0], low[1]), *(high - low), fill=False, edgecolor=INK, zorder=4))
        panel = _row_panel if _cover_each_other(crowded) else _plane_panel
        panel(axes[1], crowded, names, (low, high))
        axes[1].set_title("around retrained: what is framed on the left", fontsize=8.5)
        axes[1].spines[:].set_visible(True)
    notes = [f"forgetting against utility: {describe_means(rows, names)}"]
    if any(member.row.kind == "retrain" for member in members):
        notes.append("the star is the target")
    lost = [member.label for member in everyone if member not in members]
    if lost:
        notes.append(f"without values: {shorten(', '.join(lost), 80)}")
    add_title(figure, title, "; ".join(notes))
    return figure


@dataclass(frozen=True)
class _Point:
    """A row's place in the plane, in percent."""

    member: DrawnRow
    place: _Floats
    reach: _Floats

    @property
    def target(self) -> bool:
        """Whether it is the retrained models'."""
        return self.member.row.kind == "retrain"

    def within(self, low: _Floats, high: _Floats) -> bool:
        """Tell whether it lies between two corners, whatever its whiskers."""
        return bool(((low <= self.place) & (self.place <= high)).all())


def _point_of(member: DrawnRow, names: tuple[str, str]) -> _Point:
    """Find a row's place."""
    values = [member.row.value(name) for name in names]
    return _Point(member, np.array([100 * (value.mean or 0.0) for value in values]), whiskers(values).T)


def _crowd(points: Sequence[_Point]) -> list[_Point] | None:
    """Find the points around the retrained models, where some methods are near them and others are far."""
    target = next((point.place for point in points if point.target), None)
    if target is None:
        return None
    inside = [point for point in points if np.abs(point.place - target).max() <= _NEAR]
    if len(inside) < 3 or np.ptp([point.place for point in points], axis=0).max() < 4 * _NEAR:
        return None
    low, high = _frame_of(inside)
    while len(held := [point for point in points if point.within(low, high)]) > len(inside):
        inside = held
        low, high = _frame_of(inside)
    least, most = _frame_of(points)
    larger = ((high - low) * _ENLARGED <= most - least).any()
    return inside if larger or _cover_each_other(inside) else None


def _frame_of(points: Sequence[_Point], room: int = 1) -> _Frame:
    """Compute the part of the plane that holds points and their whiskers."""
    low = np.min([point.place - point.reach[:, 0] for point in points], axis=0)
    high = np.max([point.place + point.reach[:, 1] for point in points], axis=0)
    margin = room * np.maximum(0.035 * (high - low), _LEAST_MARGINS)
    return low - margin, high + margin


def _cover_each_other(points: Sequence[_Point]) -> bool:
    """Tell whether some whiskers would fall on each other in the frame around points, which columns can mend."""
    low, high = _frame_of(points)
    steps = np.diff(np.sort([point.place[0] for point in points]))
    return len(points) <= _COLUMNS and bool((steps < _TOUCHING * (high[0] - low[0])).any())


def _row_panel(axis: Axes, points: Sequence[_Point], names: tuple[str, str], frame: _Frame) -> None:
    """Draw points side by side, so that none covers another, with their places across as words, not on an axis."""
    columns = sorted(points, key=lambda point: float(point.place[0].round(6)))
    for column, point in enumerate(columns):
        _mark(axis, point, column, whiskers_across=False)
    axis.set_xlim(-0.75, len(columns) - 0.25)
    labels = [f"{point.place[0]:.2f}" for point in columns]
    if len(set(labels)) == 1:
        axis.set_xticks([])
        axis.set_xlabel(f"side by side: each has {names[0]} {labels[0]} %")
    else:
        turn = 0 if len(columns) <= _LEVEL_LABELS else 90
        axis.set_xticks(range(len(columns)), labels, rotation=turn, fontsize=min(8.0, 200 / len(columns)))
        axis.tick_params(axis="x", length=0)
        axis.set_xlabel(f"side by side, not to scale; {names[0]} of each, %")
    axis.set_ylabel(f"{names[1]}: {MEANINGS[names[1]]}, %")
    axis.set_ylim(frame[0][1], frame[1][1])
    axis.locator_params(axis="y", nbins=7)
    _keep_percentages(axis.yaxis)


def _plane_panel(axis: Axes, points: Sequence[_Point], names: tuple[str, str], frame: _Frame) -> None:
    """Draw points where they are."""
    for point in points:
        if point.target:
            axis.axvline(point.place[0], color=INK, linewidth=0.9, linestyle=LINE_STYLES["retrain"], zorder=1)
        _mark(axis, point, point.place[0])
    axis.set_xlabel(f"{names[0]}: {MEANINGS[names[0]]}, %")
    axis.set_ylabel(f"{names[1]}: {MEANINGS[names[1]]}, %")
    axis.set(xlim=(frame[0][0], frame[1][0]), ylim=(frame[0][1], frame[1][1]))
    axis.locator_params(nbins=7)
    for side in (axis.xaxis, axis.yaxis):
        _keep_percentages(side)


def _mark(axis: Axes, point: _Point, across: float, whiskers_across: bool = True) -> None:
    """Draw a point with its whiskers, and the level of a target."""
    up = point.place[1]
    if point.target:
        axis.axhline(up, color=INK, linewidth=0.9, linestyle=LINE_STYLES["retrain"], zorder=1)
    line = point.member.line
    aside, upwards = (lengths[:, None] if lengths.any() else None for lengths in point.reach)
    aside = aside if whiskers_across else None
    bars = axis.errorbar(
        across, up, xerr=aside, yerr=upwards, fmt="none", ecolor=line["color"], elinewidth=0.9, capsize=2
    )
    for bar in bars.lines[2]:
        bar.set_linestyle(line["linestyle"])
    axis.plot(across, up, **line, zorder=3)


def _keep_percentages(axis: Axis) -> None:
    """Leave out ticks that no percentage has."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in axis.get_majorticklocs() if max(0, low) <= tick <= min(100, high)])
