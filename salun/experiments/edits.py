"""Figures of records that are not what a run gave: found, told of, and computed anew from kept outputs."""

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from salun.experiments.evaluate import measure
from salun.experiments.joint_metrics import alone, base_evaluation_of, evaluation_of
from salun.experiments.outputs import kept_outputs, outputs_path
from salun.experiments.record import Record
from salun.experiments.records import content_of, figures_digest
from salun.metrics import METRICS, Evaluation, load_metrics

_ACCURACIES = ("UA", "RA", "VA", "TA", "TUA")

_OF_COST = {
    "RTE": "recorded seconds",
    "passes": "recorded passes",
    "RTE_total": "recorded seconds",
    "passes_total": "recorded passes",
}


@dataclass(frozen=True)
class _Check:
    """A record with outputs' figures, a line for each change, and whether it is worth writing."""

    record: Record
    notices: tuple[str, ...]
    is_new: bool


def in_doubt(record: Record, folder: Path) -> bool:
    """Tell whether a record's figures are to be looked at: it was changed, or has outputs and no digest to tell by.

    Args:
        record: of a run.
        folder: of the list's records.

    Returns:
        Whether they are.
    """
    kept = record.outputs is not None and outputs_path(folder, record.id).is_file()
    return record.edited or (record.digest is None and kept)


def checks_of(path: Path, done: dict[str, Record], ids: Iterable[str]) -> Iterator[_Check]:
    """Compare the figures of records with what kept outputs give.

    Of a record that does not have its digest whatever outputs give is computed anew, of an older one without a digest
    the accuracies are.

    Args:
        path: `records.jsonl`.
        done: records by id, the retrained models that others are compared with among them.
        ids: of the records in doubt.

    Yields:
        What came of each.
    """
    load_metrics()
    bases: dict[str, Evaluation | None] = {}
    for record in (done[name] for name in ids):
        if not record.edited:
            if record.base_name not in bases:
                bases[record.base_name] = kept_outputs(path.parent, record.base_name)
            yield _of_older(path, record, bases[record.base_name])
        elif record.digest == figures_digest(content_of(record)):
            yield _Check(record, (_remainder(path, record),), is_new=False)
        else:
            yield _of_edited(path, record, done.get(record.retrained or ""))


def corrected(path: Path, done: dict[str, Record]) -> tuple[dict[str, Record], list[str]]:
    """Put right, for who only reads, the records that do not have their digest.

    Args:
        path: `records.jsonl`.
        done: records by id.

    Returns:
        All of them, with outputs' figures in place of what was changed, and a line for each change.
    """
    checks = list(checks_of(path, done, [number for number in done if done[number].edited]))
    lines = [line for check in checks for line in check.notices]
    return done | {check.record.id: check.record for check in checks}, lines


def _of_older(path: Path, record: Record, before: Evaluation | None) -> _Check:
    """Check the accuracies of a record that has no digest."""
    own = alone(path.parent, record)
    names = [name for name in _ACCURACIES if name in record.metrics]
    changes = _changes_of(record, _recomputed(record, own, before, names))
    return _Check(_changed(record, changes), _told(path, record, changes), is_new=own is not None)


def _of_edited(path: Path, record: Record, partner: Record | None) -> _Check:
    """Compute anew what outputs give of a record that was changed."""
    folder, names = path.parent, record.metrics | record.base_metrics | record.details
    outputs = evaluation_of(folder, record, partner), base_evaluation_of(folder, record, partner)
    changes = _changes_of(record, _recomputed(record, *outputs, names))
    restored = replace(_changed(record, changes), edited=False)
    if figures_digest(content_of(restored)) == record.digest:
        return _Check(restored, _told(path, record, changes), is_new=True)
    # What a run took is in the record twice, and in no outputs: either may be what was changed.
    sure = {place: {name: value for name, value in changes[place].items() if name not in _OF_COST} for place in changes}
    return _Check(_changed(record, sure), (*_told(path, record, sure), _remainder(path, record)), is_new=True)


def _recomputed(
    record: Record, own: Evaluation | None, before: Evaluation | None, names: Container[str]
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of a run and of its base model from outputs."""
    found: dict[str, dict[str, Any]] = {}
    if own is not None and (able := _able_of(own, names)):
        measured = measure(own, able, record.diverged)
        found |= {"metrics": measured.metrics, "details": measured.details}
    if before is not None and (able := _able_of(before, names)):
        found["base_metrics"] = measure(before, able).metrics
    return found


def _able_of(evaluation: Evaluation, names: Container[str]) -> tuple[str, ...]:
    """List the metrics that outputs are enough for."""
    asked = [found for name, found in METRICS.items() if name in names and found.subject is Evaluation]
    return tuple(
        found.name for found in asked if all(getattr(evaluation, other) is not None for other in found.against)
    )


def _changes_of(record: Record, right: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Find the figures that are not as they should be."""
    return {
        place: {name: value for name, value in values.items() if not _is_same(getattr(record, place).get(name), value)}
        for place, values in right.items()
    }


def _is_same(found: Any, right: Any) -> bool:
    """Compare two values, but for what the same computation may give otherwise on another machine."""
    if isinstance(found, dict) and isinstance(right, dict):
        return found.keys() == right.keys() and all(_is_same(found[key], right[key]) for key in found)
    if isinstance(found, list) and isinstance(right, list):
        return len(found) == len(right) and all(map(_is_same, found, right))
    numbers = isinstance(found, int | float) and isinstance(right, int | float)
    return math.isclose(found, right, rel_tol=1e-6, abs_tol=1e-9) if numbers else found == right


def _changed(record: Record, changes: dict[str, dict[str, Any]]) -> Record:
    """Put values into a record."""
    return replace(record, **{place: getattr(record, place) | values for place, values in changes.items()})


def _told(path: Path, record: Record, changes: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Tell of figures that are not what outputs give."""
    lines = []
    for place, values in changes.items():
        for name, right in values.items():
            what = f"base {name}" if place == "base_metrics" else name
            giver = _OF_COST.get(name, "kept outputs")
            found = getattr(record, place).get(name)
            if place == "details":
                said = f"{what} is not what the {giver} give"
            else:
                said = f"{what} is {_spelled(found)}, but the {giver} give {_spelled(right)}"
            lines.append(f"{path}: record {record.id}: {said}, which takes its place")
    return tuple(lines)


def _spelled(value: Any) -> str:
    """Spell a figure."""
    return "none" if value is None else f"{value:.8g}"


def _remainder(path: Path, record: Record) -> str:
    """Tell of a change that nothing can undo."""
    outputs = outputs_path(path.parent, record.id)
    why = f"{outputs} does not give them" if outputs.is_file() else f"{outputs} is not there"
    rest = "figures were changed after the run, which cannot be computed anew"
    return f"{path}: record {record.id}: {rest}, as {why}; without its line the run is done again"
