"""The work of a table is in proportion to its rows, counted in lines that Python runs."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from lines import lines_run
from records import METRICS, RETRAINED, recorded
from rich.console import Console

from salun.cli.table import print_rows
from salun.experiments.problem import Group
from salun.experiments.record import Record
from salun.reports.labels import rows_of_records
from salun.reports.page.overview import overview
from salun.reports.summary import Row, grouped, summarise
from salun.reports.tables import group_titles, write_summaries

SIZES = (6, 12, 18)


def experiments(count: int, problems: int) -> list[tuple[str, list[Record]]]:
    """Methods on some problems with retraining; all rows alike, so that all take the same steps."""
    entries = []
    for place in range(count):
        method, model = "rl" if place >= problems else "retrain", f"model {place % problems:03}"
        values = {**(METRICS if method == "rl" else RETRAINED), "TUA": 0.5}
        made = [recorded(method, seed, 0.1 + place, model=model, values=values, epochs=1) for seed in range(2)]
        entries.append((f"{method} {place:03}", made))
    return entries


def titled(rows: list[Row]) -> list[tuple[tuple[Group, str], list[Row]]]:
    titles = group_titles(rows)
    return [((group, titles[group]), members) for group, members in grouped(rows).items()]


@pytest.mark.parametrize("share", [0, 2], ids=["one problem", "two rows a problem"])
def test_as_many_rows_more_take_as_many_steps_more(share: int) -> None:
    found: dict[str, list[int]] = {}
    for size in (SIZES[0], *SIZES):  # the first time fills caches
        entries = experiments(size, size // share if share else 1)
        rows = summarise(entries)
        calls: dict[str, Callable[[], object]] = {
            "summarise": lambda entries=entries: summarise(entries),  # type: ignore[misc]
            "label": lambda entries=entries: rows_of_records([run for _, runs in entries for run in runs]),  # type: ignore[misc]
            "write": lambda rows=rows: write_summaries(Path(), rows),  # type: ignore[misc]
            "page": lambda rows=rows: [overview(members, *of) for of, members in titled(rows)],  # type: ignore[misc]
            "print": lambda rows=rows: print_rows(Console(file=io.StringIO(), width=60), rows),  # type: ignore[misc]
        }
        for name, call in calls.items():
            found.setdefault(name, []).append(lines_run(call))
    for name, (_, least, middle, most) in found.items():
        assert most - middle == pytest.approx(middle - least, rel=0.02), name
