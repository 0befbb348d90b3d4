"""Metrics against the share of the weights that may move, or the part of the corrupted images that was found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from salun.reports.curves import Sweep
from salun.reports.plots.rows import (
    LINE_STYLES,
    LONGEST_LABEL,
    MEANINGS,
    add_title,
    describe_means,
    figure_with_legend,
    hues_of,
    is_masked,
    line_style,
    method_of,
    whiskers,
)
from salun.reports.plots.style import INK, ClassStyle, shorten, style_of
from salun.reports.summary import Row

_ROOM = 12


_MASK_KEEP = "mask keep (1: no mask)", "by share of weights that may move"
FOUND = "part that was found", "by part of the corrupted images that was found"


def sweep(
    sweeps: Sequence[Sweep],
    rows: Sequence[Row],
    names: Sequence[str],
    title: str,
    varied: tuple[str, str] = _MASK_KEEP,
    ends: Sequence[Sweep] = (),
) -> Figure:
    """Draw each metric against what was varied.

    Args:
        sweeps: of methods, at least one.
        rows: of their group; the base model and the retrained ones are drawn as level lines.
        names: metrics in percent, "gap" for the average gap; at least one.
        title: the problem.
        varied: label of its axis, and what the title says of it.
        ends: base and retrained models where they vary as well, in the place of level lines.
    """
    lines = ends or [Sweep(row.title, {1.0: row}) for row in rows if row.kind != "method"]
    methods = [method_of(next(iter(found.rows.values()))) for found in sweeps]
    hues = hues_of(row for row in rows if row.kind == "method")
    alone = len(set(methods)) == len(methods)
    styles = [style_of(hues[method] if alone else place) for place, method in enumerate(methods)]
    entries = [
        Line2D([], [], **_line_of(found, style), label=shorten(found.title, LONGEST_LABEL))
        for found, style in zip(sweeps, styles, strict=True)
    ]
    entries += [
        Line2D([], [], color=INK, linewidth=1.1, linestyle=LINE_STYLES[kind], label=label)
        for kind, label in (("retrain", "retrained"), ("base", "base model"))
        if any(row.kind == kind for row in rows)
    ]
    across = 3 if len(names) > 4 else min(2, len(names))
    down = -(-len(names) // across)
    roomy = across * down > len(names) and len(entries) <= _ROOM
    figure = figure_with_legend(max(3.2 * across, 5.0), 2.6 * down, [] if roomy else entries)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    if roomy:
        axes[-1].legend(handles=entries, loc="center")
    for axis, name in zip(axes, names, strict=False):
        _sweep_panel(axis, list(zip(sweeps, styles, strict=True)), lines, name)
        axis.set_xlabel(varied[0])
    add_title(figure, title, f"{varied[1]}: {describe_means(rows, names)}")
    return figure


def _sweep_panel(axis: Axes, sweeps: Sequence[tuple[Sweep, ClassStyle]], lines: Sequence[Sweep], name: str) -> None:
    """Draw one metric of every sweep."""
    for line in lines:
        _draw_line(axis, line, name)
    keeps = sorted({keep for found, _ in sweeps for keep in found.rows})
    wide = keeps[-1] > 20 * keeps[0]
    for place, (found, style) in enumerate(sweeps):
        known = {keep: row.value(name) for keep, row in found.rows.items() if row.value(name).n}
        shift = (place - (len(sweeps) - 1) / 2) * min(0.008, 0.04 / len(sweeps))
        axis.errorbar(
            [keep * (keeps[-1] / keeps[0]) ** shift if wide else keep + shift for keep in known],
            [100 * (value.mean or 0.0) for value in known.values()],
            yerr=whiskers(list(known.values())),
            **_line_of(found, style),
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
        )
    axis.set_title(f"{name}: {MEANINGS[name]}, %", fontsize=8.5)
    axis.set_xscale("log" if wide else "linear")
    ticks = _spaced(keeps, wide)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _line_of(found: Sweep, style: ClassStyle) -> dict[str, Any]:
    """Say how a sweep is drawn."""
    stroke = LINE_STYLES["masked"] if all(map(is_masked, found.rows.values())) else "-"
    return line_style(style) | {"linestyle": stroke}


def _draw_line(axis: Axes, line: Sweep, name: str) -> None:
    """Draw one metric of a base model or of retrained ones."""
    means = {place: row.value(name).mean for place, row in line.rows.items()}
    known = {place: 100 * mean for place, mean in means.items() if mean is not None}
    kind = next(iter(line.rows.values())).kind
    style: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": LINE_STYLES[kind], "zorder": 1}
    if len(means) > 1:
        axis.plot(list(known), list(known.values()), **style)
    elif known:
        axis.axhline(*known.values(), **style)


def _spaced(values: Sequence[float], wide: bool) -> list[float]:
    """Choose which values are written below an axis: those far enough from each other."""
    places = np.log(values) if wide else np.asarray(values)
    least = (places[-1] - places[0]) / 9.5
    kept = [len(values) - 1]
    for place in range(len(values) - 2, -1, -1):
        if places[kept[-1]] - places[place] >= least:
            kept.append(place)
    return [values[place] for place in sorted(kept)]
