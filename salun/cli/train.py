"""`salun-train`: train a classifier, on everything or without a forget set."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from salun.cli import arguments
from salun.cli.arguments import Parser, add_machine_flags, add_saving_flag, check_folder, filled, guarded, notice
from salun.cli.startup import uncollected
from salun.errors import SalunError
from salun.io.locks import LOCKS, Locks

_PROGRAM = "salun-train"
_RECIPE_FLAGS = {
    "epochs": "--epochs",
    "lr": "--lr",
    "batch_size": "--batch-size",
    "momentum": "--momentum",
    "weight_decay": "--weight-decay",
    "optimizer": "--optimizer",
    "schedule": "--schedule",
    "patience": "--pat",
    "precision": "--precision",
    "seed": "--seed",
    "pretrained": "--pretrained",
}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(_PROGRAM, description="Train a classifier on all of its training split, or without a forget set.")
    parser.add_argument(
        "--model", type=filled, help="timm name or resnet_tiny (default: resnet18; for digits resnet_tiny)"
    )
    parser.add_argument(
        "--dataset",
        default="cifar10",
        help="digits, cifar10, cifar100, svhn, mnist, fashion_mnist, folder:PATH[:size=PIXELS] or "
        "synthetic[:n=..,size=..,classes=..,noise=..,seed=..], or a plugin's (default: cifar10)",
    )
    parser.add_argument(
        "--comment",
        type=filled,
        help="end of the checkpoint's name (default: base, or what is left out, and seeds other than 0)",
    )
    recipe = parser.add_argument_group("recipe (defaults: the SalUn paper's; for digits 10 epochs, cosine, batch 64)")
    recipe.add_argument("--lr", type=float, help="learning rate at the start (default: 0.1)")
    recipe.add_argument("--epochs", type=int, help="passes over the data (default: 182)")
    recipe.add_argument("--pat", type=int, metavar="N", help="stop after N epochs without a better validation accuracy")
    recipe.add_argument("--batch-size", type=int, metavar="N", help="images a step (default: 256)")
    recipe.add_argument("--schedule", choices=("constant", "plateau", "multistep", "cosine"), help="default: multistep")
    recipe.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), help="default: sgd")
    recipe.add_argument("--momentum", type=float, help="default: 0.9")
    recipe.add_argument("--weight-decay", type=float, help="default: 0.0005")
    recipe.add_argument("--precision", choices=("auto", "float32", "bf16"), help="default: auto, bf16 on CUDA")
    recipe.add_argument("--seed", type=int, help="of weights, order and augmentation (default: 0)")
    recipe.add_argument("--pretrained", action="store_true", default=None, help="start from timm's weights")
    forget = parser.add_argument_group("what is left out of training").add_mutually_exclusive_group()
    forget.add_argument("--cf", type=int, nargs="+", metavar="CLASS", help="all images of these classes")
    forget.add_argument("--unlr", type=float, metavar="SHARE", help="a random share of the training split")
    forget.add_argument("--itf", type=filled, metavar="FILE", help="the images listed in a forget-set file")
    parser.add_argument(
        "--stratified",
        action="store_true",
        help="with --unlr: that share of each class (default: as in the SalUn paper's code, whatever the class)",
    )
    parser.add_argument("--forget-seed", type=int, default=0, metavar="N", help="of --unlr (default: 0)")
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="of the validation split (default: 0)")
    parser.add_argument("--out", default="checkpoints", metavar="DIR", help="default: checkpoints")
    add_saving_flag(parser)
    add_machine_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train a classifier.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit status.
    """
    flags = _parse(argv)
    return guarded(_PROGRAM, lambda: _train_together(flags))


def _train_together(flags: argparse.Namespace) -> int:
    """Train with the processes that a launcher such as torchrun started beside this one, if it did."""
    if "RANK" in os.environ:
        # Torch would tell at length, each process for itself, that others ended.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with uncollected():
        from salun.training.distributed import joined

    with joined() as group:
        if flags.plugin:
            arguments.load(flags.plugin)
        return _train(flags, group)


def _train(flags: argparse.Namespace, group: Any) -> int:
    """Check everything, train, save, and say how good the model is."""
    with uncollected():
        from rich.console import Console

        from salun.cli.progress import Display
        from salun.experiments.base_training import save_with_forget, train_checkpoint
        from salun.experiments.tracking import Tracker
        from salun.training.progress import Progress
        from salun.training.runtime import Runtime
        from salun.training.state import STATES, StateFile, forget_state

    check_folder("--out", Path(flags.out))
    asked = _check(flags, group)
    model, dataset, recipe, path, split = asked.model, asked.dataset, asked.recipe, asked.path, asked.split
    place = path.parent / STATES / path.name
    group.check_same(place.exists(), f"--out {flags.out}: some processes find {place} there, others do not")
    state = StateFile(place, 60 * flags.save_every, group.leads) if flags.save_every else None
    counts = f"{len(split.retain)} of {len(split.train)} training images, {len(split.validation)} for validation"
    print(f"{model} on {dataset.name}, {asked.device}: {counts}; forgetting {asked.request}", flush=True)
    if len(split.listed) and not recipe.pretrained:
        same = f"starts from the first weights of a base model of --seed {recipe.seed}"
        print(f"{same}; as a retrained model of that one, take another seed", flush=True)
    config = {"model": model, "dataset": dataset.name, "forget": str(asked.request), **recipe.model_dump()}
    tracker = Tracker(not flags.no_log and group.leads, notice)
    with (
        _claimed(path, group),
        tracker.run(path.stem, "train", config) as log,
        Display(Console(), lines=True) as display,
    ):
        show = display.callback(path.stem, len(split.retain))

        def callback(step: Progress) -> None:
            show(step)
            if step.done is not None:
                log(vars(step.done))

        runtime = Runtime(compiled=flags.compile, callback=callback, group=group)
        checkpoint, curve = train_checkpoint(model, dataset, split, recipe, asked.device, runtime, state)
        group.end()
        if not group.leads:
            return 0
        save_with_forget(path, checkpoint, split)
        forget_state(place)
        figures = _accuracies(checkpoint, dataset, split, asked.device)
        log({f"final {name}": value for name, value in figures.items()})
    best = max(curve, key=lambda epoch: (epoch.validation or 0.0, epoch.epoch))
    print(f"best epoch {best.epoch}: " + ", ".join(f"{name} {100 * value:.2f} %" for name, value in figures.items()))
    print(f"{path}\n{path.with_name(path.stem + '_forget.json')} ({len(split.listed)} indices)")
    return 0


