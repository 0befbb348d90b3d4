"""Figures of runs: bars of metrics, curves over epochs, mask sweeps, forgetting against utility."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from salun.reports.curves import Curve, Sweep, value_of
from salun.reports.plots.style import COLOURS, FAINT, INK, MARKERS, Look, look_of, shorten
from salun.reports.statistics import Figure as Estimate
from salun.reports.summary import Row

_Floats = NDArray[np.float64]

_Frame = tuple[_Floats, _Floats]

_MASKED = "/////"

_TARGET = "...."

_LONGEST_LABEL = 40

_CHARACTER = 0.072

_PER_INCH = 11.5

_LEGEND_LINE = 0.19

_ROOM = 12

_BASE = Look("#C4C4C4", "X")

_RETRAINED = Look("#FFFFFF", "*")

_MEANINGS = {
    "UA": "error on the forget set",
    "RA": "accuracy on the retain set",
    "TA": "accuracy on the test set",
    "MIA": "forget set taken for unseen",
    "gap": "average distance to retrained",
}

_LABELS = {
    "loss": "loss, as optimised",
    "accuracy": "accuracy on given labels, %",
    "validation": "validation accuracy, %",
}

_LINES: dict[str, Any] = {"retrain": (0, (4, 2)), "base": (0, (1, 2))}

_NEAR = 5.0

_ENLARGED = 2.0

_LEAST_MARGINS = (1.5, 0.4)

_TOUCHING = 0.02

_COLUMNS, _LEVEL_LABELS = 40, 6

_WHISKERS = "whiskers: 95 % t-interval of the mean, cut at 0 and 100"

_HALO: list[AbstractPathEffect] = [withStroke(linewidth=2.2, foreground="white")]


@dataclass(frozen=True)
class _Drawn:
    """A row as it is drawn in every figure of its group.

    Attributes:
        row: of the table.
        label: its name in a figure, unlike the others'.
        look: colour and marker.
    """

    row: Row
    label: str
    look: Look

    @property
    def masked(self) -> bool:
        """Whether its runs had a mask."""
        return bool(self.row.records) and self.row.records[0].settings["mask"] is not None


def _drawn(rows: Iterable[Row]) -> list[_Drawn]:
    """Choose order, names and looks of a group's rows."""
    parts: dict[str, list[Row]] = {"base": [], "retrain": [], "method": []}
    for row in rows:
        parts[row.kind].append(row)
    hues = _hues_of(parts["method"])
    methods = sorted(parts["method"], key=lambda row: hues[_method_of(row)])
    members = [*parts["base"], *parts["retrain"], *methods]
    looks = [_BASE] * len(parts["base"]) + [_RETRAINED] * len(parts["retrain"]) + _looks_of(methods, hues)
    return [_Drawn(*found) for found in zip(members, _labels_of(members), looks, strict=True)]


def _method_of(row: Row) -> str:
    """Tell a row's method."""
    return str(row.records[0].settings["method"])


def _hues_of(rows: Iterable[Row]) -> dict[str, int]:
    """Number the methods of a group."""
    return {method: place for place, method in enumerate(dict.fromkeys(map(_method_of, rows)))}


def _looks_of(rows: Sequence[Row], hues: dict[str, int]) -> list[Look]:
    """Choose looks: a colour a method, a marker a variant of it, as far as there are enough of both."""
    variants = Counter(map(_method_of, rows))
    if len(hues) > len(COLOURS) or max(variants.values(), default=0) > len(MARKERS):
        return [look_of(place) for place in range(len(rows))]
    seen: Counter[str] = Counter()
    looks = []
    for method in map(_method_of, rows):
        marker = MARKERS[(hues[method] + seen[method]) % len(MARKERS)]
        looks.append(Look(COLOURS[hues[method]], marker))
        seen[method] += 1
    return looks


def _labels_of(rows: Sequence[Row]) -> list[str]:
    """Name rows briefly."""
    counts = {len(row.records) for row in rows if row.records}
    labels: list[str] = []
    for row in rows:
        label = shorten(row.title, _LONGEST_LABEL) or "unnamed"
        if row.diverged:
            label += f", {row.diverged} of {len(row.records)} diverged"
        elif row.records and len(counts) > 1:
            label += f", n = {len(row.records)}"
        twins = sum(other.partition(" [")[0] == label for other in labels)
        labels.append(f"{label} [{twins + 1}]" if twins else label)
    return labels


