"""Requests one after another: which run waits for which, and what it starts from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from salun.experiments.plan import Job
from salun.experiments.record import EARLIER, Record, weights_path
from salun.experiments.run import PreviousRun
from salun.models.checkpoint import load_checkpoint


def previous_run(job: Job, done: Mapping[str, Record], weights: Path) -> PreviousRun | None:
    """Read what a run goes on from.

    Args:
        job: the run.
        done: records by id.
        weights: folder of unlearned models.

    Returns:
        The run of the request before; None of a first request.

    Raises:
        SalunError: its model cannot be read.
    """
    if job.parent is None:
        return None
    record = done[job.parent]
    model = None if job.start is None else load_checkpoint(weights_path(weights, record)).weights
    counted = [record.passes.get(part, {}) for part in ("mask", "method", EARLIER)]
    passes = {way: sum(count.get(way, 0) for count in counted) for way in ("forward", "backward")}
    return PreviousRun(record.id, model, record.unlearning_seconds + record.earlier_cost[0], passes)


def with_starts(jobs: Sequence[Job], ids: Iterable[str], done: Mapping[str, Record], weights: Path) -> set[str]:
    """Add to runs that are to be done those whose model they start from, where it is not kept.

    Args:
        jobs: runs, of each entry in order.
        ids: of the runs to be done.
        done: records by id.
        weights: folder of unlearned models.

    Returns:
        Ids.
    """
    wanted = set(ids)
    for job in reversed(jobs):
        if job.id in wanted and job.start is not None and not _is_kept(job.start, done, weights):
            wanted.add(job.start)
    return wanted


def may_start(job: Job, busy: Collection[str], done: Mapping[str, Record], weights: Path) -> bool:
    """Tell whether the request before is done.

    Args:
        job: a run.
        busy: ids of the runs that are to be done or under way.
        done: records by id.
        weights: folder of unlearned models.

    Returns:
        True of a first request too.
    """
    if job.parent is None:
        return True
    if job.parent not in done or job.parent in busy:
        return False
    return job.start is None or (_is_kept(job.start, done, weights) and not done[job.start].diverged)


def stranded(
    pending: Sequence[Job], running: Collection[str], failed: set[str], done: Mapping[str, Record]
) -> list[Job]:
    """List the runs that cannot be done, as a request before failed, or diverged and left no model.

    Args:
        pending: runs to be done, of each entry in order.
        running: ids of those under way.
        failed: ids of runs that failed, to which those that are found are added.
        done: records by id.

    Returns:
        The runs, in order.
    """
    if all(job.parent is None for job in pending):
        return []
    busy = {job.id for job in pending} | set(running)
    diverged = {number for number, record in done.items() if record.diverged and number not in busy}
    found = []
    for job in pending:
        if job.parent in failed or job.start in diverged:
            failed.add(job.id)
            found.append(job)
    return found


def used_up(job: Job, jobs: Iterable[Job], left: Iterable[Job], done: Mapping[str, Record]) -> Record | None:
    """Find the run of the request before, where no run needs its model any more.

    Args:
        job: a run that ended.
        jobs: all runs of the list.
        left: those that are to be done or under way.
        done: records by id.

    Returns:
        Its record, or None.
    """
    if job.start is None:
        return None
    waiting = {other.start for other in left} | {other.start for other in jobs if other.id not in done}
    return None if job.start in waiting else done[job.start]


def goes_on(job: Job, is_kept: bool) -> bool:
    """Tell whether the model of a run is needed for the run of a next request.

    Args:
        job: the run.
        is_kept: whether models are kept for requests that a later list may add.
    """
    return job.experiment.step > 0 and job.experiment.method != "retrain" and (job.is_followed or is_kept)


def _is_kept(number: str, done: Mapping[str, Record], weights: Path) -> bool:
    """Tell whether a run's model is kept."""
    return number in done and weights_path(weights, done[number]).is_file()
