"""Rows of a list's runs or of records alone, with titles that tell their experiments apart."""

from collections.abc import Mapping
from typing import Any

from salun.experiments.config import Experiment
from salun.experiments.plan import Job
from salun.experiments.problem import Group
from salun.experiments.record import Record, experiment_of, group_named, group_of, run_id
from salun.metrics import Value
from salun.reports.summary import UTILITY_FLOOR, Row, summarise


def titles_of(jobs: list[Job]) -> dict[int, str]:
    """Name the experiments of a list so that a table can tell them apart.

    Returns:
        By entry number its tag, method and mask; where entries on one problem share that, what differs follows.
    """
    groups: dict[int, list[Group]] = {}
    for job in jobs:
        groups.setdefault(job.experiment.number, []).append(job.group)
    first = {job.experiment.number: job.experiment for job in reversed(jobs)}
    return told_apart({number: (first[number], group_named(groups[number])) for number in groups})


def told_apart(entries: dict[int, tuple[Experiment, Group]]) -> dict[int, str]:
    """Name experiments, given with their base model and forget set by entry number, as `titles_of` does."""
    alike: dict[tuple[str, Group], dict[int, Experiment]] = {}
    for number, (experiment, group) in entries.items():
        alike.setdefault((_title_of(experiment), group), {})[number] = experiment
    titles: dict[int, str] = {}
    for (title, _), members in alike.items():
        for number, details in _differences(list(members.values())).items():
            shown = ", ".join(f"{key} {value}" for key, value in details.items())
            titles[number] = f"{title} ({shown})" if shown else title
    return titles


def _title_of(experiment: Experiment) -> str:
    """Name an experiment: its tag, and method and mask unless the tag has them."""
    tag, title = experiment.tag or "", experiment.title
    if all(part in tag for part in title.split(" + ")):
        return tag
    return f"{tag}: {title}" if tag else title


def _differences(experiments: list[Experiment]) -> dict[int, dict[str, str]]:
    """Find what sets experiments apart."""
    known: dict[int, dict[str, str]] = {}
    for experiment in experiments:
        mask, prune = experiment.mask, experiment.prune
        settings: dict[str, Any] = {
            "method": experiment.method,
            **experiment.settings,
            "prune": prune and prune.share,
            "mask": str(mask or "none").removeprefix("mask "),
        }
        settings |= {"mask batches": mask.batches, "mask file": mask.file} if mask else {}
        settings |= {"prune_epochs": "the recipe's" if prune.epochs is None else prune.epochs} if prune else {}
        settings |= {"metrics": " ".join(experiment.metrics) or "default", "seed": experiment.seed}
        settings |= {"forget_seed": experiment.forget.seed, "base_seed": experiment.base_seed}
        settings |= {"budget": experiment.budget}
        known[experiment.number] = {key: _spelled(value) for key, value in settings.items()}
    shared = [key for key in known[experiments[0].number] if all(key in settings for settings in known.values())]
    apart = [key for key in shared if len({settings[key] for settings in known.values()}) > 1]
    shown = {number: {key: settings[key] for key in apart} for number, settings in known.items()}
    if len({tuple(details.values()) for details in shown.values()}) < len(shown):
        return {number: details | {"entry": str(number)} for number, details in shown.items()}
    return shown


def _spelled(value: object) -> str:
    """Spell a setting as a title shows it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def rows_of(
    jobs: list[Job],
    done: dict[str, Record],
    joint: Mapping[int, Mapping[str, Value]] | None = None,
    floor: float = UTILITY_FLOOR,
) -> list[Row]:
    """Summarise the finished runs of a list.

    Args:
        jobs: all runs of the list.
        done: records by id.
        joint: metrics of all runs of an experiment together, by entry number.
        floor: points of RA or TA; a run that loses more is marked; 0 marks none.
    """
    titles = sorted(titles_of(jobs).items())
    finished: dict[int, list[Record]] = {number: [] for number, _ in titles}
    for job in jobs:
        if job.id in done:
            finished[job.experiment.number].append(done[job.id])
    together = [joint.get(number, {}) for number, _ in titles] if joint else ()
    return summarise([(title, finished[number]) for number, title in titles], together, floor)


def rows_of_records(found: list[Record]) -> list[Row]:
    """Summarise records without the list that they were made by, experiments in the order of their first runs.

    Args:
        found: records; runs of the same settings are one experiment, called by their latest tag.

    Raises:
        SalunError: a record's settings cannot be read.
    """
    alike: dict[str, list[Record]] = {}
    for record in found:
        alike.setdefault(_drawn_from(record), []).append(record)
    runs = list(enumerate(alike.values(), 1))
    named = {number: (experiment_of(each[-1], number), group_named(map(group_of, each))) for number, each in runs}
    titles = told_apart(named)
    return summarise([(titles[number], members) for number, members in runs])


def _drawn_from(record: Record) -> str:
    """Tell which experiment a run belongs to, whatever base model, forget set and seed were drawn for it."""
    settings = record.settings
    base, forget = dict(settings["base"]), dict(settings["forget"])
    if base["recipe"] is not None and base["identity"].startswith("recipe "):
        base |= {"identity": None, "seed": None, "recipe": base["recipe"] | {"seed": None}}
    if forget["share"] is not None:
        forget |= {"seed": None, "fingerprint": None}
    return run_id(settings | {"base": base, "forget": forget}, 0)
