"""The overview of a page: the verdict on each forgetting problem in words, and its table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salun.errors import one_line
from salun.experiments.problem import Group
from salun.metrics import GAP_METRICS, METRICS
from salun.reports.formats import csv_table, escape_latex, escape_markdown
from salun.reports.page.charts import within
from salun.reports.statistics import Estimate
from salun.reports.summary import Row, best_of, bold_of, floor_of, floor_text
from salun.reports.tables import INTERVAL, cell, columns_of, legend, lines_of

_SHOWN = (*GAP_METRICS, "passes", "RTE", "gap", "n")
_GAP, _COUNT = "gap", "n"
_UTILITY = {"TA": "test", "RA": "retain"}


@dataclass(frozen=True)
class _Column:
    """A column of the table: the metric's name, its heading, what it means, and whether it is shown at first."""

    name: str
    heading: str
    meaning: str
    shown: bool


@dataclass(frozen=True)
class _Cell:
    """A value as text, as a number to sort by, and its interval on the column's scale from 0 to 100."""

    text: str
    value: float | None
    centre: float | None = None
    low: float | None = None
    high: float | None = None
    target: float | None = None


def verdict(rows: list[Row], group: Group) -> list[str]:
    """Say in two sentences which method is nearest to retraining, and what was lost.

    Args:
        rows: of the group.
        group: base models and forget sets.
    """
    best = best_of(rows, group)
    if best is None:
        missing = "a retrained model and a method whose runs all ended well, with UA, RA, TA and MIA"
        return [f"Nothing can be called nearest to retraining: that takes {missing}.", *_fallen(rows)]
    floor, name = floor_of(rows, group), one_line(best.title)
    gap = f"{name} is nearest to retraining: its average gap is {_points(best.gap)} points{_reach(best.gap)}"
    if floor is None:
        return [f"{gap}; the noise floor takes two retrained models.", _kept(rows, best), *_fallen(rows)]
    beyond = best.gap.low is not None and best.gap.low > floor
    told = "beyond" if beyond else "not beyond"
    if best.gap.low is None:
        told = "above" if (best.gap.mean or 0.0) > floor else "not above"
    nearest = f"{gap}, {told} the noise floor of {100 * floor:.2f} points that retrained models show among themselves."
    return [nearest, _kept(rows, best), *_fallen(rows)]


def _points(value: Estimate) -> str:
    return cell(Estimate(value.mean, None, value.n, None, None), "%")


def _reach(gap: Estimate) -> str:
    """Give the interval of a gap in words."""
    return (
        "" if gap.low is None or gap.high is None else f" (95 % interval {100 * gap.low:.2f} to {100 * gap.high:.2f})"
    )


def _kept(rows: Sequence[Row], best: Row) -> str:
    """Say what the best method kept of the base model's accuracy."""
    base = next((row for row in rows if row.kind == "base"), None)
    gold = next((row for row in rows if row.kind == "retrain"), None)
    parts = []
    for name, called in _UTILITY.items():
        others = {"before": base, "retrained": gold}
        known = [f"{_points(row.value(name))} % {when}" for when, row in others.items() if row and row.value(name).n]
        if best.value(name).n:
            parts.append(f"{called} accuracy is {_points(best.value(name))} % ({', '.join(known)})")
    return f"Of what it was to keep, {' and '.join(parts)}." if parts else "What it kept was not measured."


def _fallen(rows: Sequence[Row]) -> list[str]:
    """Name the experiments whose runs lost too much."""
    named = [f"{one_line(row.title)} ({len(row.losses)} of {len(row.records)} runs)" for row in rows if row.losses]
    return [f"Runs that {floor_text(rows[0].floor)}: {', '.join(named)}."] if named else []


