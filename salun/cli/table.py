"""Tables on the terminal: ours, and published figures beside them."""

import re

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from salun.cli.console import WIDE, plain_table, print_table
from salun.metrics import GAP_METRICS, METRICS
from salun.reports.published import cells_of, published_lines
from salun.reports.summary import Row, bold_of, grouped
from salun.reports.tables import INTERVAL, SPREAD, columns_of, group_titles, heading, legend, lines_of

_CELL = re.compile(r"([^± ]*)(±\S*)?(.*)")
_COSTLIEST_FIRST = ("many models", "weights", "attack", "free")


def print_rows(console: Console, rows: list[Row]) -> None:
    """Print a table a forgetting problem, in bold the best method where it can be told from the others.

    Where a terminal is too narrow, columns are left out, the least telling first, and named; then spreads.
    """
    titles = group_titles(rows)
    for group, members in grouped(rows).items():
        hidden = _hidden(console, members)
        print_table(console, _make_table(titles[group], *_columns_of(members, hidden), bold_of(members)))
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


def _hidden(console: Console, rows: list[Row]) -> list[str]:
    """Choose what a narrow terminal does without, by a table of the widest cells alone."""
    hidden: list[str] = []
    headings, widest = _widest(rows, hidden)
    for name in _dispensable(rows):
        if _natural_width(console, _make_table("", headings, widest)) <= console.width:
            break
        hidden.append(name)
        if name == SPREAD:
            headings, widest = _widest(rows, hidden)
        elif heading(name) in headings:
            place = headings.index(heading(name))
            del headings[place], widest[place]
    return hidden


def _widest(rows: list[Row], hidden: list[str]) -> tuple[list[str], list[list[str]]]:
    """Find headings and the widest cell of each column."""
    headings, columns = _columns_of(rows, hidden)
    return headings, [[max(column, key=cell_len)] for column in columns]


def _columns_of(rows: list[Row], hidden: list[str]) -> tuple[list[str], list[list[str]]]:
    """Lay one forgetting problem out in headings and aligned columns."""
    headings, lines = lines_of(rows, hidden)
    first, *others = (list(column) for column in zip(*lines, strict=True))
    return headings, [first, *map(_aligned, others)]


def _make_table(title: str, headings: list[str], columns: list[list[str]], bold: int | None = None) -> Table:
    """Put columns below their headings."""
    table = plain_table(title)
    for place, (head, column) in enumerate(zip(headings, columns, strict=True)):
        shown = head.rjust(cell_len(column[0])) if place else head
        table.add_column(Text(shown), no_wrap=bool(place), overflow="fold")
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
    """Print published figures beside ours, for the settings of the list that a paper reports."""
    compared = {group: published_lines(members) for group, members in grouped(rows).items()}
    titles = group_titles(rows)
    for group, lines in compared.items():
        if not lines:
            continue
        sources = dict.fromkeys(line.source for line in lines)
        table = plain_table(f"{titles[group]}; published: {'; '.join(sources)}")
        headings, cells = cells_of(lines)
        for head in headings:
            table.add_column(Text(head), justify="right" if head else "left")
        for line in cells:
            table.add_row(*map(Text, line))
        print_table(console, table)
    if not any(compared.values()):
        console.print("no published figures for these settings", highlight=False)
