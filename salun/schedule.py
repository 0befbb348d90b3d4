"""Many runs: what is to be done, what is done already, and doing the rest in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
            experiment = with_metrics_of(done.get(job.id), job.experiment)
            record, checkpoint = self.bench.run(experiment, job.problem, job.seed, watch_for(job))
            if self.keep == "all" or (self.keep == "last" and job.last):
                save_with_forget(self.weights / weights_name(record), checkpoint, job.problem.parts)
            records.append(self.path, record)
            done[job.id] = record
            yield job, record


def with_metrics_of(record: Record | None, experiment: Experiment) -> Experiment:
    """Ask for the metrics of an earlier record too, so that a run that is done again for more loses none.

    Args:
        record: of the same run, if there is one.
        experiment: what is to be done.

    Returns:
        The experiment.
    """
    if record is None or not experiment.metrics:
        return experiment
    held = [name for name in check_metrics(()) if name in record.metrics]
    return replace(experiment, metrics=tuple(dict.fromkeys([*experiment.metrics, *held])))


def titles_of(jobs: list[Job]) -> dict[int, str]:
    """Name the experiments of a list so that a table can tell them apart.

    Args:
        jobs: all runs of the list.

    Returns:
        By entry number its tag, or method and mask; where entries on the same forgetting problem share
        that, what differs between them follows, as in `rl (lr 0.1)`.
    """
    alike: dict[tuple[str, str, str], dict[int, Experiment]] = {}
    for job in jobs:
        experiment, problem = job.experiment, job.problem
        title = experiment.tag or experiment.title
        place = (title, problem.origin.identity, problem.parts.forget_fingerprint)
        alike.setdefault(place, {})[experiment.number] = experiment
    titles: dict[int, str] = {}
    for (title, _, _), entries in alike.items():
        for number, details in differences(list(entries.values())).items():
            shown = ", ".join(f"{key} {value}" for key, value in details.items())
            titles[number] = f"{title} ({shown})" if shown else title
    return titles


def differences(experiments: list[Experiment]) -> dict[int, dict[str, str]]:
    """Find what sets experiments apart.

    Args:
        experiments: of the same title.

    Returns:
        By entry number the settings that not all of them share, and the entry where two share them all.
    """
    known: dict[int, dict[str, str]] = {}
    for experiment in experiments:
        mask = experiment.mask
        settings = {
            "method": experiment.method,
            **experiment.settings,
            "mask": str(mask or "none").removeprefix("mask "),
        }
        settings |= {"mask batches": mask.batches, "mask file": mask.file} if mask else {}
        settings |= {"metrics": " ".join(experiment.metrics) or "all", "seed": experiment.seed}
        known[experiment.number] = {key: "none" if value is None else str(value) for key, value in settings.items()}
    shared = [key for key in known[experiments[0].number] if all(key in settings for settings in known.values())]
    apart = [key for key in shared if len({settings[key] for settings in known.values()}) > 1]
    shown = {number: {key: settings[key] for key in apart} for number, settings in known.items()}
    if len({tuple(details.values()) for details in shown.values()}) < len(shown):
        return {number: details | {"entry": str(number)} for number, details in shown.items()}
    return shown


def rows_of(jobs: list[Job], done: dict[str, Record]) -> list[records.Row]:
    """Summarise the finished runs of a list.

    Args:
        jobs: all runs of the list.
        done: records by id.

    Returns:
        The rows of the table.
    """
    titles = titles_of(jobs)
    finished: dict[int, list[Record]] = {number: [] for number in titles}
    for job in jobs:
        if job.id in done:
            finished[job.experiment.number].append(done[job.id])
    return records.summarise([(titles[number], runs) for number, runs in sorted(finished.items())])
