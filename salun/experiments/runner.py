"""Doing the runs of a list that are not recorded yet, and recording each."""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from salun.errors import SalunError
from salun.experiments import records
from salun.experiments.base_training import remove_with_forget, save_with_forget
from salun.experiments.bases import CallbackForBase, prepare_base, prepare_bases
from salun.experiments.chains import goes_on, may_start, previous_run, stranded, used_up, with_starts
from salun.experiments.choices import make_choice
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.experiments.evaluate import split_tables
from salun.experiments.executors.cluster import RayRequest
from salun.experiments.executors.executor import Answer, Executor, RunFailure, RunRequest, SerialExecutor
from salun.experiments.executors.processes import ProcessExecutor
from salun.experiments.executors.ray import RayExecutor
from salun.experiments.outputs import OUTPUTS, kept_outputs, outputs_path, write_outputs
from salun.experiments.plan import Job, untrained
from salun.experiments.problem import ForgettingProblem, check_problem
from salun.experiments.record import Record, weights_path
from salun.experiments.run import RunResult, run_once
from salun.io.files import sweep, write_text
from salun.io.locks import LOCKS, POLL, Locks
from salun.metrics import METRICS, Evaluation, Models, Runs, check_metrics
from salun.training.progress import Callback, no_callback
from salun.training.state import STATES

_Keep = Literal["all", "last", "none"]

_Outcomes = Generator[tuple[Job, Record | RunFailure], None, None]

_FAILED = "failed"

_log = logging.getLogger("salun")


