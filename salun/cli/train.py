"""`salun-train`: train a classifier, on everything or without a forget set."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from rich.console import Console

from salun.cli import entry
from salun.cli.progress import Display
from salun.cli.status import check_folder, notice
from salun.data.dataset import Dataset
from salun.data.sets import make_sets, to_device
from salun.data.sources import load
from salun.data.split import ForgetRequest, Split, make_split, resolved_request
from salun.device import pick_device, placed, settle_threads
from salun.errors import SalunError, SalunErrors
from salun.experiments.base_model import architecture_for, checkpoint_path, preparation_of, saved_spec
from salun.experiments.base_training import save_with_forget, train_checkpoint
from salun.experiments.plugins import known_model, load_plugins
from salun.experiments.tracking import Tracker
from salun.io.locks import LOCKS, Locks
from salun.models.architecture import default_model
from salun.models.build import build
from salun.models.checkpoint import Checkpoint
from salun.training.distributed import Group, joined
from salun.training.evaluate import accuracy, predict
from salun.training.progress import Callback, Progress
from salun.training.recipe import Recipe, default_recipe
from salun.training.runtime import Runtime
from salun.training.state import STATES, StateFile, forget_state

_PROGRAM = "salun-train"
_RECIPE_FLAGS = {key: "pat" if key == "patience" else key for key in Recipe.model_fields}

main = entry.train


def run(flags: argparse.Namespace) -> int:
    """Train together with the processes that a launcher such as torchrun started, if there are any."""
    with joined() as group:
        if flags.plugin:
            # Not before the group has met, so that a plugin's error in one process ends all of them.
            load_plugins(map(Path, flags.plugin))
        return _train(flags, group)


def _train(flags: argparse.Namespace, group: Group) -> int:
    """Check everything, train, save, and print how good the model is."""
    check_folder("--out", Path(flags.out))
    request = _check(flags, group)
    state_path = request.path.parent / STATES / request.path.name
    group.check_same(state_path.exists(), f"--out {flags.out}: some processes find {state_path} there, others do not")
    state = StateFile(state_path, 60 * flags.save_every, group.leads) if flags.save_every else None
    _print_request(request)
    recipe, forget = request.recipe, request.forget
    config = {"model": request.model, "dataset": request.dataset.name, "forget": str(forget), **recipe.model_dump()}
    tracker = Tracker(not flags.no_log and group.leads, notice)
    with (
        _claimed(request.path, group),
        tracker.run(request.path.stem, "train", config) as log,
        Display(Console(), lines=True) as display,
    ):
        callback = _logging(display.callback(request.path.stem, len(request.split.retain)), log)
        runtime = Runtime(compiled=flags.compile, cuda_graphs=flags.cuda_graphs, callback=callback, group=group)
        split, data = request.split, request.dataset
        checkpoint, curve = train_checkpoint(request.model, data, split, recipe, request.device, runtime, state)
        group.end()
        if not group.leads:
            return 0
        save_with_forget(request.path, checkpoint, split, data)
        forget_state(state_path)
        accuracies = _accuracies(checkpoint, request.dataset, split, request.device)
        log({f"final {name}": value for name, value in accuracies.items()})
    best = max(curve, key=lambda epoch: (epoch.validation or 0.0, epoch.epoch))
    print(f"best epoch {best.epoch}: " + ", ".join(f"{name} {100 * value:.2f} %" for name, value in accuracies.items()))
    print(f"{request.path}\n{request.path.with_name(request.path.stem + '_forget.json')} ({len(split.listed)} indices)")
    return 0


def _logging(show: Callback, log: Callable[[dict[str, Any]], object]) -> Callback:
    """Log every finished epoch of what is shown."""

    def callback(step: Progress) -> None:
        show(step)
        if step.done is not None:
            log(vars(step.done))

    return callback


class _Request(NamedTuple):
    """What is to be trained, checked; the data are on the device where one process trains alone."""

    model: str
    dataset: Dataset
    recipe: Recipe
    forget: ForgetRequest
    split: Split
    path: Path
    device: torch.device


def _print_request(request: _Request) -> None:
    """Print what is trained, and on how many images."""
    split, recipe = request.split, request.recipe
    counts = f"{len(split.retain)} of {len(split.train)} training images, {len(split.validation)} for validation"
    where = f"{request.model} on {request.dataset.name}, {request.device}"
    print(f"{where}: {counts}; forgetting {request.forget}", flush=True)
    if len(split.listed) and not recipe.pretrained:
        same = f"starts from the first weights of a base model of --seed {recipe.seed}"
        print(f"{same}; as a retrained model of that one, take another seed", flush=True)


def _check(flags: argparse.Namespace, group: Group) -> _Request:
    """Check everything before the first epoch."""
    device = pick_device(group.name_device(flags.device), flags.deterministic)
    group.begin(device, flags.compile)
    recipe, request = _read_recipe(flags), _read_request(flags)
    model = known_model(flags.model or default_model(flags.dataset))
    wanted = flags.dataset, Path(flags.data_dir)
    dataset = group.in_turn(lambda: load(*wanted, skip_corrupt=flags.skip_corrupt), "data")
    for line in dataset.notices if group.leads else ():
        notice(f"{_PROGRAM}: {line}")
    if group.size == 1:
        dataset = to_device(dataset, device)
    settle_threads(dataset.size)
    try:
        named = resolved_request(request, dataset)
    except SalunError as error:
        raise SalunError(f"--cf: {error}") from error
    split = make_split(dataset, request, flags.split_seed)
    for line in split.notices if group.leads else ():
        notice(f"{_PROGRAM}: {line}")
    group.in_turn(lambda: build(architecture_for(model, dataset, recipe.pretrained)[0], recipe.pretrained), "model")
    path = checkpoint_path(Path(flags.out), model, flags.dataset, flags.comment or _default_comment(flags, split))
    asked = _Request(model, dataset, recipe, named, split, path, device)
    if path.exists() and not flags.force:
        _check_same_model(asked)
    return asked


def _check_same_model(asked: _Request) -> None:
    """Refuse to replace a checkpoint that is not of the same training."""
    try:
        found = saved_spec(asked.path)
    except SalunError as error:
        raise SalunError(f"{error}; --force replaces it") from error
    assert found.checkpoint is not None
    config, recipe = found.checkpoint.config, found.recipe
    held = {"model": found.model, "dataset": found.dataset, **(recipe.model_dump() if recipe else {"recipe": "none"})}
    own = {"model": asked.model, "dataset": asked.dataset.name, **asked.recipe.model_dump()}
    other = [f"{key} {held[key]}" for key in held if held[key] != own.get(key)]
    if config.get("split") != asked.split.fingerprint:
        other.append(f"split_seed {found.split_seed}" if found.split_seed != asked.split.seed else "other images")
    if "unlearned" in config:
        other.append(f"unlearned by {config['unlearned'].get('method')}")
    elif found.checkpoint.excluded != tuple(asked.split.listed.tolist()):
        other.append(f"another forget set ({len(found.checkpoint.excluded)} images)")
    if other:
        what = f"holds a model of {', '.join(other)}"
        raise SalunError(f"{asked.path}: {what}; --force replaces it, --comment names another file")


@contextmanager
def _claimed(path: Path, group: Group) -> Iterator[None]:
    """Let no other command train the same file meanwhile."""
    if not group.leads:
        yield
        return
    with Locks(path.parent / LOCKS) as locks:
        if not locks.take(path.name):
            raise SalunError(f"{path}: another process trains it at this moment; --comment names another file")
        yield


def _read_recipe(flags: argparse.Namespace) -> Recipe:
    """Build the recipe from the flags, over the data set's defaults."""
    values = {key: getattr(flags, name) for key, name in _RECIPE_FLAGS.items()}
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return Recipe(**{**default_recipe(flags.dataset).model_dump(), **given})
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False):
            flag = _RECIPE_FLAGS[str(fault["loc"][0])].replace("_", "-")
            lines.append(f"--{flag} {fault['input']}: {fault['msg'][0].lower()}{fault['msg'][1:]}")
        raise SalunErrors(lines) from error


