"""Lists of what there is: metrics and methods, from their registries."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from salun.cli.console import plain_table, print_table
from salun.metrics import METRICS, Metric, load_metrics
from salun.unlearning import METHODS, Method, load_methods


def print_metrics(console: Console) -> None:
    """Print every metric with unit, direction, ideal, cost and source."""
    load_metrics()
    rows = [
        (found.name, unit_of(found), found.direction, found.ideal, found.cost, sets_of(found), found.source)
        for found in METRICS.values()
    ]
    headings = ("metric", "unit", "good", "ideal", "cost", "in", "source")
    print_table(console, _filled("metrics", headings, rows))


def unit_of(found: Metric) -> str:
    """Say what a metric's values are."""
    return found.unit or "number"


def sets_of(found: Metric) -> str:
    """Say which sets of metrics hold a metric."""
    if found.original:
        return ""
    sets = {"default": found.default, "attacks": found.cost == "attack", "gone": found.gone, "all": True}
    return " ".join(name for name, holds in sets.items() if holds)


def print_methods(console: Console) -> None:
    """Print every method with its settings, whether it takes a mask, what it can forget, and its source."""
    load_methods()
    rows = []
    for found in METHODS.values():
        settings = " ".join(f"{key}={json.dumps(default)}" for key, (_, default) in found.settings.items())
        rows.append((title_of(found), found.summary, mask_of(found), forgets_of(found), settings, found.source))
    headings = ("method", "what it does", "mask", "forgets", "settings", "source")
    print_table(console, _filled("methods", headings, rows))


def title_of(found: Method) -> str:
    """Give a method's names."""
    return found.name + (f" ({found.alias})" if found.alias else "")


def mask_of(found: Method) -> str:
    """Say whether a mask may hold weights while a method runs."""
    return "yes" if found.maskable else "no"


def forgets_of(found: Method) -> str:
    """Say what a method can forget."""
    return "whole classes" if found.classwise else "any images"


def _filled(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """Lay texts out."""
    table = plain_table(title)
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
