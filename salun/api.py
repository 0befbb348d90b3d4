"""The Python face: unlearning of any classifier, from five lines of Python."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from salun import metrics
from salun.data import sources
from salun.data.corruption import corrupt
from salun.data.images import Images
from salun.data.sets import prepare
from salun.data.split import ForgetRequest, make_split
from salun.device import clock, derived_seed, pick_device, precision_for, seeded, seeded_globally
from salun.errors import SalunError, whole_number
from salun.experiments.advice import few_steps, few_steps_of_training, warnings_of
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.entries import Keep, check_run, listed_entries, read_list
from salun.experiments.executors.executor import RunFailure
from salun.experiments.joint_metrics import compare_runs
from salun.experiments.own_model import (
    Build,
    check_callback,
    check_keywords,
    checked_build,
    checked_recipe,
    class_count,
    copied,
    device_of,
    doubts_of_evaluation,
    make_task,
    measured,
    metric_names,
    moved,
    recipe_of,
    tried,
    untrained,
    weighed,
)
from salun.experiments.own_split import split
from salun.experiments.plan import Repeats, plan
from salun.experiments.plugins import model_files
from salun.experiments.runner import Runner, let_choose
from salun.experiments.source import check_source, keeping_source, results_name
from salun.metrics import METRICS, check_metrics
from salun.metrics import evaluate as compute
from salun.models.features import mark_head
from salun.models.own import model
from salun.registry import Registered
from salun.reports.labels import rows_of, titles_of
from salun.reports.results import Results
from salun.reports.scores import Scores
from salun.reports.summary import UTILITY_FLOOR
from salun.reports.tables import write_summaries
from salun.training.cost import PassCounter
from salun.training.evaluate import predict
from salun.training.loop import train as train_model
from salun.training.progress import Callback, no_callback, progress_bar
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime
from salun.unlearning import METHODS, Method, find_method, load_methods, settled
from salun.unlearning import unlearn as run_method
from salun.unlearning.mask import Mask, Score
from salun.unlearning.mask import saliency as compute_mask

__all__ = [
    "Images",
    "Mask",
    "Recipe",
    "Results",
    "SalunError",
    "Scores",
    "corrupt",
    "evaluate",
    "load",
    "methods",
    "metrics",
    "model",
    "retrain",
    "run",
    "saliency",
    "split",
    "tune",
    "unlearn",
]

if TYPE_CHECKING:
    from salun.reports.search import Tuned

_Device = str | torch.device | None
_COST = "salun_cost"
_UNNAMED = "python"


class _Parts(NamedTuple):
    """The two parts of a data set."""

    train: Images
    test: Images


def load(name: str, data_dir: str | Path = "data", *, download: bool = True) -> _Parts:
    """Load a data set by name.

    Args:
        name: as `salun-train --dataset` takes it, such as "cifar10" or "folder:PATH".
        data_dir: where data sets lie.
        download: whether an absent one may be fetched.

    Returns:
        Its parts `train` and `test`, normalised by the statistics of the training images, which are augmented as the
        data set allows. A warning says which images of a folder are the test part.

    Raises:
        SalunError: the name is unknown, or the data cannot be had.

    Examples:
        >>> load("digits").train
        Images(1438 of 1 x 8 x 8 pixels, labels 0 to 9)
    """
    found = sources.load(name, Path(data_dir), download)
    _warn(found.notices, depth=3)
    view = prepare(found, make_split(found, ForgetRequest()))
    parts = [
        Images(
            part.pixels,
            torch.arange(len(part.labels)),
            part.labels,
            torch.device("cpu"),
            view,
            part.names,
            found.classes,
        )
        for part in (found.train, found.test)
    ]
    return _Parts(*parts)


def _warn(lines: Sequence[str], depth: int = 4) -> None:
    """Tell the caller of this module's function, which has a decorator, what might not be expected."""
    for line in lines:
        warnings.warn(line, stacklevel=depth)


