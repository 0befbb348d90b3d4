"""Doing the runs of a list that are not recorded yet."""

import logging
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from salun.experiments import records
from salun.experiments.config import Experiment
from salun.experiments.evaluate import split_tables
from salun.experiments.executors.processes import Alone, Hands, Lost, Order, Outcome, Pool
from salun.experiments.executors.ray import Cluster, RayRequest
from salun.experiments.outputs import OUTPUTS, kept_outputs, outputs_path, write_outputs
from salun.experiments.plan import Job, untrained
from salun.experiments.record import Record, weights_name
from salun.experiments.run import Workbench, save_with_forget
from salun.io.files import sweep, write_text
from salun.io.locks import CLAIMS, POLL, Claims
from salun.metrics import METRICS, Evaluation, Models, Runs, check_metrics
from salun.training.progress import Callback
from salun.training.state import STATES

_Keep = Literal["all", "last", "none"]

_WatchFor = Callable[["Job"], Callback]

_FAILED = "failed"

_logger = logging.getLogger("salun")


@dataclass
class Runner:
    """Does the runs of a list.

    Attributes:
        bench: data sets and base models.
        path: `records.jsonl` of the list.
        weights: folder for unlearned models.
        keep: which of them are kept.
        parallel: how many runs are done side by side; a single one is done in this process.
        plugins: files that were run in this process, for others that are to do runs.
        ray: what is asked of a cluster, where one is to do the runs.
    """

    bench: Workbench
    path: Path
    weights: Path
    keep: _Keep = "last"
    parallel: int = 1
    plugins: tuple[Path, ...] = ()
    ray: RayRequest | None = None

    @property
    def beside(self) -> bool:
        """Whether runs may be done side by side."""
        return self.parallel > 1 or self.ray is not None

    def go(self, jobs: list[Job], watch_for: _WatchFor) -> Iterator[tuple[Job, Record | Lost]]:
        """Do the runs that are not finished, and record each as it ends.

        Other processes may be at work on the same list: each run is done by the one that claims it, and all wait until
        the last is recorded.

        Args:
            jobs: all runs of the list.
            watch_for: gives the watch of a run.

        Yields:
            Each run that this process did, with its record, or where it failed with the reason.

        Raises:
            SalunError: a file cannot be written.
        """
        self.tidy()
        log = records.Log(self.path)
        log.refresh()
        pending = [job for job in jobs if not self.is_finished(job, log.found)]
        under_way: dict[str, Job] = {}
        with Claims(self.path.parent / CLAIMS) as claims, self.hands(len({job.id for job in pending})) as hands:
            barren = hands.prepare(untrained(pending))
            lost = [(job, barren[job.base]) for job in pending if job.base in barren]
            yield from ((job, self.settled(job, outcome, claims, log)) for job, outcome in lost)
            pending = [job for job in pending if job.base not in barren]
            waited = False
            while pending or under_way:
                while hands.free() and (job := self.next_claimed(pending, under_way, hands, claims, log)) is not None:
                    under_way[job.id] = job
                    hands.take(self.order(job, log.found), job.problem, watch_for(job))
                if under_way:
                    number, outcome = hands.finished()
                    job = under_way.pop(number)
                    recorded = self.settled(job, outcome, claims, log)
                    claims.release(number)
                    yield job, recorded
                elif pending:
                    if not waited:
                        _logger.warning("%s: waiting for other processes, which do the last runs", self.path.parent)
                    waited = True
                    time.sleep(POLL)
            claims.sweep()

    def tidy(self) -> None:
        """Remove what processes that were killed left half-written."""
        places = self.path.parent, self.path.parent / OUTPUTS, self.weights
        for folder in (*places, self.bench.checkpoints, self.bench.checkpoints / STATES):
            sweep(folder)

    def next_claimed(
        self, pending: list[Job], under_way: Container[str], hands: Hands, claims: Claims, log: records.Log
    ) -> Job | None:
        """Claim the run that is to be done next.

        Args:
            pending: runs that are left; loses the one that is taken, and those that are recorded by now.
            under_way: ids of those that are being done; the same run is not begun twice.
            hands: who is to do it.
            claims: of this list.
            log: the records.

        Returns:
            Of the runs that fit best, the first that no other process has; None where there is none.
        """
        able = [job for job in pending if job.id not in under_way]
        ranks = {cell: hands.rank(cell) for cell in {job.cell for job in able}}
        taken, over = None, set()
        log.refresh()
        for job in sorted(able, key=lambda job: ranks[job.cell]):
            if self.is_finished(job, log.found):
                over.add(id(job))
                continue
            if not claims.take(job.id):
                continue
            over.add(id(job))
            log.refresh()
            if not self.is_finished(job, log.found):
                taken = job
                break
            claims.release(job.id)
        pending[:] = [job for job in pending if id(job) not in over]
        return taken

    def trace_of(self, job: Job) -> Path:
        """Name the file that tells where a run failed.

        Args:
            job: the run.

        Returns:
            Its path.
        """
        return self.path.parent / _FAILED / f"{job.id}.txt"

    def settled(self, job: Job, outcome: Outcome | Lost, claims: Claims, log: records.Log) -> Record | Lost:
        """Record what a run gives, or keep the trace of its failure.

        Args:
            job: the run.
            outcome: what came of it.
            claims: of this list.
            log: the records.

        Returns:
            The record, or what was lost.

        Raises:
            SalunError: a file cannot be written.
        """
        trace = self.trace_of(job)
        if isinstance(outcome, Lost):
            if outcome.trace:
                write_text(trace, outcome.trace)
            return outcome
        if not claims.holds(job.id):
            return Lost("another process took it over, as this one stood still for long")
        record = self.recorded(job, outcome, log.found)
        self.bench.forget_state(job.id)
        with suppress(OSError):
            trace.unlink()
            trace.parent.rmdir()
        return record

    def hands(self, runs: int) -> Hands:
        """Choose who does the runs.

        Args:
            runs: how many there are.

        Returns:
            This process, or as many others as are asked for and have something to do, here or on a cluster.
        """
        if self.ray is not None:
            return Cluster(self.bench, self.plugins, self.ray, runs)
        if self.parallel == 1:
            return Alone(self.bench)
        return Pool(self.bench, self.plugins, min(self.parallel, runs))

    def order(self, job: Job, done: dict[str, Record]) -> Order:
        """Say what is to be done.

        Args:
            job: the run.
            done: records by id.

        Returns:
            The order, for all metrics that the run's record has to hold.
        """
        experiment = _with_metrics_of(done.get(job.id), job.experiment)
        weights = self.keep == "all" or (self.keep == "last" and job.last) or _needs_weights(experiment)
        return Order(experiment, job.seed, job.id, weights)

    def recorded(self, job: Job, outcome: Outcome, done: dict[str, Record]) -> Record:
        """Write what a run gives, its record last.

        Args:
            job: the run.
            outcome: what it gives.
            done: records by id; gets the new one.

        Returns:
            The record.

        Raises:
            SalunError: a file cannot be written.
        """
        record = outcome.record
        if outcome.checkpoint is not None:
            save_with_forget(self.weights / weights_name(record), outcome.checkpoint, job.problem.split)
        self.keep_outputs(record, outcome.evaluation)
        done[job.id] = _with_comparisons_of(done.get(job.id), record)
        records.append(self.path, done[job.id])
        return done[job.id]

    def is_finished(self, job: Job, done: dict[str, Record]) -> bool:
        """Tell whether a run need not be done: what is asked for is recorded, or what it is made of is kept.

        Args:
            job: the run.
            done: records by id.

        Returns:
            True where its record exists and holds all metrics that are asked for, or can be given them from the
            kept outputs and weights.
        """
        record = done.get(job.id)
        if record is None:
            return False
        missing = [METRICS[name].subject for name in missing_from(record, job.experiment.metrics)]
        if Models in missing and not (self.weights / weights_name(record)).is_file():
            return False
        if record.diverged or all(subject is Models for subject in missing):
            return True
        asked = {record.id: record.outputs, record.base_name: None}
        kept = (kept_outputs(self.path.parent, name, digest) is not None for name, digest in asked.items())
        return record.outputs is not None and all(kept)

    def keep_outputs(self, record: Record, evaluation: Evaluation) -> None:
        """Write a run's outputs, and its base model's where they are not there yet.

        Args:
            record: of the run.
            evaluation: its outputs, with those of its base model.

        Raises:
            SalunError: a file cannot be written.
        """
        folder = self.path.parent
        write_outputs(outputs_path(folder, record.id), evaluation)
        if evaluation.base is not None and kept_outputs(folder, record.base_name) is None:
            write_outputs(outputs_path(folder, record.base_name), evaluation.base)


