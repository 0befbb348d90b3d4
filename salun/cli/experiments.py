"""The experiments that the flags of `salun-unlearn` name: read, checked, and printed by `--dry-run`."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import NamedTuple

from salun.cli.status import check_folder, notice
from salun.data.download import AbsentData
from salun.device import pick_device
from salun.errors import ListErrors, SalunError, one_line
from salun.experiments import records
from salun.experiments.advice import warnings_of
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.plugins import model_files, outdated
from salun.experiments.problem import ForgettingProblem
from salun.experiments.schema import load_experiments, validate
from salun.experiments.source import COMMAND_LINE, check_source, find_list, results_name
from salun.metrics import check_metrics

_MOST_RUNS = 10_000
_MOST_JOBS = 64
_ENTRY_FLAGS = {
    "checkpoint": "-c", "model": "--model", "dataset": "--dataset", "class_to_forget": "-CF", "unlearning_rate": "-UL",
    "stratified": "--stratified", "idxs_to_forget": "-IF", "indices_in": "--indices-in", "epochs": "-E", "lr": "-LR",
    "method": "-M", "use_mask": "-UM", "mask_thr": "-MT", "load_mask": "-LM", "seed": "--seed",
    "forget_seed": "--forget-seed", "base_seed": "--base-seed", "tag": "--tag",
}  # fmt: skip


class _OpenList(NamedTuple):
    """The experiments that the flags name, checked, with their source and folders, and what their runs share."""

    experiments: list[Experiment]
    source: str
    folder: Path
    weights: Path
    cache: ModelCache


def open_list(flags: argparse.Namespace, download: bool = True) -> _OpenList:
    """Check flags, list and folders, none of the data yet, which may or may not be downloaded."""
    pick_device(flags.device, flags.deterministic)  # a wrong one is told before anything in the list
    experiments, source = _read_experiments(flags)
    name = results_name(flags.name, source)
    folder, weights = Path(flags.out) / name, Path(flags.checkpoints) / name
    check_folder("--out", folder)
    check_folder("--checkpoints", weights)
    check_source(folder, source)
    context = context_of(flags, [each.model for each in experiments])
    return _OpenList(experiments, source, folder, weights, ModelCache(replace(context, download=download)))


def context_of(flags: argparse.Namespace, models: Iterable[str | None]) -> RunContext:
    """Take from the flags of a machine where and how runs are done.

    Args:
        flags: of a command that does runs.
        models: names of the models, whose files every process must run.

    Returns:
        The context.

    Raises:
        SalunError: there is no such device.
    """
    return RunContext(
        pick_device(flags.device, flags.deterministic),
        Path(flags.data_dir),
        Path(flags.checkpoints),
        compiled=flags.compile,
        cuda_graphs=flags.cuda_graphs,
        save_every=60 * flags.save_every,
        skip_corrupt=flags.skip_corrupt,
        plugins=(*map(Path, flags.plugin), *model_files(models)),
    )


def _read_experiments(flags: argparse.Namespace) -> tuple[list[Experiment], str]:
    """Read the experiments that the flags name, and their source."""
    for flag in ("nexp", "nbase", "nforget"):
        if not 1 <= getattr(flags, flag) <= _MOST_RUNS:
            raise SalunError(f"--{flag} {getattr(flags, flag)}: must be from 1 to {_MOST_RUNS}")
    check_executor(flags)
    if flags.budget is not None and flags.budget < 1:
        raise SalunError(f"--budget {flags.budget}: must be a number of image passes from 1")
    metrics = _requested_metrics(flags)
    given = {key: getattr(flags, key) for key in _ENTRY_FLAGS if getattr(flags, key) is not None}
    if flags.load is None:
        if len(given.get("class_to_forget", ())) == 1:
            given["class_to_forget"] = given["class_to_forget"][0]
        return _overridden(validate([given], COMMAND_LINE), metrics, flags.budget), COMMAND_LINE
    if given:
        key = next(iter(given))
        raise SalunError(f"{_ENTRY_FLAGS[key]} goes without -L: put '{key}' into the entries of {flags.load}")
    path = find_list(flags.load)
    return _overridden(load_experiments(Path(path)), metrics, flags.budget), path


def check_executor(flags: argparse.Namespace) -> None:
    """Check the flags that say who does the runs.

    Args:
        flags: of a command with `--jobs`, `--ray` and `--gpus-per-run`.

    Raises:
        SalunError: one is out of its bounds, or lacks another.
    """
    most = _MOST_JOBS if flags.ray is None else _MOST_RUNS
    if flags.jobs is not None and not 1 <= flags.jobs <= most:
        raise SalunError(f"--jobs {flags.jobs}: must be from 1 to {most}")
    if flags.gpus_per_run is not None and flags.ray is None:
        raise SalunError(f"--gpus-per-run {flags.gpus_per_run:g}: goes with --ray; --ray local needs no cluster")
    if flags.gpus_per_run is not None and not 0 <= flags.gpus_per_run <= 1:
        raise SalunError(f"--gpus-per-run {flags.gpus_per_run:g}: must be from 0 to 1")
    if flags.ray is not None and "://" in flags.ray:
        raise SalunError(f"--ray {flags.ray}: run the command on a machine of the cluster; give HOST:PORT or nothing")
    if flags.ray is not None and util.find_spec("ray") is None:
        raise SalunError("--ray: Ray is not installed here; pip install 'salun[ray]' does that")


def _requested_metrics(flags: argparse.Namespace) -> tuple[str, ...]:
    """Check the metrics of the command line."""
    try:
        return check_metrics(tuple(flags.metrics)) if flags.metrics else ()
    except SalunError as error:
        raise SalunError(f"--metrics: {error}") from error


def _overridden(experiments: list[Experiment], metrics: tuple[str, ...], budget: int | None) -> list[Experiment]:
    """Put metrics and budget of the command line in the place of the entries' own."""
    if metrics:
        experiments = [experiment.model_copy(update={"metrics": metrics}) for experiment in experiments]
    if budget is not None:
        experiments = [
            experiment if experiment.method == "retrain" else experiment.model_copy(update={"budget": budget})
            for experiment in experiments
        ]
    return experiments


