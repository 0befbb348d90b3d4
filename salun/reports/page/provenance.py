"""The provenance of a page's figures: data, seeds, versions, devices, cost, records, settings and commands."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salun.errors import one_line
from salun.experiments.record import Record
from salun.experiments.source import owner_of
from salun.metrics import METRICS
from salun.reports.summary import Row, mixtures

_ABSENT = "–"


def provenance(rows: list[Row], folders: Mapping[str, Path]) -> dict[str, Any]:
    """Describe where the figures of a group come from.

    Args:
        rows: of the group.
        folders: of the results, by the id of a record.

    Returns:
        Facts by name, settings side by side, a line a record, and what was made on several machines.
    """
    runs = [(row, record) for row in rows for record in row.records]
    records = [record for _, record in runs]
    return {
        "facts": _facts_of(records),
        "settings": _settings_of([row for row in rows if row.records]),
        "records": [
            [one_line(row.title), record.id, record.seed, record.finished, _seconds(record), record.device,
             record.digest or _ABSENT, os.path.relpath(folders[record.id])]
            for row, record in runs
        ],
        "mixtures": mixtures(rows),
    }  # fmt: skip


def _facts_of(records: Sequence[Record]) -> dict[str, str]:
    """Say what the runs of a group share, or list what differs."""
    bases, forgets = ([record.settings[key] for record in records] for key in ("base", "forget"))
    passes = [record.unlearning_passes or 0 for record in records]
    sizes = {name: _each(record.split.get(name, _ABSENT) for record in records) for name in ("train", "forget", "test")}
    facts = {
        "Data set": _each(base["dataset"] for base in bases),
        "Images": ", ".join(f"{name} {count}" for name, count in sizes.items()),
        "Split digest": _each(base["split"] for base in bases),
        "Forget set": _each(forget["request"] for forget in forgets),
        "Forget set digest": _each(forget["fingerprint"] for forget in forgets),
        "Tags": _each(record.tag for record in records if record.tag) or _ABSENT,
        "Model": _each(base["model"] for base in bases),
        "Base model": _each(base["identity"] for base in bases),
        "Base model's seed": _each(_ABSENT if base.get("seed") is None else base["seed"] for base in bases),
        "Seeds of runs": _each(sorted({record.seed for record in records})),
        "Device": _each(record.device for record in records),
        "Versions": _each(f"{name} {value}" for record in records for name, value in record.versions.items()),
        "Revision": _each(record.revision for record in records),
        "Cost": f"{sum(map(_seconds, records)):,.0f} s and {sum(passes):,} image passes in {len(records)} runs",
        "Finished": f"{min(record.finished for record in records)} to {max(record.finished for record in records)}",
    }
    return {name: one_line(text) for name, text in facts.items()}


def _each(values: Iterable[object]) -> str:
    """List values, each once."""
    return ", ".join(dict.fromkeys(map(str, values)))


def _seconds(record: Record) -> float:
    return round(record.unlearning_seconds, 2)


def _settings_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Lay hyper-parameters side by side: those that all rows share once, the others a column each."""
    told = {one_line(row.title): _plain(row.records[0].settings) for row in rows}
    names = list(dict.fromkeys(name for found in told.values() for name in found))
    values = {name: [found.get(name, _ABSENT) for found in told.values()] for name in names}
    varied = [name for name in names if len(set(values[name])) > 1 or len(told) == 1]
    return {
        "names": varied,
        "lines": [[title, *(found.get(name, _ABSENT) for name in varied)] for title, found in told.items()],
        "shared": {name: values[name][0] for name in names if name not in varied},
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, str]:
    """Flatten what a record holds of a method."""
    found = {"method": settings["method"], **settings["settings"]}
    found |= {f"mask {name}": value for name, value in (settings["mask"] or {}).items() if value is not None}
    found |= {f"prune {name}": value for name, value in (settings.get("prune") or {}).items()}
    found |= {name: settings[name] for name in ("budget", "leave_out") if settings.get(name) is not None}
    return {name: one_line(value if isinstance(value, str) else _spelled(value)) for name, value in found.items()}


def _spelled(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def command_of(path: Path, records: Sequence[Record]) -> str | None:
    """Give the command that runs a list again.

    Args:
        path: the file of records.
        records: of the list.

    Returns:
        A line for a shell; None where the list is not known.
    """
    source = owner_of(path.parent)
    if source is None or not os.path.isfile(source):
        return None
    words = ["salun-unlearn", "-L", os.path.relpath(source)]
    drawn: dict[str, set[Any]] = {"--nexp": {record.seed for record in records}, **_drawn(records)}
    for flag, found in drawn.items():
        words += [flag, str(len(found))] if flag == "--nexp" or len(found) > 1 else []
    known = {name for record in records for name in (*record.metrics, *record.details)} & METRICS.keys()
    if any(not METRICS[name].default for name in known):
        words += ["--metrics", *(name for name in METRICS if name in known)]
    return shlex.join(words)


def _drawn(records: Sequence[Record]) -> dict[str, set[str]]:
    """List the base models and, of the base model with most of them, the forget sets that were drawn."""
    drawn: dict[str, set[str]] = {}
    shares = [record for record in records if record.settings["forget"]["share"] is not None]
    for record in shares:
        drawn.setdefault(record.settings["base"]["identity"], set()).add(record.settings["forget"]["fingerprint"])
    bases = {record.settings["base"]["identity"] for record in records if record.settings["base"]["recipe"]}
    return {"--nbase": bases, "--nforget": max(drawn.values(), key=len, default=set())}
