"""ROC curves on logarithmic axes, where the few images matter that an attack is sure of."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from salun.plots.style import COLOURS, FAINT, INK, shorten
from salun.roc import LEVELS, Roc

STYLES = ("-", "--", "-.", ":")


def draw_roc(title: str, curves: Sequence[tuple[str, Roc]]) -> Figure:
    """Draw ROC curves of attacks on several methods.

    Args:
        title: above the figure.
        curves: name and curve of each method.

    Returns:
        The figure; both axes are logarithmic, the diagonal is what guessing gives. Rates below the axes, zero among
        them, lie on their edges.
    """
    figure = Figure(figsize=(7.4, 4.2))
    axes = figure.add_subplot()
    least = min(floor_of(curve) for _, curve in curves)
    axes.plot([least, 1], [least, 1], color=FAINT, linewidth=1, label="guessing")
    for level in LEVELS:
        axes.axvline(level, color=FAINT, linewidth=0.6, linestyle=":")
    for place, (name, curve) in enumerate(curves):
        axes.plot(
            *(np.maximum(rates, least) for rates in curve.thinned()),
            color=COLOURS[place % len(COLOURS)],
            linestyle=STYLES[(place // len(COLOURS) + place) % len(STYLES)],
            linewidth=1.4,
            label=f"{shorten(name, 34)}  {curve.auc:.3f}",
        )
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    figure.suptitle(title, color=INK, x=0.01, ha="left", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="method  AUC", alignment="left")
    return figure


def floor_of(curve: Roc) -> float:
    """Find where a curve's axis should begin.

    Args:
        curve: of one method.

    Returns:
        The smallest false-positive rate that it resolves, as a power of ten, 0.001 at most.
    """
    least = float(curve.fpr[curve.fpr > 0].min())
    return float(min(10 ** np.floor(np.log10(least)), LEVELS[0]))