def print_plan(flags: argparse.Namespace) -> int:
    """Print every resolved experiment with its number of runs, after the checks that the runs would begin with."""
    opened = open_list(flags, download=False)
    problems = _check_all(opened, Repeats(flags.nexp, flags.nbase, flags.nforget))
    experiments, source = opened.experiments, opened.source
    runs = 0
    for experiment in experiments:
        each = flags.nexp * flags.nbase * flags.nforget * max(1, len(experiment.requests))
        runs += each
        last = experiment.seed + flags.nexp - 1
        seeds = f"seeds {experiment.seed} to {last}" if flags.nexp > 1 else f"seed {last}"
        seeds += "".join(
            f", {counted(number, what)}"
            for number, what in ((flags.nbase, "base model"), (flags.nforget, "forget set"))
            if number > 1
        )
        problem = problems.get(experiment.number)
        asked = experiment if problem is None else experiment.resolved(problem.dataset)
        what = f"{experiment.title} on {experiment.base}, forgetting {asked.forgetting}"
        tag = f" [{experiment.tag}]" if experiment.tag else ""
        print(one_line(f"{experiment.number}. {what}{tag}: {counted(each, 'run')} ({seeds})"))
        _print_details(experiment)
        if problem is not None and experiment.checkpoint is None:
            print(f"   base model {problem.spec.path}" + ("" if problem.spec.path.exists() else ", to be trained"))
    print(f"{source}: {counted(len(experiments), 'experiment')}, {counted(runs, 'run')}")
    return 0


def _print_details(experiment: Experiment) -> None:
    """Print what decides an experiment's outcome."""
    print(f"   settings {json.dumps(experiment.settings)}")
    if experiment.recipe is not None:
        print(f"   recipe {experiment.recipe.model_dump_json()}")
    if experiment.corruption is not None:
        print(f"   corrupt {experiment.corruption.model_dump_json(exclude_none=True)}")
    if experiment.prune is not None:
        epochs = "the recipe's" if experiment.prune.epochs is None else experiment.prune.epochs
        print(f"   prune {experiment.prune.share:g}, then train for {epochs} epochs")
    if experiment.budget is not None:
        print(f"   budget {experiment.budget} image passes, mask included")
    if experiment.metrics:
        print(f"   metrics {', '.join(experiment.metrics)}")


def counted(number: int, what: str) -> str:
    """Name a number of things, as in "2 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _check_all(opened: _OpenList, repeats: Repeats) -> dict[int, ForgettingProblem]:
    """Check what the runs would check, as far as the data are there, and print what they would warn of."""
    wrong: list[tuple[str, str]] = []
    lines: list[str] = []
    jobs: list[Job] = []
    for experiment in opened.experiments:
        try:
            planned = plan([experiment], repeats, opened.cache, opened.source)
            lines += warnings_of(planned)
            jobs += planned
        except AbsentData as error:
            lines.append(f"classes and indices are checked once the data are there: {error}")
        except ListErrors as errors:
            wrong += errors.found
    if wrong:
        raise ListErrors(opened.source, wrong)
    finished, torn = records.read(opened.folder / "records.jsonl")
    versions = [finished[job.id].versions for job in jobs if job.id in finished]
    for line in dict.fromkeys([*torn, *lines, *outdated(versions)]):
        notice(line)
    return {job.experiment.number: job.problem for job in jobs}