class _Asked(NamedTuple):
    """What is to be trained, checked.

    Attributes:
        model: timm's name.
        dataset: the data, on the device.
        recipe: how it is trained.
        request: what is left out.
        parts: the data's split.
        path: of the checkpoint.
        device: where it is trained.
    """

    model: str
    dataset: Any
    recipe: Any
    request: Any
    split: Any
    path: Path
    device: Any


def _check(flags: argparse.Namespace, group: Any) -> _Asked:
    """Check everything before the first epoch."""
    from salun.data.sets import to_device
    from salun.data.sources import load
    from salun.data.split import make_split
    from salun.device import pick_device, settle_threads
    from salun.experiments.base_model import architecture_for, checkpoint_path
    from salun.models.architecture import check_model, default_model
    from salun.models.build import build

    device = pick_device(group.name_device(flags.device), flags.deterministic)
    group.begin(device, flags.compile)
    recipe, request = _read_recipe(flags), _read_request(flags)
    model = flags.model or default_model(flags.dataset)
    check_model(model)
    wanted = flags.dataset, Path(flags.data_dir)
    dataset = group.in_turn(lambda: load(*wanted, skip_corrupt=flags.skip_corrupt), "data")
    for line in dataset.notices if group.leads else ():
        notice(f"{_PROGRAM}: {line}")
    dataset = to_device(dataset, device)
    settle_threads(dataset.size)
    split = make_split(dataset, request, flags.split_seed)
    group.in_turn(lambda: build(architecture_for(model, dataset, recipe.pretrained)[0], recipe.pretrained), "model")
    path = checkpoint_path(Path(flags.out), model, flags.dataset, flags.comment or _default_comment(flags))
    return _Asked(model, dataset, recipe, request, split, path, device)


@contextmanager
def _claimed(path: Path, group: Any) -> Iterator[None]:
    """Let no other command train the same file meanwhile."""
    if not group.leads:
        yield
        return
    with Locks(path.parent / LOCKS) as locks:
        if not locks.take(path.name):
            raise SalunError(f"{path}: another process trains it at this moment; --comment names another file")
        yield


def _read_recipe(flags: argparse.Namespace) -> Any:
    """Build the recipe from the flags, over the data set's defaults."""
    from pydantic import ValidationError

    from salun.errors import SalunErrors
    from salun.training.recipe import Recipe, default_recipe

    names = {key: "pat" if key == "patience" else key for key in _RECIPE_FLAGS}
    given = {key: getattr(flags, name) for key, name in names.items() if getattr(flags, name) is not None}
    try:
        return Recipe(**{**default_recipe(flags.dataset).model_dump(), **given})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [
            f"{_RECIPE_FLAGS[str(p['loc'][0])]} {p['input']}: {p['msg'][0].lower()}{p['msg'][1:]}" for p in problems
        ]
        raise SalunErrors(lines) from error


def _read_request(flags: argparse.Namespace) -> Any:
    """Build the forget request from the flags."""
    from salun.data.split import ForgetRequest

    if flags.unlr is not None and not 0 < flags.unlr < 1:
        raise SalunError(f"--unlr {flags.unlr}: must be a share between 0 and 1, both excluded")
    if flags.stratified and flags.unlr is None:
        raise SalunError("--stratified: goes with --unlr, the share to draw")
    for name in ("forget_seed", "split_seed"):
        if not 0 <= getattr(flags, name) < 2**31:
            raise SalunError(f"--{name.replace('_', '-')} {getattr(flags, name)}: must be from 0 to {2**31 - 1}")
    listed = Path(flags.itf) if flags.itf else None
    return ForgetRequest(tuple(sorted(set(flags.cf or ()))), flags.unlr, flags.forget_seed, listed, flags.stratified)


def _default_comment(flags: argparse.Namespace) -> str:
    """Name a checkpoint whose user does not."""
    name = "base"
    if flags.cf:
        name = f"cf{'+'.join(map(str, sorted(set(flags.cf))))}"
    elif flags.unlr is not None:
        name = f"unlr{flags.unlr:g}" + ("-stratified" if flags.stratified else "")
        name += f"-forget{flags.forget_seed}" if flags.forget_seed else ""
    elif flags.itf:
        name = f"itf-{Path(flags.itf).stem}"
    name += f"-split{flags.split_seed}" if flags.split_seed else ""
    return name + (f"-seed{flags.seed}" if flags.seed else "")


def _accuracies(checkpoint: Any, dataset: Any, split: Any, device: Any) -> dict[str, float]:
    """Measure a trained model."""
    from salun.data.sets import make_sets
    from salun.device import placed
    from salun.experiments.base_model import preparation_of
    from salun.training.evaluate import accuracy, predict

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
