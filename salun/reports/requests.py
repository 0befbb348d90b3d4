"""Rows of requests one after another: the chains that they form, and their figures as a table."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from salun.experiments.problem import Group
from salun.reports.formats import csv_table
from salun.reports.statistics import Estimate
from salun.reports.summary import Row

_TOTALS = {"passes_total": "passes", "RTE_total": "RTE"}
_PARTS = ("mean", "sd", "n", "low", "high")
_LISTED = ("UA", "UA_earlier", "RA", "TA", "MIA", "gap", "passes", "passes_total", "RTE", "RTE_total")


@dataclass(frozen=True)
class Chain:
    """One experiment, or the base model, over its requests: a row each, the first request's first."""

    rows: tuple[Row, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """What each row is compared within."""
        return tuple(row.group for row in self.rows)

    def values(self, name: str) -> list[Estimate]:
        """Look a metric up: of each request its estimate; what a first one took is what all took so far."""
        first, *others = self.rows
        return [first.value(_TOTALS.get(name, name)), *(row.value(name) for row in others)]


def sequences_of(rows: Sequence[Row]) -> list[list[Chain]]:
    """Find the experiments that have requests one after another.

    Args:
        rows: of a file of records, all groups.

    Returns:
        For each sequence of requests its chains, the base model's first; those that have come less far are among them.
    """
    chains = _chains_of(rows)
    whole = [chain.groups for chain in chains]
    longest = [one for one in dict.fromkeys(whole) if not any(one == other[: len(one)] != other for other in whole)]
    bases = {row.group: row for row in rows if row.kind == "base"}
    found: list[list[Chain]] = []
    for groups in longest:
        members = [chain for chain in chains if chain.groups == groups[: len(chain.groups)]]
        found.append([Chain(tuple(bases[group] for group in groups)), *members])
    return found


def _chains_of(rows: Sequence[Row]) -> list[Chain]:
    """Go back from each last request to the first, in the order of the first requests' rows."""
    able = [row for row in rows if row.records]
    before = {id(row): _before(row, able) for row in able}
    followed = {id(row) for row in before.values() if row is not None}
    chains = []
    for row in able:
        links = [row]
        while (earlier := before[id(links[0])]) is not None:
            links.insert(0, earlier)
        if len(links) > 1 and id(row) not in followed:
            chains.append(Chain(tuple(links)))
    return sorted(chains, key=lambda chain: able.index(chain.rows[0]))


def _before(row: Row, rows: Sequence[Row]) -> Row | None:
    """Find the row of the request before: the same experiment, and its forget sets those before this one's."""
    wanted = {(run.settings["base"]["identity"], _earlier_of(run.settings)[-1]["fingerprint"]) for run in row.records
              if _earlier_of(run.settings)}  # fmt: skip
    if not wanted:
        return None
    key = _key_of(row)
    able = (other for other in rows if _key_of(other) == key and wanted <= {draw[:2] for draw in other.draws})
    return next(able, None)


def _earlier_of(settings: dict[str, object]) -> list[dict[str, object]]:
    forget = settings["forget"]
    return forget.get("earlier", []) if isinstance(forget, dict) else []


def _key_of(row: Row) -> str:
    """Identify an experiment whatever it forgets, and whatever base models were drawn."""
    settings = {key: value for key, value in row.records[0].settings.items() if key not in ("base", "forget")}
    return json.dumps(settings, sort_keys=True)


def sequence_as_csv(chains: Iterable[Chain]) -> str:
    """Render chains for a spreadsheet, in fractions, seconds and passes: one line an experiment and request."""
    lines = []
    for chain in chains:
        columns = [chain.values(name) for name in _LISTED]
        for step, values in enumerate(zip(*columns, strict=True), 1):
            lines.append([chain.rows[0].title, step, *(getattr(value, part) for value in values for part in _PARTS)])
    return csv_table([["title", "request", *(f"{name}_{part}" for name in _LISTED for part in _PARTS)], *lines])