@dataclass
class Runner:
    """Does the runs of a list.

    Attributes:
        cache: data sets and base models of this process.
        path: `records.jsonl` of the list.
        weights: folder for unlearned models.
        keep: which of them are kept.
        jobs: how many runs are done side by side; a single one is done in this process.
        ray: what is asked of a cluster, where one is to do the runs.
    """

    cache: ModelCache
    path: Path
    weights: Path
    keep: _Keep = "last"
    jobs: int = 1
    ray: RayRequest | None = None

    @property
    def is_parallel(self) -> bool:
        """Whether runs may be done side by side."""
        return self.jobs > 1 or self.ray is not None

    def run(
        self,
        jobs: list[Job],
        callback_for: Callable[[Job], Callback],
        callback_for_base: CallbackForBase = lambda spec: no_callback,
    ) -> _Outcomes:
        """Train the base models that are missing, do the runs that are not finished, and record each as it ends.

        Other processes may be at work on the same list: each run is done by the one that locks it, and all wait until
        the last is recorded.

        Args:
            jobs: all runs of the list.
            callback_for: gives the callback of a run.
            callback_for_base: gives the callback of a base model's training.

        Yields:
            Each run that this process did, with its record, or where it failed with the reason.

        Raises:
            SalunError: a file cannot be written.
        """
        _sweep_up(self.cache.context.checkpoints, self.path.parent, self.weights)
        log = records.Log(self.path)
        log.refresh()
        left = self.unfinished(jobs, log.found)
        pending = [job for job in jobs if job.id in left]
        missing = untrained(pending)
        with Locks(self.path.parent / LOCKS) as locks, self.executor(len({job.id for job in pending})) as executor:
            failed = self.train_bases(missing, executor, callback_for_base)
            for job in [job for job in pending if job.problem.spec.identity in failed]:
                pending.remove(job)
                yield job, self._settle(job, failed[job.problem.spec.identity], log)
            yield from self._run_pending(pending, jobs, executor, locks, log, callback_for)

    def train_bases(
        self, missing: dict[str, ForgettingProblem], executor: Executor, callback_for_base: CallbackForBase
    ) -> dict[str, RunFailure]:
        """Train base models that are missing, a single one here, with all cores; why those that failed did."""
        alone = not self.ray and len(missing) <= 1
        trainer = SerialExecutor(self.cache) if alone else executor
        return prepare_bases(missing, trainer, self.cache.context, callback_for_base)

    def _run_pending(
        self,
        pending: list[Job],
        jobs: list[Job],
        executor: Executor,
        locks: Locks,
        log: records.Log,
        callback_for: Callable[[Job], Callback],
    ) -> _Outcomes:
        """Do runs whose base models are trained, as the executor has room for them."""
        running: dict[str, Job] = {}
        failed, told = set[str](), False
        while pending or running:
            for lost in stranded(pending, running, failed, log.found):
                pending.remove(lost)
                yield lost, RunFailure(f"request {lost.experiment.step - 1} failed or diverged: no model to go on from")
            while executor.has_room() and (job := self._next_locked(pending, running, locks, log)) is not None:
                running[job.id] = job
                executor.submit(self._request(job, log.found), callback_for(job))
            if running:
                number, answer = executor.next_finished()
                job = running.pop(number)
                recorded = self._settle(job, answer, log)
                locks.release(number)
                failed |= {number} if isinstance(recorded, RunFailure) else set()
                self._drop(used_up(job, jobs, [*pending, *running.values()], log.found), jobs)
                yield job, recorded
            elif pending:
                if not told:
                    _log.warning("%s: waiting for other processes, which do the last runs", self.path.parent)
                told = True
                time.sleep(POLL)

    def executor(self, runs: int) -> Executor:
        """Choose who does the runs: this process, others of this machine, or a cluster."""
        if self.ray is not None:
            return RayExecutor(self.cache, self.ray, runs)
        workers = min(self.jobs, runs)
        return ProcessExecutor(self.cache.context, workers) if workers > 1 else SerialExecutor(self.cache)

    def _next_locked(self, pending: list[Job], running: dict[str, Job], locks: Locks, log: records.Log) -> Job | None:
        """Lock the run that is to be done next, taking it and those that are recorded by now from the pending ones."""
        log.refresh()
        chained = any(job.parent is not None for job in pending)  # else each run is looked at for itself
        left = self.unfinished(pending, log.found) if chained else set[str]()
        for job in [job for job in pending if job.id not in running]:
            if job.id in left or not (chained or self.is_finished(job, log.found)):
                if not may_start(job, left | running.keys(), log.found, self.weights) or not locks.take(job.id):
                    continue
                log.refresh()
                if job.id in self.unfinished(pending if chained else [job], log.found):
                    pending.remove(job)
                    return job
                locks.release(job.id)
            pending.remove(job)
        return None

    def _request(self, job: Job, done: dict[str, Record]) -> RunRequest:
        """Say what is to be done, for all metrics that the run's record has to hold."""
        experiment, problem = _with_metrics_of(done.get(job.id), job.experiment), job.problem
        weights = self._keeps(job) or goes_on(job, self.keep != "none") or _needs_weights(experiment)
        previous = previous_run(job, done, self.weights)
        return RunRequest(job.id, experiment, job.seed, problem.spec, problem.split, problem.mask, weights, previous)

    def _keeps(self, job: Job) -> bool:
        """Tell whether the user wants a run's model."""
        return self.keep == "all" or (self.keep == "last" and job.last) or _needs_weights(job.experiment)

    def _drop(self, record: Record | None, jobs: Sequence[Job]) -> None:
        """Remove the model of a run, which may stand in several entries, unless one of them keeps it."""
        if record is not None and not any(self._keeps(job) for job in jobs if job.id == record.id):
            remove_with_forget(weights_path(self.weights, record))

    def trace_of(self, job: Job) -> Path:
        """Name the file that tells where a run failed.

        Args:
            job: the run.

        Returns:
            Its path.
        """
        return self.path.parent / _FAILED / f"{job.id}.txt"

    def _settle(self, job: Job, answer: Answer, log: records.Log) -> Record | RunFailure:
        """Record what a run gives, or keep the trace of its failure."""
        trace = self.trace_of(job)
        if isinstance(answer, RunFailure):
            if answer.trace:
                write_text(trace, answer.trace)
            return answer
        assert isinstance(answer, RunResult)
        record = _record(self, job, answer, log.found)
        self.cache.context.forget_state(job.id)
        with suppress(OSError):
            trace.unlink()
            trace.parent.rmdir()
        return record

    def unfinished(self, jobs: Sequence[Job], done: dict[str, Record]) -> set[str]:
        """List the runs that are to be done.

        Args:
            jobs: runs, of each entry in order.
            done: records by id.

        Returns:
            Ids of those that are not finished, and of those whose model one of them starts from and that is not kept.
        """
        return with_starts(jobs, (job.id for job in jobs if not self.is_finished(job, done)), done, self.weights)

    def is_finished(self, job: Job, done: dict[str, Record]) -> bool:
        """Tell whether a run need not be done: what is asked for is recorded, or what it is made of is kept.

        Args:
            job: the run.
            done: records by id.

        Returns:
            True where its record holds all metrics that are asked for, or can be given them from what is kept.
        """
        record = done.get(job.id)
        if record is None:
            return False
        missing = [METRICS[name].subject for name in missing_from(record, job.experiment.metrics)]
        if Models in missing and not weights_path(self.weights, record).is_file():
            return False
        if record.diverged or all(subject is Models for subject in missing):
            return True
        asked = {record.id: record.outputs, record.base_name: None}
        kept = (kept_outputs(self.path.parent, name, digest) is not None for name, digest in asked.items())
        return record.outputs is not None and all(kept)