def _read_request(flags: argparse.Namespace) -> ForgetRequest:
    """Build the forget request from the flags."""
    if flags.unlr is not None and not 0 < flags.unlr < 1:
        raise SalunError(f"--unlr {flags.unlr}: must be a share between 0 and 1, both excluded")
    if flags.stratified and flags.unlr is None:
        raise SalunError("--stratified: goes with --unlr, the share to draw")
    for name in ("forget_seed", "split_seed"):
        if not 0 <= getattr(flags, name) < 2**31:
            raise SalunError(f"--{name.replace('_', '-')} {getattr(flags, name)}: must be from 0 to {2**31 - 1}")
    listed = Path(flags.itf) if flags.itf else None
    if flags.indices_in != "salun" and listed is None:
        raise SalunError(f"--indices-in {flags.indices_in}: goes with --itf, whose indices it is about")
    classes = tuple(flags.cf or ())
    return ForgetRequest(classes, flags.unlr, flags.forget_seed, listed, flags.stratified, flags.indices_in)


def _default_comment(flags: argparse.Namespace, split: Split) -> str:
    """Name a checkpoint whose user does not."""
    name = "base"
    if flags.cf:
        name = f"cf{'+'.join(map(str, split.classes))}"
    elif flags.unlr is not None:
        name = f"unlr{flags.unlr:g}" + ("-stratified" if flags.stratified else "")
        name += f"-forget{flags.forget_seed}" if flags.forget_seed else ""
    elif flags.itf:
        name = f"itf-{Path(flags.itf).stem}"
    name += f"-split{flags.split_seed}" if flags.split_seed else ""
    return name + (f"-seed{flags.seed}" if flags.seed else "")


def _accuracies(checkpoint: Checkpoint, dataset: Dataset, split: Split, device: torch.device) -> dict[str, float]:
    """Measure a trained model."""
    sets = make_sets(dataset, split, preparation_of(checkpoint, dataset, split), device)
    model = placed(checkpoint.restore(), device)
    measured = {
        "retained": sets.retain,
        "left out": sets.forget,
        "validation": sets.validation,
        "test": sets.test,
        "test of left-out classes": sets.forgotten_test,
    }
    return {name: accuracy(predict(model, images)) for name, images in measured.items() if len(images)}
