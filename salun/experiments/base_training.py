"""Training a classifier by a recipe, and writing it with its forget set and mask."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from salun.data.dataset import Dataset
from salun.data.forget_file import write_forget
from salun.data.manifest import manifest_path, write_manifest
from salun.data.sets import make_sets, prepare
from salun.data.split import Split
from salun.device import placed, precision_for, seeded, seeded_globally
from salun.errors import SalunError
from salun.experiments.base_model import architecture_for, checkpoint_config
from salun.experiments.context import RunContext
from salun.experiments.problem import ForgettingProblem
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, save_checkpoint
from salun.training.loop import train
from salun.training.progress import Callback, Epoch
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime
from salun.training.state import StateFile, StateWriter
from salun.unlearning.mask import save_mask


def train_checkpoint(
    model: str,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    device: torch.device,
    runtime: Runtime | None = None,
    state: StateFile | None = None,
) -> tuple[Checkpoint, list[Epoch]]:
    """Train a model by a recipe on the retain set of a split.

    Args:
        model: timm's name.
        dataset: the data; on the device, where one process trains alone.
        split: which images are learned, and which choose the epoch.
        recipe: all settings of the training.
        device: where it runs.
        runtime: callback, compilation and processes; precision and state are set here.
        state: where the training's state is written, and resumed from.

    Returns:
        The checkpoint of the epoch that is best on validation, and the curve.

    Raises:
        SalunError: the model or the pretrained weights cannot be had, or training diverged.
    """
    runtime = runtime or Runtime()
    architecture, resize = architecture_for(model, dataset, recipe.pretrained)
    preparation = prepare(dataset, split, resize)
    config = checkpoint_config(model, dataset, recipe, preparation, split)
    with seeded_globally(recipe.seed, device):  # weights, and then dropout
        network = placed(build(architecture, recipe.pretrained), device)
        sets = make_sets(dataset, split, preparation, device)
        generator = seeded(recipe.seed, device)
        precision = precision_for(recipe.precision, device, architecture.size)
        described = json.dumps([model, dataset.name, config, split.forget_fingerprint], sort_keys=True)
        writer = StateWriter(state, f"{described} in {precision} on {device.type}", generator) if state else None
        runtime = replace(runtime, precision=precision, state=writer)
        curve, optimizer = train(network, sets.retain, sets.validation, recipe, generator, runtime)
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    checkpoint = Checkpoint(weights, architecture, dataset.name, optimizer, config, tuple(split.listed.tolist()))
    if not checkpoint.is_finite:
        raise SalunError(f"training {model} on {dataset.name} diverged at lr {recipe.lr:g}; a lower one may hold")
    return checkpoint, curve


def train_base(problem: ForgettingProblem, context: RunContext, callback: Callback) -> Checkpoint:
    """Train a base model.

    Args:
        problem: how the base model is trained, and a split that forgets nothing.
        context: of the runs.
        callback: is told of every step.

    Returns:
        The base model.

    Raises:
        SalunError: it cannot be built, or training diverged.
    """
    spec, state = problem.spec, context.state_file(problem.spec.path.stem)
    runtime = Runtime(compiled=context.compiled, cuda_graphs=context.cuda_graphs, callback=callback)
    recipe, device = spec.known_recipe, context.device
    return train_checkpoint(spec.model, problem.dataset, problem.split, recipe, device, runtime, state)[0]


def save_with_forget(path: Path, checkpoint: Checkpoint, split: Split, dataset: Dataset | None = None) -> None:
    """Write a checkpoint, and beside it `..._forget.json`, its forget set, and its mask, if any, ending in `.mask`.

    Args:
        path: of the checkpoint.
        checkpoint: what to write.
        split: names the forget set.
        dataset: where it is of a folder, its manifest is written too, as `..._manifest.csv`.

    Raises:
        SalunError: the files cannot be written.
    """
    write_forget(_forget_path(path), split.listed)
    if dataset is not None and dataset.root is not None:
        write_manifest(manifest_path(path), dataset, split.seed)
    if checkpoint.mask is not None:
        save_mask(path.with_suffix(".mask"), checkpoint.mask)
    save_checkpoint(path, checkpoint)


def remove_with_forget(path: Path) -> None:
    """Remove a checkpoint and what `save_with_forget` wrote beside it, as far as it is there.

    Args:
        path: of the checkpoint.

    Raises:
        SalunError: a file cannot be removed.
    """
    for file in (path, _forget_path(path), manifest_path(path), path.with_suffix(".mask")):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise SalunError(f"{file}: cannot be removed: {error.strerror or error}") from error


def _forget_path(path: Path) -> Path:
    """Name the forget set's file beside a checkpoint."""
    return path.with_name(f"{path.stem}_forget.json")