def _sweep_up(checkpoints: Path, folder: Path, weights: Path) -> None:
    """Remove what processes that were killed left half-written."""
    for place in (folder, folder / OUTPUTS, weights, checkpoints, checkpoints / STATES):
        sweep(place)


def _record(runner: Runner, job: Job, result: RunResult, done: dict[str, Record]) -> Record:
    """Write what a run gives, its record last."""
    record = result.record
    if result.checkpoint is not None:
        path, problem = weights_path(runner.weights, record), job.problem
        save_with_forget(path, result.checkpoint, problem.split, problem.dataset)
    if not runner.cache.context.tuning:
        _keep_outputs(runner.path.parent, record, result.evaluation)
    done[job.id] = _with_comparisons_of(done.get(job.id), record)
    records.append(runner.path, done[job.id])
    return done[job.id]


def _keep_outputs(folder: Path, record: Record, evaluation: Evaluation) -> None:
    """Write a run's outputs, and its base model's where they are not there yet."""
    write_outputs(outputs_path(folder, record.id), evaluation)
    if evaluation.base is not None and kept_outputs(folder, record.base_name) is None:
        write_outputs(outputs_path(folder, record.base_name), evaluation.base)


def let_choose(runner: Runner, jobs: list[Job], callback_for_base: CallbackForBase = lambda spec: no_callback) -> bool:
    """Let base models choose the images that are not known yet, training those that are missing.

    Args:
        runner: of the list.
        jobs: all its runs, as planned; they must be planned anew where there was something to choose.
        callback_for_base: gives the callback of a base model's training.

    Returns:
        Whether there was.

    Raises:
        SalunError: a base model cannot be had, or a file not be written.
    """
    undecided = [job for job in jobs if not job.problem.is_chosen]
    missing = untrained(undecided)
    if missing:
        with runner.executor(len(missing)) as executor:
            for failure in runner.train_bases(missing, executor, callback_for_base).values():
                raise SalunError(failure.reason)
    for job in undecided:
        make_choice(job.experiment, job.problem, runner.cache)
    return bool(undecided)


def run_experiment(experiment: Experiment, seed: int, cache: ModelCache, callback: Callback = no_callback) -> RunResult:
    """Run one experiment once in this process, training its base model first where it is missing; records nothing.

    Args:
        experiment: what to do.
        seed: of the run.
        cache: of this process.
        callback: is told of every step of the run.

    Returns:
        The record, the outputs and the unlearned model.

    Raises:
        SalunError: data, base model or mask are refused.
    """
    problem = check_problem(experiment, cache)
    prepare_base(problem, cache)
    if not problem.is_chosen:
        make_choice(experiment, problem, cache)
        problem = check_problem(experiment, cache)
    return run_once(experiment, problem, seed, cache, callback)


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
    metrics = tuple(dict.fromkeys([*check_metrics(experiment.metrics), *held]))
    return experiment.model_copy(update={"metrics": metrics})


def _with_comparisons_of(earlier: Record | None, record: Record) -> Record:
    """Leave room for what an earlier record held of a comparison with a retrained model, to be computed anew."""
    if earlier is None:
        return record
    held = [name for name in (*earlier.metrics, *earlier.details) if name in METRICS]
    metrics, details = split_tables({name: None for name in held if "retrained" in METRICS[name].against})
    return replace(record, metrics=metrics | record.metrics, details=details | record.details)