def missing_from(record: Record, names: tuple[str, ...]) -> list[str]:
    """List the metrics of a run that its record does not hold.

    Args:
        record: of the run.
        names: what is asked for; none for the default ones.

    Returns:
        Names; metrics of several runs, which no record holds, only where there are no outputs to make them of, and
        no passes of a run from before they were counted, which nothing can give it later.
    """
    held = record.metrics.keys() | record.details.keys() | (set() if record.passes else {"passes"})
    able = [name for name in check_metrics(names) if METRICS[name].subject is not Runs or record.outputs is None]
    return [name for name in able if name not in held]


def _needs_weights(experiment: Experiment) -> bool:
    """Tell whether an experiment's metrics are computed from weights, which must then be kept."""
    return any(METRICS[name].subject is Models for name in check_metrics(experiment.metrics))


def _with_metrics_of(record: Record | None, experiment: Experiment) -> Experiment:
    """Ask for the metrics of an earlier record too, so that a run that is done again for more loses none."""
    if record is None:
        return experiment
    held = [name for name in (*record.metrics, *record.details) if name in METRICS]
    return replace(experiment, metrics=tuple(dict.fromkeys([*check_metrics(experiment.metrics), *held])))


def _with_comparisons_of(earlier: Record | None, record: Record) -> Record:
    """Leave room for what an earlier record held of a comparison with a retrained model, to be computed anew."""
    if earlier is None:
        return record
    held = [name for name in (*earlier.metrics, *earlier.details) if name in METRICS]
    metrics, details = split_tables({name: None for name in held if "retrained" in METRICS[name].against})
    return replace(record, metrics=metrics | record.metrics, details=details | record.details)