def overview(rows: list[Row], group: Group, title: str) -> dict[str, Any]:
    """Describe a forgetting problem for the page.

    Args:
        rows: of the group, the base model's first.
        group: base models and forget sets.
        title: of the group.

    Returns:
        Title, verdict, table and legend.
    """
    columns = _columns_of(rows)
    cells, bold = zip(*(_cells_of(rows, column.name) for column in columns), strict=True), bold_of(rows)
    return {
        "title": title,
        "verdict": verdict(rows, group),
        "columns": columns,
        "lines": [
            {"title": one_line(row.title), "kind": row.kind, "method": _method_of(row), "mask": _mask_of(row),
             "cells": found, "text": text, "bold": place == bold}
            for place, (row, found, text) in enumerate(zip(rows, cells, _texts_of(rows, columns), strict=True))
        ],
        "legend": legend(rows),
        "copies": _copies(rows, columns),
    }  # fmt: skip


def _columns_of(rows: list[Row]) -> list[_Column]:
    """List the columns."""
    headings = _table_of(rows)[0][1:]
    names = [*columns_of(rows), _GAP, _COUNT]
    meanings = {name: METRICS[name].summary for name in columns_of(rows)}
    meanings |= {_GAP: "Mean distance of UA, RA, TA and MIA to retraining's.", _COUNT: "Runs."}
    return [
        _Column(name, heading, meanings[name], name in _SHOWN) for name, heading in zip(names, headings, strict=True)
    ]


def _table_of(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Lay rows out as all tables do; the interval of the gap is a bar here."""
    return lines_of(rows, (INTERVAL,))


def _texts_of(rows: list[Row], columns: Sequence[_Column]) -> list[list[str]]:
    return [line[1 : len(columns) + 1] for line in _table_of(rows)[1]]


def _cells_of(rows: Sequence[Row], name: str) -> list[_Cell]:
    """Put the values of a column on its scale."""
    if name == _COUNT:
        return [_Cell(str(len(row.records)), float(len(row.records))) for row in rows]
    reach = within if name == _GAP or METRICS[name].unit == "%" else _reach_of
    values = [row.value(name) for row in rows]
    drawn = [(value.mean, *reach(value)) for value in values]
    ends = [end for part in drawn for end in part if end is not None]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    gold = [value.mean for row, value in zip(rows, values, strict=True) if row.kind == "retrain" and name != _GAP]

    def scaled(number: float | None) -> float | None:
        return None if number is None else round(4 + 92 * (number - low) / (high - low), 2)

    return [
        _Cell("", part[0]) if part[0] is None or low == high else _Cell("", part[0], *map(scaled, (*part, *gold[:1])))
        for part in drawn
    ]


def _reach_of(value: Estimate) -> tuple[float | None, float | None]:
    return value.low, value.high


def _method_of(row: Row) -> str:
    return row.records[0].settings["method"] if row.records else "base"


def _mask_of(row: Row) -> str:
    """Name a row's mask as a filter does."""
    mask = row.records[0].settings["mask"] if row.records else None
    return "none" if mask is None else "of a file" if mask["file"] else f"{mask['keep']:g}"


def _copies(rows: list[Row], columns: Sequence[_Column]) -> dict[str, Any]:
    """Give what is copied of each column, escaped for each format, so that the page only joins what is shown."""
    headings, lines = _table_of(rows)
    table = [headings, *lines]
    numbers = [[f"{column.name}{part}" for part in ("", "_low", "_high")] for column in columns]
    found = [["title"], *numbers]
    commas = [[csv_table([cells]).strip("\n") for cells in found]]
    for row in rows:
        values = [row.value(column.name) if column.name != _COUNT else Estimate(len(row.records), None, 1, None, None)
                  for column in columns]  # fmt: skip
        parts = [csv_table([[value.mean, value.low, value.high]]) for value in values]
        commas.append([part.strip("\n") for part in (csv_table([[row.title]]), *parts)])
    return {
        "csv": commas,
        "markdown": [[escape_markdown(text) for text in line] for line in table],
        "latex": [[escape_latex(text) for text in line] for line in table],
    }
