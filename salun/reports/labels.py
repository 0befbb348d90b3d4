"""Titles of experiments, which tell them apart."""

from typing import Any

from salun.experiments.config import Experiment
from salun.experiments.plan import Job
from salun.experiments.problem import Group
from salun.experiments.record import group_named


def titles_of(jobs: list[Job]) -> dict[int, str]:
    """Name the experiments of a list so that a table can tell them apart.

    Returns:
        By entry number its tag, or method and mask; where entries on the same forgetting problem share that, what
        differs between them follows, as in `rl (lr 0.1)`.
    """
    groups: dict[int, list[Group]] = {}
    for job in jobs:
        groups.setdefault(job.experiment.number, []).append(job.group)
    first = {job.experiment.number: job.experiment for job in reversed(jobs)}
    return told_apart({number: (first[number], group_named(groups[number])) for number in groups})


def told_apart(entries: dict[int, tuple[Experiment, Group]]) -> dict[int, str]:
    """Name experiments so that those of one problem are called differently.

    Args:
        entries: by entry number the experiment, and its base model and forget set.

    Returns:
        Titles by entry number, as `titles_of` gives them.
    """
    alike: dict[tuple[str, Group], dict[int, Experiment]] = {}
    for number, (experiment, group) in entries.items():
        alike.setdefault((experiment.tag or experiment.title, group), {})[number] = experiment
    titles: dict[int, str] = {}
    for (title, _), members in alike.items():
        for number, details in _differences(list(members.values())).items():
            shown = ", ".join(f"{key} {value}" for key, value in details.items())
            titles[number] = f"{title} ({shown})" if shown else title
    return titles


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
