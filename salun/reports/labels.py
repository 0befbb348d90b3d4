"""Rows of a list's runs or of records alone, with titles that tell their experiments apart."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from salun.experiments.config import Experiment
from salun.experiments.plan import Job
from salun.experiments.problem import Group
from salun.experiments.record import Record, experiment_of, group_named, group_of, run_id
from salun.metrics import Value
from salun.reports.summary import UTILITY_FLOOR, Row, summarise

_Key = TypeVar("_Key", bound=Hashable)


def titles_of(jobs: list[Job]) -> dict[tuple[int, int], str]:
    """Name the experiments of a list so that a table can tell them apart.

    Returns:
        By entry and step its tag, method, mask and request; what differs is added where entries on one problem share
        that.
    """
    groups: dict[tuple[int, int], list[Group]] = {}
    for job in jobs:
        groups.setdefault(job.experiment.key, []).append(job.group)
    first = {job.experiment.key: job.experiment for job in reversed(jobs)}
    return told_apart({key: (first[key], group_named(groups[key])) for key in groups})


def told_apart(entries: dict[_Key, tuple[Experiment, Group]]) -> dict[_Key, str]:
    """Name experiments, given with their base model and forget set by any key, as `titles_of` does."""
    alike: dict[tuple[str, Group], dict[_Key, Experiment]] = {}
    for name, (experiment, group) in entries.items():
        alike.setdefault((_title_of(experiment), group), {})[name] = experiment
    titles: dict[_Key, str] = {}
    for (title, _), members in alike.items():
        step = next(iter(members.values())).step_title
        for name, details in zip(members, _differences(list(members.values())), strict=True):
            shown = ", ".join(f"{key} {value}" for key, value in details.items())
            titles[name] = ", ".join(filter(None, (f"{title} ({shown})" if shown else title, step)))
    return titles


def _title_of(experiment: Experiment) -> str:
    """Name an experiment: its tag, and method and mask unless the tag has them."""
    tag, title = experiment.tag or "", experiment.title
    if all(part in tag for part in title.split(" + ")):
        return tag
    return f"{tag}: {title}" if tag else title


def _differences(experiments: list[Experiment]) -> list[dict[str, str]]:
    """Find what sets experiments apart: of each, in order."""
    known: list[dict[str, str]] = []
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
        known.append({key: _spelled(value) for key, value in settings.items()})
    shared = [key for key in known[0] if all(key in settings for settings in known)]
    apart = [key for key in shared if len({settings[key] for settings in known}) > 1]
    shown = [{key: settings[key] for key in apart} for settings in known]
    if len({tuple(details.values()) for details in shown}) < len(shown):
        return [details | {"entry": str(one.number)} for details, one in zip(shown, experiments, strict=True)]
    return shown


def _spelled(value: object) -> str:
    """Spell a setting as a title shows it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def rows_of(
    jobs: list[Job],
    done: dict[str, Record],
    joint: Mapping[tuple[int, int], Mapping[str, Value]] | None = None,
    floor: float = UTILITY_FLOOR,
) -> list[Row]:
    """Summarise the finished runs of a list.

    Args:
        jobs: all runs of the list.
        done: records by id.
        joint: metrics of all runs of an experiment together, by entry and step.
        floor: points of RA or TA; a run that loses more is marked; 0 marks none.
    """
    titles = sorted(titles_of(jobs).items())
    finished: dict[tuple[int, int], list[Record]] = {key: [] for key, _ in titles}
    for job in jobs:
        if job.id in done:
            finished[job.experiment.key].append(done[job.id])
    together = [joint.get(key, {}) for key, _ in titles] if joint else ()
    return summarise([(title, finished[key]) for key, title in titles], together, floor)


def rows_of_records(found: list[Record]) -> list[Row]:
    """Summarise records without the list that they were made by, experiments in the order of their first runs.

    Args:
        found: records; runs of the same settings are one experiment, called by their latest tag.

    Raises:
        SalunError: a record's settings cannot be read.
    """
    return rows_of_lists({"": found})


def rows_of_lists(lists: Mapping[str, Sequence[Record]]) -> list[Row]:
    """Summarise the records of several lists in one table, where titles say which list a row is of.

    Args:
        lists: records by the name of their list; retrained models of all lists are taken together, and so are the runs
            of an experiment that the lists have in common.

    Returns:
        The rows, experiments in the order of their first runs.

    Raises:
        SalunError: a record's settings cannot be read.
    """
    alike: dict[str, dict[str, dict[str, Record]]] = {}
    for name, found in lists.items():
        for record in found:
            alike.setdefault(_drawn_from(record), {}).setdefault(name, {})[record.id] = record
    merged = [{number: run for runs in held.values() for number, run in runs.items()} for held in alike.values()]
    everyone = [list(runs.values()) for runs in merged]
    named = {at: (experiment_of(each[-1], at), group_named(map(group_of, each))) for at, each in enumerate(everyone, 1)}
    titles = told_apart(named)
    entries: list[tuple[str, list[Record]]] = []
    for at, (held, members) in enumerate(zip(alike.values(), everyone, strict=True), 1):
        title = titles[at]
        shared = members[0].is_gold or all(len(runs) == len(members) for runs in held.values())
        parts = {" and ".join(held): members} if shared else {name: list(runs.values()) for name, runs in held.items()}
        apart = len(lists) > 1 and not (shared and len(held) == len(lists))
        entries += [(f"{title} ({name})" if apart else title, part) for name, part in parts.items()]
    return summarise(entries)


def _drawn_from(record: Record) -> str:
    """Tell which experiment a run belongs to, whatever base model, forget set and seed were drawn for it."""
    settings = record.settings
    base, forget = dict(settings["base"]), dict(settings["forget"])
    if base["recipe"] is not None and base["identity"].startswith("recipe "):
        base |= {"identity": None, "seed": None, "recipe": base["recipe"] | {"seed": None}}
    forget |= {"earlier": [dict(earlier) for earlier in forget.get("earlier", ())]} if "earlier" in forget else {}
    requests = [*forget.get("earlier", ()), forget]
    if any(request["share"] is not None for request in requests):
        for request in requests:
            request |= {"seed": None} | ({"fingerprint": None} if request["classes"] or request["share"] else {})
    return run_id(settings | {"base": base, "forget": forget}, 0)
