"""Metrics that look at more than one run: computed from kept outputs and weights when the runs are done."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from salun.errors import SalunError
from salun.experiments import records
from salun.experiments.context import ModelCache
from salun.experiments.evaluate import measure, split_tables, with_references
from salun.experiments.outputs import kept_outputs
from salun.experiments.plan import Job
from salun.experiments.problem import Group, load_models
from salun.experiments.record import Record, partner_of, weights_path
from salun.experiments.runner import missing_from
from salun.io.files import read_json, write_text
from salun.io.locks import LOCKS, Locks
from salun.metrics import METRICS, Evaluation, Models, Runs, Value, check_metrics, evaluate, revisions

_JOINT = "joint.json"


class _Incomplete(NamedTuple):
    """A run whose record lacks metrics, the retrained model that it is compared with, and the metrics' names."""

    job: Job
    partner: Record | None
    names: tuple[str, ...]


@dataclass
class Comparison:
    """Adds to the records of a list what could not be computed while its runs were done.

    Attributes:
        cache: data sets and base models.
        path: `records.jsonl` of the list.
        weights: folder of unlearned models.
        done: records by id.
        before: metrics of base models, by base model, retrained model and metrics.
        lost: ids of runs whose outputs were needed and are not kept.
        notices: a line for each value of several runs that was changed by hand.
    """

    cache: ModelCache
    path: Path
    weights: Path
    done: dict[str, Record] = field(default_factory=dict)
    before: dict[tuple[str, ...], dict[str, Value]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)

    def lacking(self, jobs: Sequence[Job]) -> list[_Incomplete]:
        """Find the runs whose records lack metrics.

        Args:
            jobs: all runs of the list.

        Returns:
            What `complete` computes.

        Raises:
            SalunError: the records cannot be read.
        """
        self.done, _ = records.read(self.path)
        gold = {group: self.retrained(standards) for group, standards in _standards_of(jobs).items()}
        found = []
        for job in {job.id: job for job in jobs if job.id in self.done}.values():
            partner = partner_of(self.done[job.id], gold.get(job.group, []))
            names = _lacking(self.done[job.id], partner, job.experiment.metrics)
            if names:
                found.append(_Incomplete(job, partner, names))
        return found

    def complete(self, lacking: Iterable[_Incomplete]) -> Iterator[Record]:
        """Compute the metrics that records lack, and write the records anew.

        Args:
            lacking: as `lacking` gives them.

        Yields:
            Each record that gained metrics.

        Raises:
            SalunError: records or weights cannot be read or written.
        """
        for job, partner, names in lacking:
            record = self._completed(job, self.done[job.id], partner, names)
            if record != self.done[job.id]:
                self.done[job.id] = record
                records.append(self.path, record)
                yield record

    def retrained(self, standards: Sequence[Job]) -> list[Record]:
        """List the retrained models that a run can be compared with.

        Args:
            standards: retrainings of its base model and forget set.

        Returns:
            Those that are finished and did not diverge, by seed.
        """
        found = {job.id: self.done[job.id] for job in standards if job.id in self.done}
        return sorted((record for record in found.values() if not record.diverged), key=lambda record: record.seed)

    def _completed(self, job: Job, record: Record, partner: Record | None, names: tuple[str, ...]) -> Record:
        """Compute metrics of one run."""
        found = dict.fromkeys(names) if record.diverged else self._measured(job, record, partner, names)
        metrics, details = split_tables(found)
        kept = [{name: old[name] for name in old if name not in names} for old in (record.metrics, record.details)]
        return replace(
            record,
            metrics=kept[0] | metrics,
            details=kept[1] | details,
            base_metrics=record.base_metrics | self.base_metrics(job, record, partner, names),
            retrained=None if partner is None else partner.id,
        )

    def _measured(self, job: Job, record: Record, partner: Record | None, names: tuple[str, ...]) -> dict[str, Any]:
        """Compute metrics of a run from what is kept of it."""
        found: dict[str, Any] = {}
        evaluation, weights = evaluation_of(self.path.parent, record, partner), self.file(record)
        if evaluation is not None:
            measured = measure(evaluation, names)
            found |= measured.metrics | measured.details
        if weights is not None and any(METRICS[name].subject is Models for name in names):
            found |= evaluate(load_models(job.problem, weights, self.file(partner), self.cache), names)
        return found

    def base_metrics(
        self, job: Job, record: Record, partner: Record | None, names: tuple[str, ...]
    ) -> dict[str, Value]:
        """Compute metrics of a run's base model, once for all runs that share it and the retrained model.

        Args:
            job: the run.
            record: of it.
            partner: the retrained model.
            names: which metrics.

        Returns:
            Values by name.
        """
        key = (record.base_name, "" if partner is None else partner.id, *names)
        if key not in self.before:
            found: dict[str, Any] = {}
            evaluation = base_evaluation_of(self.path.parent, record, partner)
            if evaluation is not None:
                found |= measure(evaluation, names).metrics
            if any(METRICS[name].subject is Models for name in names):
                found |= split_tables(evaluate(load_models(job.problem, None, self.file(partner), self.cache), names))[
                    0
                ]
            self.before[key] = found
        return self.before[key]

    def file(self, record: Record | None) -> Path | None:
        """Find the weights of a run.

        Args:
            record: of the run.

        Returns:
            The checkpoint, or None where it is not kept.
        """
        path = None if record is None else weights_path(self.weights, record)
        return path if path is not None and path.is_file() else None

    def joint(self, jobs: Sequence[Job]) -> dict[tuple[int, int], dict[str, Value]]:
        """Compute the metrics of several runs together, or read them where they are recorded.

        Args:
            jobs: all runs of the list.

        Returns:
            By entry and step the values; the mean over base models and forget sets where there are several.

        Raises:
            SalunError: `joint.json` cannot be written.
        """
        found: dict[tuple[int, int], list[dict[str, Value]]] = {}
        standards = _standards_of(jobs)
        cells: dict[tuple[tuple[int, int], Group], list[Job]] = {}
        for job in jobs:
            cells.setdefault((job.experiment.key, job.group), []).append(job)
        for (key, cell), runs in cells.items():
            names = [name for name in check_metrics(runs[0].experiment.metrics) if METRICS[name].subject is Runs]
            kept = [self.done[run.id] for run in runs if run.id in self.done and not self.done[run.id].diverged]
            gold = self.retrained(standards.get(cell, ()))
            if names and kept:
                found.setdefault(key, []).append(self._of_cell(kept, gold, tuple(names)))
        return {key: _averaged(values) for key, values in found.items()}

    def _of_cell(self, kept: list[Record], gold: list[Record], names: tuple[str, ...]) -> dict[str, Value]:
        """Compute the metrics of the runs on one base model and forget set together."""
        path = self.path.parent / _JOINT
        known = _read_joint(path)
        unlearned, retrained = _apart(kept, gold)
        asked = [[(record.id, record.outputs) for record in side] for side in (unlearned, retrained)]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
        held = known.get(key, {})
        if held.get(records.DIGEST) not in (None, records.figures_digest(held)):
            self.notices.append(f"{path}: {key}: was changed after it was written, and is not used")
            held = {}
        # A value under an earlier definition stands under another label.
        labels = {name: " ".join([name, *revisions([name]).values()]) for name in names}
        missing = tuple(name for name in names if labels[name] not in held)
        if missing:
            sides = [[(record, alone(self.path.parent, record)) for record in side] for side in (unlearned, retrained)]
            lost = {record.id for side in sides for record, outputs in side if outputs is None}
            if lost:
                self.lost |= lost
                return {name: held.get(labels[name]) for name in names}
            runs = Runs(*(tuple(outputs for _, outputs in side if outputs is not None) for side in sides))
            held = held | {labels[name]: value for name, value in evaluate(runs, missing).items()}
            held |= {records.DIGEST: records.figures_digest(held)}
            write_text(path, json.dumps(known | {key: held}, indent=1) + "\n")
        return {name: held[labels[name]] for name in names}


