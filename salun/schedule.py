"""Many runs: what is to be done, what is done already, and doing the rest in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salun import records
from salun.errors import SalunError, SalunErrors
from salun.experiment import Experiment
from salun.metrics import check_metrics
from salun.run import Problem, Record, Workbench, identify, resolved, save_with_forget, weights_name
from salun.training import Watch

Keep = Literal["all", "last", "none"]
WatchFor = Callable[["Job"], Watch]


@dataclass(frozen=True)
class Job:
    """One run of a list.

    Attributes:
        experiment: what to do.
        problem: what to do it to.
        seed: of the run.
        number: of the run within its experiment, from 1.
        last: whether it is its experiment's last.
        id: of its record.
    """

    experiment: Experiment
    problem: Problem
    seed: int
    number: int
    last: bool
    id: str


def plan(experiments: list[Experiment], runs: int, bench: Workbench, source: str) -> list[Job]:
    """Load and check everything that the experiments need, and list their runs.

    Args:
        experiments: validated entries.
        runs: of each experiment; run i uses seed + i.
        bench: loads data and checkpoints.
        source: what the text of errors begins with.

    Returns:
        The runs, experiment by experiment.

    Raises:
        SalunErrors: data, checkpoints, forget sets or masks are refused, a line an experiment.
    """
    jobs, wrong = [], []
    for experiment in experiments:
        try:
            problem = bench.problem(experiment)
        except SalunError as error:
            where = source if source == "command line" else f"{source}: entry {experiment.number}"
            wrong.append(f"{where}: {error}")
            continue
        settings = resolved(experiment, problem)
        for place in range(runs):
            seed = experiment.seed + place
            jobs.append(Job(experiment, problem, seed, place + 1, place == runs - 1, identify(settings, seed)))
    if wrong:
        raise SalunErrors(wrong)
    return jobs


def is_finished(job: Job, done: dict[str, Record]) -> bool:
    """Tell whether a run's record exists and holds the metrics that are asked for.

    Args:
        job: the run.
        done: records by id.

    Returns:
        True where it need not be run.
    """
    wanted = check_metrics(job.experiment.metrics)
    return job.id in done and set(wanted) <= set(done[job.id].metrics)


@dataclass
class Runner:
    """Does the runs of a list one after another.

    Attributes:
        bench: data sets and base models.
        path: `records.jsonl` of the list.
        weights: folder for unlearned models.
        keep: which of them are kept.
    """

    bench: Workbench
    path: Path
    weights: Path
    keep: Keep = "last"

    def go(self, jobs: list[Job], watch_for: WatchFor) -> Iterator[tuple[Job, Record]]:
        """Do the runs that are not finished, and record each as it ends.

        Args:
            jobs: all runs of the list.
            watch_for: gives the watch of a run.

        Yields:
            Each run done, with its record.

        Raises:
            SalunError: a base model cannot be had, or a file not be written.
        """
        done, _ = records.read(self.path)
        for job in jobs:
            if is_finished(job, done):
                continue
            record, checkpoint = self.bench.run(job.experiment, job.problem, job.seed, watch_for(job))
            if self.keep == "all" or (self.keep == "last" and job.last):
                save_with_forget(self.weights / weights_name(record), checkpoint, job.problem.parts)
            records.append(self.path, record)
            done[job.id] = record
            yield job, record


def rows_of(jobs: list[Job], done: dict[str, Record]) -> list[records.Row]:
    """Summarise the finished runs of a list.

    Args:
        jobs: all runs of the list.
        done: records by id.

    Returns:
        The rows of the table.
    """
    finished: dict[int, tuple[str, list[Record]]] = {}
    for job in jobs:
        title = job.experiment.tag or job.experiment.title
        _, runs = finished.setdefault(job.experiment.number, (title, []))
        if job.id in done:
            runs.append(done[job.id])
    return records.summarise(list(finished.values()))
