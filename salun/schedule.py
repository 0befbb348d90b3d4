"""Many runs: what is to be done, what is done already, and doing the rest in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from salun import records
from salun.data.split import ForgetRequest
from salun.errors import SalunError, SalunErrors
from salun.experiment import Experiment, MaskRequest
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
    return told_apart(
        {
            job.experiment.number: (job.experiment, (job.problem.origin.identity, job.problem.parts.forget_fingerprint))
            for job in jobs
        }
    )


def told_apart(entries: dict[int, tuple[Experiment, records.Group]]) -> dict[int, str]:
    """Name experiments so that those of one problem are called differently.

    Args:
        entries: by entry number the experiment, and its base model and forget set.

    Returns:
        Titles by entry number, as `titles_of` gives them.
    """
    alike: dict[tuple[str, records.Group], dict[int, Experiment]] = {}
    for number, (experiment, group) in entries.items():
        alike.setdefault((experiment.tag or experiment.title, group), {})[number] = experiment
    titles: dict[int, str] = {}
    for (title, _), members in alike.items():
        for number, details in differences(list(members.values())).items():
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


def experiment_of(record: Record, number: int) -> Experiment:
    """Read from a record which experiment was run.

    Args:
        record: of a run.
        number: given to the experiment.

    Returns:
        The experiment; what no record holds (paths, the metrics asked for, the first seed) is left at its default.

    Raises:
        SalunError: its settings are not such as this version writes.
    """
    try:
        base, forget, mask = (record.settings[key] for key in ("base", "forget", "mask"))
        file = Path(mask["file"]) if mask and mask["file"] else None
        return Experiment(
            number=number,
            method=record.settings["method"],
            settings=dict(record.settings["settings"]),
            checkpoint=None,
            model=base["model"],
            dataset=base["dataset"],
            recipe=None,
            split_seed=0,
            forget=ForgetRequest(tuple(forget["classes"]), forget["share"], forget["seed"]),
            mask=MaskRequest(mask["keep"], mask["score"], mask["batches"], file) if mask else None,
            metrics=(),
            seed=0,
            tag=record.tag,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SalunError(f"record {record.id}: its settings cannot be read") from error


def rows_of_records(found: list[Record]) -> list[records.Row]:
    """Summarise records without the list that they were made by.

    Args:
        found: records; runs of the same settings are one experiment, called by their latest tag.

    Returns:
        The rows of the table, in the order in which the experiments were first run.

    Raises:
        SalunError: a record's settings cannot be read.
    """
    alike: dict[str, list[Record]] = {}
    for record in found:
        alike.setdefault(identify(record.settings, 0), []).append(record)
    runs = dict(enumerate(alike.values(), 1))
    titles = told_apart(
        {number: (experiment_of(members[-1], number), records.group_of(members[0])) for number, members in runs.items()}
    )
    return records.summarise([(titles[number], members) for number, members in runs.items()])
