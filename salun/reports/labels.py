"""Titles of experiments, which tell them apart."""

from pathlib import Path
from typing import Any

from salun.data.split import ForgetRequest
from salun.errors import SalunError
from salun.experiments.config import Experiment, MaskRequest, PruneRequest
from salun.experiments.plan import Job
from salun.experiments.record import Group, Record, group_named


def titles_of(jobs: list[Job]) -> dict[int, str]:
    """Name the experiments of a list so that a table can tell them apart.

    Returns:
        By entry number its tag, or method and mask; where entries on the same forgetting problem share that, what
        differs between them follows, as in `rl (lr 0.1)`.
    """
    groups: dict[int, list[Group]] = {}
    for job in jobs:
        groups.setdefault(job.experiment.number, []).append(job.cell)
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


def experiment_of(record: Record, number: int) -> Experiment:
    """Read from a record which experiment was run.

    Returns:
        The experiment; what no record holds (paths, the metrics asked for, the first seed) is left at its default.

    Raises:
        SalunError: its settings are not such as this version writes.
    """
    try:
        base, forget, mask = (record.settings[key] for key in ("base", "forget", "mask"))
        file = Path(mask["file"]) if mask and mask["file"] else None
        prune = record.settings.get("prune")
        return Experiment(
            number=number,
            method=record.settings["method"],
            settings=dict(record.settings["settings"]),
            checkpoint=None,
            model=base["model"],
            dataset=base["dataset"],
            recipe=None,
            split_seed=0,
            forget=ForgetRequest(
                tuple(forget["classes"]), forget["share"], forget["seed"], stratified=forget.get("stratified", False)
            ),
            mask=MaskRequest(mask["keep"], mask["score"], mask["batches"], file) if mask else None,
            metrics=(),
            seed=0,
            tag=record.tag,
            prune=PruneRequest(prune["share"], prune["epochs"]) if prune else None,
            budget=record.settings.get("budget"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SalunError(f"record {record.id}: its settings cannot be read") from error
