"""Tables on the terminal: ours, and published figures beside them."""

import re
from importlib import resources
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from salun.cli.console import WIDE, plain_table, print_table
from salun.errors import one_line
from salun.experiments.problem import Group
from salun.io.files import read_json
from salun.metrics import GAP_METRICS, METRICS
from salun.reports.summary import Row, bold_of, grouped
from salun.reports.tables import INTERVAL, SPREAD, cell, columns_of, group_title, legend, lines_of

_PAPER_MASK = {"keep": 0.5, "score": "sum", "batches": None, "file": None}
_CELL = re.compile(r"([^± ]*)(±\S*)?(.*)")
_COSTLIEST_FIRST = ("many models", "weights", "attack", "free")


def print_rows(console: Console, rows: list[Row]) -> None:
    """Print a table a forgetting problem, in bold the best method where it can be told from the others.

    Where a terminal is too narrow, columns are left out, the least telling first, and named; then spreads.
    """
    for group, members in grouped(rows).items():
        hidden: list[str] = []
        table = _make_table(rows, group, hidden)
        for name in _dispensable(members):
            if _natural_width(console, table) <= console.width:
                break
            hidden.append(name)
            table = _make_table(rows, group, hidden)
        print_table(console, table)
        for line in [*_not_shown(hidden), *legend(members)]:
            console.print(Text(line))


def _dispensable(rows: list[Row]) -> list[str]:
    """Order what a narrow terminal can do without: metrics, the least telling first; then the interval and spreads."""

    def worth(name: str) -> tuple[bool, bool, int]:
        found = METRICS[name]
        return not found.original, found.default, _COSTLIEST_FIRST.index(found.cost)

    names = [name for name in columns_of(rows) if name not in GAP_METRICS]
    spread = [value for row in rows for value in (*row.estimates.values(), row.gap) if value.low is not None]
    return [*sorted(names, key=worth), *((INTERVAL, SPREAD) if spread else ())]


def _not_shown(hidden: list[str]) -> list[str]:
    """Name what a narrow terminal has no room for."""
    return [f"not shown for want of width: {', '.join(hidden)}"] if hidden else []


def _make_table(rows: list[Row], group: Group, hidden: list[str]) -> Table:
    """Lay one forgetting problem out."""
    members = grouped(rows)[group]
    headings, lines = lines_of(members, hidden)
    table = plain_table(group_title(rows, group))
    columns = [list(column) for column in zip(*lines, strict=True)]
    columns[1:] = map(_aligned, columns[1:])
    for place, (heading, column) in enumerate(zip(headings, columns, strict=True)):
        head = heading.rjust(cell_len(column[0])) if place else heading
        table.add_column(Text(head), no_wrap=bool(place), overflow="fold")
    bold = bold_of(members)
    for place, line in enumerate(zip(*columns, strict=True)):
        table.add_row(*map(Text, line), style="bold" if place == bold else None)
    return table


def _aligned(column: list[str]) -> list[str]:
    """Bring the numbers, the spreads and the marks of a column below each other."""
    parts = [_CELL.findall(text)[0] for text in column]
    numbers, spreads, _ = (max(map(len, part)) for part in zip(*parts, strict=True))
    joined = [f"{number:>{numbers}}{spread:<{spreads}}{mark}" for number, spread, mark in parts]
    return [text.ljust(max(map(len, joined))) for text in joined]


def _natural_width(console: Console, table: Table) -> int:
    """Measure how wide a table is where nothing limits it."""
    return console.measure(table, options=console.options.update(max_width=WIDE)).maximum


def print_published(console: Console, rows: list[Row]) -> None:
    """Print published figures for the settings of the list that a paper reports."""
    table = _published_table(rows)
    if table is None:
        console.print("no published figures for these settings", highlight=False)
    else:
        print_table(console, table)


def _published_table(rows: list[Row]) -> Table | None:
    """Lay published figures out beside ours."""
    found = [(row, match) for row in rows for match in [_published_for(row)] if match is not None]
    if not found:
        return None
    sources = sorted({match["source"] for _, match in found})
    table = plain_table(f"published: {'; '.join(sources)}")
    names = [name for name in columns_of(rows) if name in found[0][1]["metrics"]]
    for heading in ("", *(f"{name} {whose}" for name in [*names, "gap"] for whose in ("ours", "published"))):
        table.add_column(Text(heading), justify="right" if heading else "left", no_wrap=True)
    for row, match in found:
        figures = []
        for name in names:
            figures += [cell(row.value(name), "%"), f"{match['metrics'][name]:.2f}"]
        table.add_row(Text(one_line(row.title)), *figures, cell(row.gap, "%"), f"{match['metrics']['gap']:.2f}")
    return table


def _published_for(row: Row) -> dict[str, Any] | None:
    """Find what a paper reports for an experiment's setting: source and percentages by metric."""
    if not row.records:
        return None
    settings = row.records[0].settings
    masked = settings["mask"] is not None
    # The paper's shares are random whatever the class, of all images.
    if settings["forget"].get("stratified") or {"choice", "earlier"} & settings["forget"].keys():
        return None
    if masked and settings["mask"] != _PAPER_MASK:
        return None
    base, share = settings["base"], settings["forget"]["share"]
    key = [base["model"], base["dataset"], share, settings["method"], masked]
    with resources.as_file(resources.files("salun") / "published.json") as path:
        known = read_json(path)
    for entry in known:
        for line in entry["rows"]:
            if key == [entry["model"], entry["dataset"], entry["unlearning_rate"], line["method"], line["use_mask"]]:
                return {"source": entry["source"], "metrics": line["metrics"]}
    return None