def evaluation_of(folder: Path, record: Record, partner: Record | None) -> Evaluation | None:
    """Read the outputs of a run and of the models that it is compared with.

    Args:
        folder: of the list's records.
        record: of the run.
        partner: the retrained model.

    Returns:
        The outputs; None where they are not kept.
    """
    found, before = alone(folder, record), kept_outputs(folder, record.base_name)
    if found is None or before is None:
        return found
    return with_references(found, before, None if partner is None else alone(folder, partner))


def base_evaluation_of(folder: Path, record: Record, partner: Record | None) -> Evaluation | None:
    """Read the outputs of a run's base model, beside the retrained model's.

    Args:
        folder: of the list's records.
        record: of the run.
        partner: the retrained model.

    Returns:
        The outputs; None where they are not kept.
    """
    before = kept_outputs(folder, record.base_name)
    return (
        None if before is None else with_references(before, before, None if partner is None else alone(folder, partner))
    )


def alone(folder: Path, record: Record) -> Evaluation | None:
    """Read the outputs of a run.

    Args:
        folder: of the list's records.
        record: of the run.

    Returns:
        The outputs; None where they are not kept.
    """
    cost = (record.unlearning_seconds, record.unlearning_passes)
    found, (seconds, passes) = kept_outputs(folder, record.id, record.outputs, *cost), record.earlier_cost
    return None if found is None else replace(found, earlier_seconds=seconds, earlier_passes=passes)


