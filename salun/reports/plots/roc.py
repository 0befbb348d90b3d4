"""ROC curves on logarithmic axes, where the few images matter that an attack is sure of."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from salun.reports.plots.style import COLOURS, FAINT, INK, shorten
from salun.reports.roc import LEVELS, Roc

_STYLES = ("-", "--", "-.", ":")
_LETTERS = 100
_LINE = 0.17


def draw_roc(title: str, curves: Sequence[tuple[str, Roc]]) -> Figure:
    """Draw ROC curves of attacks on several methods; rates below the logarithmic axes lie on their edges."""
    figure = Figure(figsize=(7.4, max(4.2, _LINE * (len(curves) + 8))))
    axes = figure.add_subplot()
    least = min(_floor_of(curve) for _, curve in curves)
    for level in LEVELS:
        axes.axvline(level, color=FAINT, linewidth=0.6, linestyle=":")
    lines = axes.plot([least, 1], [least, 1], color=FAINT, linewidth=1)
    for place, (_, curve) in enumerate(curves):
        lines += axes.plot(
            *(np.maximum(rates, least) for rates in curve.thinned()),
            color=COLOURS[place % len(COLOURS)],
            linestyle=_STYLES[(place // len(COLOURS) + place) % len(_STYLES)],
            linewidth=2.2 - place / len(curves),
        )
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
    decades = 10.0 ** np.arange(round(np.log10(least)), 1)
    for axis, kind in ((axes.xaxis, "false"), (axes.yaxis, "true")):
        axis.set_ticks(decades, [f"{100 * rate:g} %" for rate in decades])
        axis.set_label_text(f"{kind}-positive rate")
    figure.suptitle(fill(title, _LETTERS), color=INK, x=0.01, ha="left", fontsize=10)
    names = ["guessing", *(f"{shorten(name, 34)}  {curve.auc:.3f}" for name, curve in curves)]
    figure.legend(lines, names, loc="outside right center", title="method  AUC", alignment="left")
    return figure


def _floor_of(curve: Roc) -> float:
    """Find where a curve's axis should begin."""
    least = float(curve.fpr[curve.fpr > 0].min())
    return float(min(10 ** np.floor(np.log10(least)), LEVELS[0]))
