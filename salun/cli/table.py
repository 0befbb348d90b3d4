"""Tables on the terminal: ours, and published figures beside them."""

from importlib import resources
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from salun.files import read_json
from salun.records import Group, Row, best_of, cell, columns_of, figure, group_title, grouped, lines_of

WIDE = 400
PAPER_MASK = {"keep": 0.5, "score": "sum", "batches": None, "file": None}
DISPENSABLE = ("seed_forest_auc", "seed_forest_acc", "forest_auc", "forest_acc", "VA", "TUA", "RTE")


def print_rows(console: Console, rows: list[Row]) -> None:
    """Print a table a forgetting problem, the best method in bold.

    Where a terminal is too narrow, columns are left out, the least telling first, and named.

    Args:
        console: where.
        rows: of the whole list.
    """
    for group, members in grouped(rows).items():
        hidden: list[str] = []
        table = make_table(rows, group, hidden)
        for name in DISPENSABLE:
            if natural_width(console, table) <= console.width:
                break
            if name in columns_of(members):
                hidden.append(name)
                table = make_table(rows, group, hidden)
        print_table(console, table)
        if hidden:
            console.print(Text(f"not shown for want of width: {', '.join(hidden)}"), soft_wrap=True)
        console.print(Text(legend(members)), soft_wrap=True)


def make_table(rows: list[Row], group: Group, hidden: list[str]) -> Table:
    """Lay one forgetting problem out.

    Args:
        rows: of the whole list.
        group: which of them.
        hidden: metrics that are left out.

    Returns:
        The table.
    """
    members = grouped(rows)[group]
    headings, lines = lines_of(members, hidden)
    table = plain_table(group_title(rows, group))
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if place else "left", no_wrap=True)
    best = best_of(rows, group)
    for row, line in zip(members, lines, strict=True):
        table.add_row(*map(Text, line), style="bold" if row is best else None)
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table below its title, which may be wider.

    Args:
        console: where.
        table: what.
    """
    console.print(Text(str(table.title)), soft_wrap=True)
    table.title = None
    console.print(table)


def natural_width(console: Console, table: Table) -> int:
    """Measure how wide a table is where nothing limits it.

    Args:
        console: where it is to be printed.
        table: what.

    Returns:
        Characters.
    """
    return console.measure(table, options=console.options.update(max_width=WIDE)).maximum


def plain_table(title: str) -> Table:
    """Make an empty table in the house's look.

    Args:
        title: above it; shown as text.

    Returns:
        The table.
    """
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=Text(title), title_justify="left")


def make_console() -> Console:
    """Open the terminal; where the output goes elsewhere lines may be as long as they are.

    Returns:
        The console.
    """
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def legend(rows: list[Row]) -> str:
    """Explain a table in a line.

    Args:
        rows: of the table.

    Returns:
        What its figures mean.
    """
    text = "mean ± standard deviation over n runs"
    if any(row.kind == "retrain" for row in rows):
        return f"{text}; gap: mean distance of UA, RA, TA and MIA to retraining, best in bold"
    return f"{text}; no gap without a 'retrain' entry of the same base model and forget set"


def print_published(console: Console, rows: list[Row]) -> None:
    """Print published figures for the settings of the list that a paper reports.

    Args:
        console: where.
        rows: of the whole list.
    """
    table = published_table(rows)
    if table is None:
        console.print("no published figures for these settings", highlight=False)
    else:
        print_table(console, table)


def published_table(rows: list[Row]) -> Table | None:
    """Lay published figures out beside ours.

    Args:
        rows: of the whole list.

    Returns:
        The table, or None where no paper reports these settings.
    """
    found = [(row, match) for row in rows for match in [published_for(row)] if match is not None]
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
            figures += [cell(row.figures.get(name, figure([])), "%"), f"{match['metrics'][name]:.2f}"]
        table.add_row(Text(row.title), *figures, cell(row.gap, "%"), f"{match['metrics']['gap']:.2f}")
    return table


def published_for(row: Row) -> dict[str, Any] | None:
    """Find what a paper reports for an experiment's setting.

    Args:
        row: of the table.

    Returns:
        Source and percentages by metric, or None.
    """
    if not row.records:
        return None
    settings = row.records[0].settings
    masked = settings["mask"] is not None
    if masked and settings["mask"] != PAPER_MASK:
        return None
    key = [
        settings["base"]["model"],
        settings["base"]["dataset"],
        settings["forget"]["share"],
        settings["method"],
        masked,
    ]
    with resources.as_file(resources.files("salun") / "published.json") as path:
        known = read_json(path)
    for entry in known:
        for line in entry["rows"]:
            if key == [entry["model"], entry["dataset"], entry["unlearning_rate"], line["method"], line["use_mask"]]:
                return {"source": entry["source"], "metrics": line["metrics"]}
    return None