@torch.inference_mode(False)  # gradients are computed whatever the caller has switched off
def saliency(
    model: nn.Module,
    forget: Images,
    keep: float = 0.5,
    score: Score = "sum",
    *,
    batch_size: int = 256,
    max_batches: int | None = None,
    seed: int = 0,
    device: _Device = None,
) -> Mask:
    """Find the weights that matter most to the forget set: SalUn's mask.

    Args:
        model: any classifier; it is left as it is.
        forget: the forget set.
        keep: fraction of the weights that may move, in [0, 1].
        score: "sum" as in the official code, "mean_abs", or the controls "inverted" and "random".
        batch_size: images a gradient.
        max_batches: batches at most; None for all.
        seed: of the "random" mask.
        device: where it runs, such as "cuda"; None for where the model is.

    Returns:
        A boolean tensor for each trainable weight by name, True where it may move.

    Raises:
        SalunError: an argument is not accepted.
    """
    place = device_of(model, device, learns=True)
    (images,) = moved(place, {"forget": forget})
    size = whole_number("batch_size", batch_size, 1)
    most = None if max_batches is None else whole_number("max_batches", max_batches, 1)
    copy, generator = copied(model, place), seeded(whole_number("seed", seed), place)
    class_count(copy, images)
    return compute_mask(copy, images, keep, score, batch_size=size, max_batches=most, generator=generator)


@torch.inference_mode(False)
def unlearn(
    model: nn.Module,
    forget: Images,
    retain: Images,
    method: str,
    *,
    mask: Mask | None = None,
    validation: Images | None = None,
    head: str | None = None,
    fresh: Build | None = None,
    recipe: Recipe | None = None,
    budget: int | None = None,
    seed: int = 0,
    device: _Device = None,
    callback: Callback | None = None,
    progress: bool = False,
    **settings: Any,
) -> nn.Module:
    """Remove the influence of the forget set from a model, by any registered method.

    Args:
        model: any classifier that gives logits (N, classes); it is left as it is.
        forget: images to forget. A class of which `retain` has no image is forgotten as a whole.
        retain: the other training images.
        method: its name; `methods()` lists them.
        mask: of `saliency`; weights outside it stay as they are.
        validation: images by which a few methods choose an epoch.
        head: name of the layer that gives the logits, which some methods need; None finds it where it can.
        fresh: makes an untrained model, which some methods need; None draws the weights of a copy anew.
        recipe: a `Recipe`, by which the method "retrain" trains.
        budget: image passes at most, forward and backward together.
        seed: of all randomness.
        device: where it runs, such as "cuda"; None for where the model is.
        callback: is called with a `Progress` after every step; `progress` shows a bar.
        settings: of the method, as in JSON, where they differ from its defaults.

    Returns:
        A new model, in evaluation mode, on the device.

    Raises:
        SalunError: model, images, method or a setting are not accepted, or the loss stopped being a number.
    """
    check_keywords("unlearn", settings, find_method(method).settings)
    place, chosen = device_of(model, device, learns=True), settled(method, settings)
    sets = moved(place, {"forget": forget, "retain": retain, "validation": validation})
    most = None if budget is None else whole_number("budget", budget, 1, 2**63)
    draw, precision = whole_number("seed", seed), precision_for("auto", place, forget.pixels.shape[-1])
    with _watched(method, callback, progress) as shown, seeded_globally(draw, place):
        runtime = Runtime(precision, callback=shown, passes=PassCounter(budget=most))
        task = make_task(model, sets, runtime, mask=mask, head=head, build=fresh, recipe=recipe, seed=draw)
        _warn(few_steps(f"method '{method}'", method, chosen, len(forget), len(retain), task.recipe))
        begun = clock(place)
        run_method(task, method, chosen, mask)
        seconds = clock(place) - begun
    if task.diverged is not None:
        raise SalunError(f"method '{method}': diverged in epoch {task.diverged}; a lower lr may hold")
    setattr(task.model, _COST, (seconds, task.passes.total))
    task.model.zero_grad()
    return task.model


@torch.inference_mode(False)
def retrain(
    model: nn.Module,
    retain: Images,
    *,
    validation: Images | None = None,
    device: _Device = None,
    callback: Callback | None = None,
    progress: bool = False,
    **recipe: Any,
) -> nn.Module:
    """Train a new model on the retain set alone: the gold standard that unlearning is compared with.

    Args:
        model: a new, untrained classifier, never one that has seen the forget set: training starts from its weights.
            It is left as it is.
        retain: images to train on.
        validation: images that choose the epoch; None keeps the last.
        device: where it runs, such as "cuda"; None for where the model is.
        callback: is called with a `Progress` after every step; `progress` shows a bar.
        recipe: fields of `Recipe`, such as epochs, lr, batch_size, schedule, optimizer and seed.

    Returns:
        A new model, in evaluation mode, on the device.

    Raises:
        SalunError: an argument is not accepted, or the loss stopped being a number.
    """
    check_keywords("retrain", recipe, Recipe.model_fields)
    place, chosen = device_of(model, device, learns=True), recipe_of(recipe)
    images, kept = moved(place, {"retain": retain, "validation": validation})
    copy = copied(model, place)
    class_count(copy, images)
    _warn(few_steps_of_training("retrain", chosen, len(images)))
    precision = precision_for(chosen.precision, place, images.pixels.shape[-1])
    with _watched("retrain", callback, progress) as shown, seeded_globally(chosen.seed, place):
        curve, _ = train_model(
            copy, images, kept, chosen, seeded(chosen.seed, place), Runtime(precision, callback=shown)
        )
    if not isfinite(curve[-1].loss):
        raise SalunError(f"retrain: diverged at lr {chosen.lr:g}; a lower one may hold")
    copy.zero_grad()
    return copy.eval()


