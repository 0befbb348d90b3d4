"""Metrics over requests one after another."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from salun.reports.plots.rows import (
    MEANINGS,
    DrawnRow,
    add_title,
    describe_means,
    drawn_rows,
    figure_with_legend,
    whiskers,
)
from salun.reports.requests import Chain

_COST = "passes_total"
_MEANINGS = MEANINGS | {"UA": "error on the request's own set", "UA_earlier": "error on all earlier sets"}
_NAMES = ("UA", "UA_earlier", "gap", "RA", "TA", _COST)
_SPREAD = 0.3


def requests_figure(chains: Sequence[Chain], title: str) -> Figure:
    """Draw metrics, average gap and cost request by request; of retraining the gap is the noise floor.

    Args:
        chains: of one sequence of requests, the base model's among them.
        title: the problem.
    """
    first = [chain.rows[0] for chain in chains]
    by_row = {id(chain.rows[0]): chain for chain in chains}
    lines = [(by_row[id(member.row)], member) for member in drawn_rows(first)]
    entries = [Line2D([], [], **member.line, linewidth=1.3, label=member.label) for _, member in lines]
    figure = figure_with_legend(9.6, 5.2, entries)
    for axis, name in zip(figure.subplots(2, 3).flatten(), _NAMES, strict=True):
        _panel(axis, lines, name)
    rows = [row for chain in chains for row in chain.rows]
    add_title(figure, title, f"request by request: {describe_means(rows, _NAMES)}")
    return figure


def _panel(axis: Axes, lines: Sequence[tuple[Chain, DrawnRow]], name: str) -> None:
    """Draw one metric of every chain."""
    factor = 1 if name == _COST else 100
    for place, (chain, member) in enumerate(lines):
        known = {step: value for step, value in enumerate(chain.values(name), 1) if value.mean is not None}
        if not known:
            continue
        shift = _SPREAD * (place / max(1, len(lines) - 1) - 0.5)
        axis.errorbar(
            [step + shift for step in known],
            [factor * (value.mean or 0.0) for value in known.values()],
            yerr=None if name == _COST else whiskers(list(known.values())),
            **member.line,
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.set(xlabel="request", xlim=(0.6, max(len(chain.rows) for chain, _ in lines) + 0.4))
    if name == _COST:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title("image passes of all requests so far", fontsize=8.5)
    else:
        axis.set_title(f"{name}: {_MEANINGS[name]}, %", fontsize=8.5)