def _whiskers(values: Sequence[Estimate]) -> _Floats:
    """Compute the whiskers of percentages."""
    means = np.array([100 * (value.mean or 0.0) for value in values])
    lows, highs = (
        np.array([mean if end is None else 100 * end for mean, end in zip(means, ends, strict=True)])
        for ends in ([value.low for value in values], [value.high for value in values])
    )
    down, up = means - lows, highs - means
    return np.stack([np.minimum(down, np.maximum(means, 0)), np.minimum(up, np.maximum(100 - means, 0))])


def _head(figure: Figure, title: str, about: str) -> None:
    """Write a figure's title, and below it what it shows."""
    width = int(figure.get_figwidth() * _PER_INCH)
    figure.suptitle(f"{fill(title, width)}\n{fill(about, width)}", fontsize=10)


def _runs_of(rows: Iterable[Row]) -> str:
    """Say over how many runs means were taken."""
    counts = sorted({len(row.records) for row in rows if row.records})
    if len(counts) > 1:
        return f"n = {counts[0]} to {counts[-1]} runs"
    return f"n = {counts[0]} run{'' if counts == [1] else 's'}"


def _means_of(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Say what points and whiskers are."""
    return f"mean over {_runs_of(rows)}" + (", 95 % t-intervals" if _have_spread(rows, names) else "")


def _have_spread(rows: Iterable[Row], names: Sequence[str]) -> bool:
    """Tell whether any interval can be drawn."""
    return any(value_of(row, name).low is not None for row in rows for name in names)


def _strokes(look: Look) -> dict[str, Any]:
    """Say how a line and its markers are drawn; the line of a white marker is ink."""
    star = look.marker == _RETRAINED.marker
    return {
        "color": INK if star else look.colour,
        "marker": look.marker,
        "markerfacecolor": look.colour,
        "markersize": 10 if star else 6,
        "markeredgecolor": INK,
        "markeredgewidth": 0.9 if star else 0.5,
    }


def _framed(width: float, panels: float, entries: Sequence[Line2D]) -> Figure:
    """Make a figure with a legend below and room for its title above."""
    longest = max((len(str(line.get_label())) for line in entries), default=0)
    columns = max(1, min(len(entries), int(width / (0.6 + _CHARACTER * longest))))
    lines = -(-len(entries) // columns)
    figure = Figure(figsize=(width, panels + _LEGEND_LINE * lines + 0.8))
    if entries:
        figure.legend(handles=list(entries), loc="outside lower center", ncols=columns)
    return figure


# Bars


def bars(rows: Sequence[Row], names: Sequence[str], title: str) -> Figure:
    """Draw each metric as a panel of bars, a bar a row, with the retrained models' mean as a line.

    Args:
        rows: of one group.
        names: metrics in percent, at least one.
        title: the problem.

    Returns:
        The figure; a row without a value has no bar and says so.
    """
    members = _drawn(rows)
    hues = _hues_of(row for row in rows if row.kind == "method")
    if len(hues) <= len(COLOURS):
        members = [
            replace(member, look=look_of(hues[_method_of(member.row)])) if member.row.kind == "method" else member
            for member in members
        ]
    room = 0.4 + _CHARACTER * max(len(member.label) for member in members)
    figure = Figure(figsize=(max(room + 2.0 * len(names), 5.5), 1.7 + 0.27 * len(members)))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        _bar_panel(axis, members, name)
    axes[0].set_yticks(range(len(members)), [member.label for member in members])
    axes[0].set_ylim(len(members) - 0.4, -0.6)
    for text, member in zip(axes[0].get_yticklabels(), members, strict=True):
        text.set_fontweight("normal" if member.row.kind == "method" else "bold")
    notes = ["numbers: means"]
    if _have_spread(rows, names):
        notes.append(_WHISKERS)
    if any(member.masked for member in members):
        notes.append("hatched: with a mask")
    if any(row.kind == "retrain" for row in rows):
        notes.append("dashed: mean of the retrained models")
    _head(figure, title, f"mean over {_runs_of(rows)}")
    figure.supxlabel(fill("; ".join(notes), int(figure.get_figwidth() * _PER_INCH * 1.2)), fontsize=8)
    return figure


def _bar_panel(axis: Axes, members: Sequence[_Drawn], name: str) -> None:
    """Draw the bars of one metric."""
    beside = axis.get_yaxis_transform()
    for place, member in enumerate(members):
        value = value_of(member.row, name)
        if value.mean is None:
            reason = "diverged" if member.row.diverged else "–"
            axis.text(1.04, place, reason, transform=beside, va="center", fontsize=7)
            continue
        hatch = _TARGET if member.row.kind == "retrain" else _MASKED if member.masked else None
        axis.barh(place, 100 * value.mean, 0.74, color=member.look.colour, edgecolor=INK, linewidth=0.6, hatch=hatch)
        axis.text(1.04, place, f"{100 * value.mean:.2f}", transform=beside, va="center", fontsize=7)
        if value.low is not None and value.low != value.high:
            line = axis.errorbar(100 * value.mean, place, xerr=_whiskers([value]), color=INK, elinewidth=1, capsize=2.5)
            for part in line.get_children():
                part.set_path_effects(_HALO)
        if member.row.kind == "retrain":
            axis.axvline(100 * value.mean, color=INK, linestyle=_LINES["retrain"], linewidth=1.1, clip_on=False)
    axis.set_title(f"{name}, %\n{_MEANINGS[name]}", fontsize=8.5)
    axis.set_xlim(0, 100)
    axis.set_xticks((0, 50, 100), ("0", "50", "100"))
    axis.set_xticks((25, 75), minor=True)
    axis.grid(axis="x", which="both", color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)


# Curves


def curves(found: Sequence[Curve], rows: Sequence[Row], title: str) -> Figure:
    """Draw what was measured epoch by epoch: methods above, retraining, which takes longer, below.

    Args:
        found: at least one curve.
        rows: of their group, which decide the looks.
        title: the problem.

    Returns:
        The figure: means as thick lines, runs as thin ones.
    """
    members = _drawn(rows)
    by_row = {id(curve.row): curve for curve in found}
    bands: dict[str, list[tuple[Curve, _Drawn]]] = {"unlearning": [], "retraining": []}
    for member in members:
        if id(member.row) in by_row:
            band = "retraining" if member.row.kind == "retrain" else "unlearning"
            bands[band].append((by_row[id(member.row)], member))
    bands = {band: lines for band, lines in bands.items() if lines}
    names = [name for name in _LABELS if any(np.isfinite(curve.values[name]).any() for curve in found)] or ["loss"]
    entries = [
        Line2D([], [], **_strokes(member.look), label=member.label) for lines in bands.values() for _, member in lines
    ]
    figure = _framed(max(3.3 * len(names), 5.0), 2.7 * len(bands), entries)
    axes = figure.subplots(len(bands), len(names), squeeze=False)
    for (band, lines), across in zip(bands.items(), axes, strict=True):
        for axis, name in zip(across, names, strict=True):
            _curve_panel(axis, [(curve, member.look) for curve, member in lines], name)
        across[0].set_title(band, loc="left", fontweight="bold")
    _head(figure, title, f"epoch by epoch: mean (thick) of {_runs_of(rows)} (thin)")
    return figure


def _curve_panel(axis: Axes, found: Sequence[tuple[Curve, Look]], name: str) -> None:
    """Draw one quantity over the epochs."""
    if not any(np.isfinite(curve.values[name]).any() for curve, _ in found):
        axis.set_axis_off()
        axis.text(0.5, 0.5, f"no {name} recorded", transform=axis.transAxes, ha="center", va="center", fontsize=8)
        return
    factor = 1 if name == "loss" else 100
    for curve, look in found:
        style = _strokes(look)
        for run in curve.values[name]:
            axis.plot(curve.epochs, factor * run, color=style["color"], linewidth=0.6, alpha=0.55)
        every = max(1, len(curve.epochs) // 8)
        axis.plot(curve.epochs, factor * curve.mean(name), **style, linewidth=1.6, markevery=every)
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


# Mask sweeps


def sweep(sweeps: Sequence[Sweep], rows: Sequence[Row], names: Sequence[str], title: str) -> Figure:
    """Draw each metric against the fraction of the weights that may move.

    Args:
        sweeps: at least one.
        rows: of their group; the base model and the retrained ones are drawn as lines.
        names: metrics in percent, "gap" for the average gap; at least one.
        title: the problem.

    Returns:
        The figure.
    """
    methods = [_method_of(next(iter(found.rows.values()))) for found in sweeps]
    hues = _hues_of(row for row in rows if row.kind == "method")
    alone = len(set(methods)) == len(methods)
    looks = [look_of(hues[method] if alone else place) for place, method in enumerate(methods)]
    ends = [row for row in rows if row.kind != "method"]
    entries = [
        Line2D([], [], **_strokes(look), label=shorten(found.title, _LONGEST_LABEL))
        for found, look in zip(sweeps, looks, strict=True)
    ]
    entries += [
        Line2D([], [], color=INK, linewidth=1.1, linestyle=_LINES[kind], label=label)
        for kind, label in (("retrain", "retrained"), ("base", "base model"))
        if any(row.kind == kind for row in ends)
    ]
    across = 3 if len(names) > 4 else min(2, len(names))
    down = -(-len(names) // across)
    roomy = across * down > len(names) and len(entries) <= _ROOM
    figure = _framed(max(3.2 * across, 5.0), 2.6 * down, [] if roomy else entries)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    if roomy:
        axes[-1].legend(handles=entries, loc="center")
    for axis, name in zip(axes, names, strict=False):
        _sweep_panel(axis, list(zip(sweeps, looks, strict=True)), ends, name)
    _head(figure, title, f"by share of weights that may move: {_means_of(rows, names)}")
    return figure


def _sweep_panel(axis: Axes, sweeps: Sequence[tuple[Sweep, Look]], ends: Sequence[Row], name: str) -> None:
    """Draw one metric of every sweep."""
    for row in ends:
        mean = value_of(row, name).mean
        if mean is not None:
            axis.axhline(100 * mean, color=INK, linewidth=1.1, linestyle=_LINES[row.kind], zorder=1)
    keeps = sorted({keep for found, _ in sweeps for keep in found.rows})
    wide = keeps[-1] > 20 * keeps[0]
    for place, (found, look) in enumerate(sweeps):
        known = {keep: value_of(row, name) for keep, row in found.rows.items() if value_of(row, name).n}
        shift = (place - (len(sweeps) - 1) / 2) * min(0.008, 0.04 / len(sweeps))
        axis.errorbar(
            [keep * (keeps[-1] / keeps[0]) ** shift if wide else keep + shift for keep in known],
            [100 * (value.mean or 0.0) for value in known.values()],
            yerr=_whiskers(list(known.values())),
            **_strokes(look),
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
        )
    axis.set_title(f"{name}: {_MEANINGS[name]}, %", fontsize=8.5)
    axis.set(xlabel="mask keep (1: no mask)", xscale="log" if wide else "linear")
    ticks = _spaced(keeps, wide)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _spaced(values: Sequence[float], wide: bool) -> list[float]:
    """Choose which values are written below an axis: those far enough from each other."""
    places = np.log(values) if wide else np.asarray(values)
    least = (places[-1] - places[0]) / 9.5
    kept = [len(values) - 1]
    for place in range(len(values) - 2, -1, -1):
        if places[kept[-1]] - places[place] >= least:
            kept.append(place)
    return [values[place] for place in sorted(kept)]


# Forgetting against utility


def plane(rows: Sequence[Row], names: tuple[str, str], title: str) -> Figure:
    """Draw each row as a point: how much was forgotten, and how well the rest is known.

    Args:
        rows: of one group, some of which have both values.
        names: metrics of forgetting and of utility, in percent.
        title: the problem.

    Returns:
        The figure; where methods crowd around the retrained models, that part is drawn larger beside it.
    """
    everyone = _drawn(rows)
    members = [member for member in everyone if all(value_of(member.row, name).n for name in names)]
    points = [_point_of(member, names) for member in members]
    crowded = _crowd(points)
    entries = [Line2D([], [], **_strokes(member.look), linestyle="", label=member.label) for member in members]
    figure = _framed(6.0 if crowded is None else 9.0, 4.0, entries)
    axes = figure.subplots(1, 1 if crowded is None else 2, squeeze=False)[0]
    _plane_panel(axes[0], points, names, _frame_of(points, room=2))
    if crowded is not None:
        low, high = _frame_of(crowded)
        axes[0].add_patch(Rectangle((low[0], low[1]), *(high - low), fill=False, edgecolor=INK, zorder=4))
        panel = _row_panel if _cover_each_other(crowded) else _plane_panel
        panel(axes[1], crowded, names, (low, high))
        axes[1].set_title("around retrained: what is framed on the left", fontsize=8.5)
        axes[1].spines[:].set_visible(True)
    notes = [f"forgetting against utility: {_means_of(rows, names)}"]
    if any(member.row.kind == "retrain" for member in members):
        notes.append("the star is the target")
    lost = [member.label for member in everyone if member not in members]
    if lost:
        notes.append(f"without values: {shorten(', '.join(lost), 80)}")
    _head(figure, title, "; ".join(notes))
    return figure


@dataclass(frozen=True)
class _Point:
    """A row's place in the plane, in percent.

    Attributes:
        member: the row.
        place: (2,) means, across and up.
        reach: (2, 2) lengths of the whiskers, left and right, down and up.
    """

    member: _Drawn
    place: _Floats
    reach: _Floats

    @property
    def target(self) -> bool:
        """Whether it is the retrained models'."""
        return self.member.row.kind == "retrain"

    def within(self, low: _Floats, high: _Floats) -> bool:
        """Tell whether it lies between two corners, whatever its whiskers."""
        return bool(((low <= self.place) & (self.place <= high)).all())


def _point_of(member: _Drawn, names: tuple[str, str]) -> _Point:
    """Find a row's place."""
    values = [value_of(member.row, name) for name in names]
    return _Point(member, np.array([100 * (value.mean or 0.0) for value in values]), _whiskers(values).T)


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
    axis.set_ylabel(f"{names[1]}: {_MEANINGS[names[1]]}, %")
    axis.set_ylim(frame[0][1], frame[1][1])
    axis.locator_params(axis="y", nbins=7)
    _keep_percentages(axis.yaxis)


def _plane_panel(axis: Axes, points: Sequence[_Point], names: tuple[str, str], frame: _Frame) -> None:
    """Draw points where they are."""
    for point in points:
        if point.target:
            axis.axvline(point.place[0], color=INK, linewidth=0.9, linestyle=_LINES["retrain"], zorder=1)
        _mark(axis, point, point.place[0])
    axis.set_xlabel(f"{names[0]}: {_MEANINGS[names[0]]}, %")
    axis.set_ylabel(f"{names[1]}: {_MEANINGS[names[1]]}, %")
    axis.set(xlim=(frame[0][0], frame[1][0]), ylim=(frame[0][1], frame[1][1]))
    axis.locator_params(nbins=7)
    for side in (axis.xaxis, axis.yaxis):
        _keep_percentages(side)


def _mark(axis: Axes, point: _Point, across: float, whiskers_across: bool = True) -> None:
    """Draw a point with its whiskers, and the level of a target."""
    up = point.place[1]
    if point.target:
        axis.axhline(up, color=INK, linewidth=0.9, linestyle=_LINES["retrain"], zorder=1)
    style = _strokes(point.member.look)
    aside, upwards = (lengths[:, None] if lengths.any() else None for lengths in point.reach)
    aside = aside if whiskers_across else None
    axis.errorbar(across, up, xerr=aside, yerr=upwards, fmt="none", ecolor=style["color"], elinewidth=0.9, capsize=2)
    axis.plot(across, up, **style, linestyle="", zorder=3)


def _keep_percentages(axis: Axis) -> None:
    """Leave out ticks that no percentage has."""
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in axis.get_majorticklocs() if max(0, low) <= tick <= min(100, high)])