def _watched(title: str, callback: Callback | None, progress: bool) -> AbstractContextManager[Callback]:
    """Give the callback of a training: the user's, a progress bar's, or none."""
    check_callback(callback)
    return progress_bar(title) if progress else nullcontext(callback or no_callback)


@torch.inference_mode(False)
def evaluate(
    model: nn.Module,
    forget: Images,
    retain: Images,
    test: Images,
    *,
    base: nn.Module | None = None,
    retrained: nn.Module | None = None,
    validation: Images | None = None,
    metrics: str | Sequence[str] = (),
    head: str | None = None,
    fresh: Build | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: _Device = None,
) -> Scores:
    """Measure an unlearned model, and its distance to a retrained one.

    Args:
        model: the unlearned model.
        forget: the forget set.
        retain: the retain set.
        test: test images of all classes.
        base: the model before unlearning.
        retrained: the model trained without the forget set.
        validation: images held out of training, for metrics that need them.
        metrics: names, or "default", "attacks", "gone" or "all"; `metrics()` lists them. Those of several runs need
            `run`.
        head: name of the layer that gives the logits, whose inputs some metrics look at; None finds it where it can.
        fresh: makes an untrained model, with which ZRF compares; None draws the weights of a copy anew.
        recipe: how the base model was trained, for metrics that train it further.
        seed: of what a metric draws.
        device: where it runs, such as "cuda"; None for where the model is.

    Returns:
        Values by metric of the model, the base model and the retrained model, with the average gap "avg_gap". RTE and
        passes are the method's alone, without the mask's.

    Raises:
        SalunError: an argument is not accepted.
    """
    asked, draw, trained = metric_names(metrics), whole_number("seed", seed), checked_recipe(recipe)
    names, place = check_metrics(asked), device_of(model, device)
    given = {"forget": forget, "retain": retain, "test": test, "validation": validation}
    sets = moved(place, given)
    networks = {"model": model, "base": base, "retrained": retrained}
    copies = {name: tried(network, place, name, sets[:3]) for name, network in networks.items() if network is not None}
    for network in copies.values():
        mark_head(network, next(sets[0].batches(1)).x, head)
    checked_build(fresh, copies["model"], place)
    _warn(doubts_of_evaluation(given, copies, asked, names))
    is_drawn = any("random" in METRICS[name].against for name in names)
    random = predict(untrained(model, fresh, derived_seed("random model"), place), sets[0]) if is_drawn else None
    columns, doubts = measured(copies, sets, names, random, getattr(model, _COST, (None, None)), UTILITY_FLOOR)
    _warn(doubts)
    if base is not None:
        for name, subject in weighed(copies, sets, trained, draw):
            columns[name] |= compute(subject, names)
    return Scores(columns["model"], columns.get("base", {}), columns.get("retrained", {}))