def _standards_of(jobs: Sequence[Job]) -> dict[Group, list[Job]]:
    """Find the retrainings of a list."""
    found: dict[Group, list[Job]] = {}
    for job in jobs:
        if job.experiment.is_gold:
            found.setdefault(job.group, []).append(job)
    return found


def _lacking(record: Record, partner: Record | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """List the metrics that a record lacks, or that compare it with another retrained model than its partner."""
    missing = [name for name in missing_from(record, names) if METRICS[name].subject is not Runs]
    if partner is None:
        return tuple(name for name in missing if "retrained" not in METRICS[name].against)
    if record.retrained == partner.id:
        return tuple(missing)
    held = [name for name in (*record.metrics, *record.details) if name in METRICS]
    stale = [name for name in held if "retrained" in METRICS[name].against]
    return tuple(dict.fromkeys([*missing, *stale]))


def _apart(kept: list[Record], gold: list[Record]) -> tuple[list[Record], list[Record]]:
    """Settle which models stand on which side of a metric of several runs."""
    if not kept[0].is_gold:
        return kept, gold
    return gold[::2], gold[1::2]


def _averaged(values: list[dict[str, Value]]) -> dict[str, Value]:
    """Average values over base models and forget sets."""
    means: dict[str, Value] = {}
    for name in values[0]:
        found = [value[name] for value in values]
        known = [value for value in found if value is not None]
        means[name] = fmean(known) if len(known) == len(found) else None
    return means


def _read_joint(path: Path) -> dict[str, Any]:
    """Read the metrics of several runs together."""
    try:
        found = read_json(path)
    except SalunError:
        return {}
    return found if isinstance(found, dict) and all(isinstance(value, dict) for value in found.values()) else {}


def compare_runs(
    cache: ModelCache, path: Path, weights: Path, jobs: Sequence[Job]
) -> tuple[dict[str, Record], dict[tuple[int, int], dict[str, Value]]]:
    """Compute what compares the runs of a list with each other.

    Args:
        cache: keeps data sets and base models.
        path: `records.jsonl` of the list.
        weights: folder of its unlearned models.
        jobs: all its runs.

    Returns:
        The records by id, and metrics of several runs by entry.

    Raises:
        SalunError: a file cannot be written.
    """
    comparison = Comparison(cache, path, weights)
    with Locks(path.parent / LOCKS) as locks, locks.holding("comparison"):
        for _ in comparison.complete(comparison.lacking(jobs)):
            pass
    return records.read(path)[0], comparison.joint(jobs)
