"""Figures of a search: the gap by each setting, and every trial as a line through its settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from salun.reports.plots.style import COLOURS, FAINT, INK, shorten

_Floats = NDArray[np.float64]
_LONGEST = 60
_GAP = "gap, %"
_MAP = "viridis"


def draw_slices(title: str, settings: Sequence[Mapping[str, Any]], gaps: Sequence[float], logs: set[str]) -> Figure:
    """Draw the gap of every trial by each setting, the best trial marked.

    Args:
        title: of the figure.
        settings: of each trial, the best first.
        gaps: of each trial, fractions.
        logs: settings that are shown on a logarithmic scale.

    Returns:
        The figure.
    """
    keys = list(settings[0])
    figure = Figure(figsize=(max(4.5, 2.6 * len(keys)), 3.2))
    axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axis, key in zip(axes, keys, strict=True):
        places, labels = _places([each[key] for each in settings])
        axis.scatter(places, 100 * np.asarray(gaps), s=18, color=COLOURS[0], alpha=0.7, linewidths=0)
        axis.scatter(
            places[:1], 100 * np.asarray(gaps[:1]), s=60, facecolors="none", edgecolors=COLOURS[5], linewidths=1.6
        )
        axis.set_xlabel(key)
        if labels is not None:
            axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        elif key in logs:
            axis.set_xscale("log")
    axes[0].set_ylabel(_GAP)
    axes[0].set_ylim(bottom=0)
    figure.suptitle(shorten(title, _LONGEST))
    return figure


def draw_coordinates(
    title: str, settings: Sequence[Mapping[str, Any]], gaps: Sequence[float], logs: set[str]
) -> Figure:
    """Draw every trial as a line through its settings, coloured by its gap, the best on top.

    Args:
        title: of the figure.
        settings: of each trial, the best first.
        gaps: of each trial, fractions.
        logs: settings that are shown on a logarithmic scale.

    Returns:
        The figure.
    """
    keys, percent = list(settings[0]), 100 * np.asarray(gaps)
    figure = Figure(figsize=(max(4.5, 1.5 * len(keys) + 1.5), 3.6))
    axis = figure.subplots()
    columns = [[each[key] for each in settings] for key in keys]
    scaled = np.stack([_scaled(axis, at, columns[at], key in logs) for at, key in enumerate(keys)])
    colours = ScalarMappable(Normalize(percent.min(), percent.max()), _MAP)
    for place in reversed(range(len(settings))):
        best = place == 0
        axis.plot(
            scaled[:, place], color=colours.to_rgba(percent[place]), lw=2.5 if best else 1.2, zorder=3 if best else 2
        )
    axis.set_xticks(range(len(keys)), keys)
    axis.set_yticks([])
    axis.set_xlim(-0.3, len(keys) - 0.7)
    axis.set_ylim(-0.08, 1.08)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    figure.colorbar(colours, ax=axis, label=_GAP)
    figure.suptitle(shorten(title, _LONGEST))
    return figure


def _places(values: Sequence[Any]) -> tuple[_Floats, list[str] | None]:
    """Place values on an axis: numbers where they are, all else side by side, with labels."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.asarray(values, dtype=np.float64), None
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    labels = sorted(set(texts))
    return np.array([labels.index(text) for text in texts], dtype=np.float64), [shorten(text, 20) for text in labels]


def _scaled(axis: Axes, at: int, values: Sequence[Any], log: bool) -> _Floats:
    """Bring a setting's values to 0 to 1, and draw its axis with its ends."""
    places, labels = _places(values)
    whole = np.log(places) if log and labels is None else places
    low, high = float(whole.min()), float(whole.max())
    axis.axvline(at, color=FAINT, lw=1, zorder=1)
    scaled: _Floats = (whole - low) / (high - low) if high > low else np.full(len(whole), 0.5)
    shown = labels or [f"{value:.3g}" for value in (places.min(), places.max())]
    heights = np.linspace(0, 1, len(shown)) if high > low else [0.5] * len(shown)
    for height, text in zip(heights, shown, strict=True):
        axis.annotate(text, (at, height), (3, 3), textcoords="offset points", fontsize=7, color=INK, zorder=4)
    return scaled