def run(
    experiments: Sequence[dict[str, Any]] | dict[str, Any] | str | Path,
    *,
    nexp: int = 5,
    name: str | None = None,
    metrics: str | Sequence[str] = (),
    out: str | Path = "runs",
    checkpoints: str | Path = "checkpoints",
    data_dir: str | Path = "data",
    device: str = "auto",
    jobs: int = 1,
    keep: Keep = "last",
    utility_floor: float | None = UTILITY_FLOOR,
    callback: Callback | None = None,
) -> Results:
    """Run a list of experiments as `salun-unlearn -L` does: every run is recorded, and done once.

    Args:
        experiments: entries as JSON has them, one of them, the path of a list, or the name of one that comes along.
        nexp: seeds of each experiment.
        name: of the folder of results, for one list and what is added to it; None takes the file's, or "python".
        metrics: names, in the place of the entries' own.
        out: folder of results.
        checkpoints: folder of base models and unlearned models.
        data_dir: where data sets lie.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        jobs: runs side by side.
        keep: which unlearned models are kept: of all runs, of each experiment's last, or none.
        utility_floor: points of RA or TA; runs that lose more of them are marked; None or 0 marks none.
        callback: is called with a `Progress` after every step of a run.

    Returns:
        The table of the experiments, and the runs that failed; `summary.csv` and its kin are written.

    Raises:
        SalunErrors: every mistake in the entries, a line each.
        SalunError: data, checkpoints or folders are refused.
    """
    seeds, workers = whole_number("nexp", nexp, 1), whole_number("jobs", jobs, 1)
    check_run(keep, utility_floor, callback)
    found, source, where = read_list(experiments)
    if wanted := metric_names(metrics):
        found = [each.model_copy(update={"metrics": check_metrics(wanted)}) for each in found]
    folder, weights = _folders(name, where, source, Path(out), Path(checkpoints))
    plugins = model_files(each.model for each in found)
    context = RunContext(pick_device(device), Path(data_dir), Path(checkpoints), plugins=plugins)
    cache = ModelCache(context)
    runner = Runner(cache, folder / "records.jsonl", weights, keep, workers)
    planned = plan(found, Repeats(seeds), cache, where)
    if let_choose(runner, planned):
        planned = plan(found, Repeats(seeds), cache, where)
    _warn(warnings_of(planned), depth=3)
    titles, failures = titles_of(planned), []
    with torch.inference_mode(False), keeping_source(folder, source):
        for job, outcome in runner.run(planned, lambda job: callback or no_callback):
            if isinstance(outcome, RunFailure):
                failures.append(f"{titles[job.experiment.key]}, seed {job.seed}: failed: {outcome.reason}")
    rows = rows_of(planned, *compare_runs(cache, runner.path, weights, planned), utility_floor or 0.0)
    write_summaries(folder, rows)
    return Results(rows, folder, tuple(failures))


def _folders(name: str | None, where: str, source: str, out: Path, checkpoints: Path) -> tuple[Path, Path]:
    """Name the folders of a list's results and weights, which no other list may have."""
    title = results_name(name or (None if where == source else _UNNAMED), source)
    check_source(out / title, source)
    return out / title, checkpoints / title


@torch.inference_mode(False)
def tune(
    experiments: Sequence[dict[str, Any]] | dict[str, Any] | str | Path,
    *,
    trials: int = 20,
    budget: int | None = None,
    cells: int = 2,
    seed: int = 0,
    name: str | None = None,
    out: str | Path = "runs",
    checkpoints: str | Path = "checkpoints",
    data_dir: str | Path = "data",
    device: str = "auto",
    jobs: int = 1,
) -> "Tuned":
    """Search the settings of a list's entries on validation images, as `salun-tune` does.

    Args:
        experiments: entries, one of them, or the path of a list; keys may hold lists of values, or ranges such as
            `{"low": 1e-4, "high": 0.1, "log": True}`.
        trials: settings tried of each entry.
        budget: image passes of a run at most; None for those of retraining.
        cells: base models and forget sets of each trial.
        seed: of what is tried.
        name: of the folder of trials; None takes that of the file, or "python".
        out: folder of results; trials go to its `tune/`.
        checkpoints: folder of base models.
        data_dir: where data sets lie.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        jobs: trials side by side.

    Returns:
        The choices, whose `entries` go into `run`.

    Raises:
        SalunErrors: every mistake in the entries, a line each.
        SalunError: data, checkpoints or folders are refused.
    """
    from salun.experiments.search import Plan  # only here, as Optuna takes a while to import
    from salun.reports.search import search_settings

    entries, source, where = listed_entries(experiments)
    folder, weights = _folders(name, where, source, Path(out) / "tune", Path(checkpoints) / "tune")
    context = RunContext(pick_device(device), Path(data_dir), Path(checkpoints), tuning=True)
    counts = [whole_number(key, value, 1) for key, value in (("trials", trials), ("cells", cells), ("jobs", jobs))]
    runner = Runner(ModelCache(context), folder / "records.jsonl", weights, "none", counts[2])
    with keeping_source(folder, source):
        planned = Plan(counts[0], counts[1], budget=budget, seed=seed)
        tuned, notices = search_settings(entries, where, planned, runner)
    _warn(notices)
    return tuned


def methods() -> dict[str, Method]:
    """List the unlearning methods by name, each with its settings, equation and source."""
    load_methods()
    return Registered(METHODS)
