"""The base model: trained by a recipe, or read from a checkpoint, with the data it belongs to."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from salun import __version__
from salun.data.dataset import Dataset
from salun.data.sets import make_sets, prepare
from salun.data.split import ForgetRequest, Split, make_split
from salun.data.transforms import Preparation
from salun.device import placed, precision_for, seeded, seeded_globally
from salun.errors import SalunError
from salun.io.files import name_part
from salun.models.architecture import TINY, Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, load_checkpoint
from salun.models.pretrained import pretrained_size
from salun.training.distributed import SINGLE_PROCESS, Group
from salun.training.loop import train
from salun.training.progress import Callback, Epoch, no_callback
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime
from salun.training.state import StateFile, StateWriter


@dataclass(frozen=True)
class BaseModelSpec:
    """Where a base model comes from, as far as is known before any data are read.

    Attributes:
        path: its checkpoint, which may still have to be trained.
        model: timm's name.
        dataset: the data set's name.
        recipe: how it is or was trained; None where the checkpoint does not say.
        split_seed: of its validation split.
        checkpoint: its content, where the file exists.
        by_weights: whether its weights are its identity: the user named the file, or what it records does
            not tell how they came about.
    """

    path: Path
    model: str
    dataset: str
    recipe: Recipe | None
    split_seed: int
    checkpoint: Checkpoint | None
    by_weights: bool

    @cached_property
    def identity(self) -> str:
        """What tells this base model from others: its weights and what they never saw, or how they came about."""
        if self.by_weights and self.checkpoint is not None:
            unseen = self.checkpoint.excluded
            without = f" without {hashlib.sha256(str(unseen).encode()).hexdigest()[:8]}" if unseen else ""
            return f"weights {self.checkpoint.fingerprint}{without}"
        recipe = self.recipe.model_dump() if self.recipe else None
        described = [self.model, self.dataset, recipe, self.split_seed]
        return f"recipe {hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]}"


def checkpoint_path(folder: Path, model: str, dataset: str, comment: str) -> Path:
    """Name a checkpoint.

    Args:
        folder: where checkpoints lie.
        model: timm's name.
        dataset: the data set's name.
        comment: what sets this model apart.

    Returns:
        `folder/{model}_{dataset}_{comment}.pt`.
    """
    return folder / f"{name_part(model)}_{name_part(dataset)}_{name_part(comment)}.pt"


def trained_spec(
    folder: Path, model: str, dataset: str, recipe: Recipe | None, split_seed: int, default: Recipe
) -> BaseModelSpec:
    """Find the base model of a model and a data set, trained or not.

    Args:
        folder: where checkpoints lie.
        model: timm's name.
        dataset: the data set's name.
        recipe: what the user asked for; None takes `..._base.pt` as it is, or the default.
        split_seed: of the validation split.
        default: the recipe where none is asked for.

    Returns:
        The origin; its path holds a digest of recipe and split seed where a recipe is asked for.

    Raises:
        SalunError: the checkpoint exists but cannot be read, or is of another model, data set or split.
    """
    if recipe is None:
        path = checkpoint_path(folder, model, dataset, "base" if split_seed == 0 else f"base-split{split_seed}")
        if path.exists():
            found = saved_spec(path)
            _check_is(found, model, dataset, split_seed)
            return replace(found, by_weights=not _is_plain(found))
        return BaseModelSpec(path, model, dataset, default, split_seed, None, False)
    wanted = BaseModelSpec(Path(), model, dataset, recipe, split_seed, None, False)
    path = checkpoint_path(folder, model, dataset, f"base-{wanted.identity[-8:]}")
    checkpoint = load_checkpoint(path) if path.exists() else None
    return BaseModelSpec(path, model, dataset, recipe, split_seed, checkpoint, False)


def _check_is(found: BaseModelSpec, model: str, dataset: str, split_seed: int) -> None:
    """Check that the file at a model's place holds that model; the names of two data sets may look alike."""
    held, asked = (found.model, found.dataset, found.split_seed), (model, dataset, split_seed)
    if held != asked:
        texts = [f"{name} on {data} with split_seed {seed}" for name, data, seed in (held, asked)]
        raise SalunError(f"{found.path}: holds {texts[0]}, not {texts[1]}; name it by 'checkpoint', or move it away")


def _is_plain(spec: BaseModelSpec) -> bool:
    """Tell whether a checkpoint is what its recipe gives on all training data."""
    checkpoint = spec.checkpoint
    told = checkpoint is not None and not checkpoint.excluded and "unlearned" not in checkpoint.config
    return told and spec.recipe is not None


def saved_spec(path: Path, recipe: Recipe | None = None) -> BaseModelSpec:
    """Read a base model's origin from its checkpoint.

    Args:
        path: the checkpoint.
        recipe: stands in where the checkpoint records none.

    Returns:
        The origin.

    Raises:
        SalunError: the file cannot be read, or records a recipe that is none.
    """
    checkpoint = load_checkpoint(path)
    recorded = checkpoint.config.get("recipe")
    try:
        known = Recipe(**recorded) if recorded is not None else recipe
    except (ValidationError, TypeError) as error:
        raise SalunError(f"{path}: records no usable recipe") from error
    seed = checkpoint.config.get("split_seed", 0)
    return BaseModelSpec(path, checkpoint.architecture.model, checkpoint.dataset, known, seed, checkpoint, True)


def architecture_for(model: str, dataset: Dataset, pretrained: bool) -> tuple[Architecture, int | None]:
    """Fit an architecture to a data set.

    Args:
        model: timm's name.
        dataset: the data.
        pretrained: whether timm's weights are used, at their own input size.

    Returns:
        The architecture, and the side in pixels that images are resized to, or None.
    """
    classes, channels = len(dataset.classes), dataset.channels
    if pretrained and model != TINY:
        size = pretrained_size(model)
        return Architecture(model, classes, channels, size, native=True), size
    return Architecture(model, classes, channels, dataset.size, native=False), None


def preparation_of(checkpoint: Checkpoint, dataset: Dataset, split: Split) -> Preparation:
    """Find how a checkpoint's model wants its images.

    Args:
        checkpoint: the model.
        dataset: the data.
        parts: their split, for a checkpoint that records no preparation.

    Returns:
        The preparation.

    Raises:
        SalunError: what is recorded is no preparation.
    """
    recorded = checkpoint.config.get("preparation")
    if recorded is None:
        size = checkpoint.architecture.size
        return prepare(dataset, split, size if size != dataset.size else None)
    try:
        found = TypeAdapter(Preparation).validate_python(recorded)
    except ValidationError as error:
        raise SalunError(f"checkpoint of {checkpoint.architecture.model}: records no usable preparation") from error
    sides = found.resize is None or found.resize > 0
    if not sides or found.padding < 0 or not len(found.mean) == len(found.std) == dataset.channels:
        raise SalunError(f"checkpoint of {checkpoint.architecture.model}: records no usable preparation")
    return found


def check_belongs(spec: BaseModelSpec, dataset: Dataset, split: Split) -> None:
    """Check that a checkpoint was trained on these data under this very split.

    Args:
        origin: the base model.
        dataset: the data.
        parts: their split.

    Raises:
        SalunError: images, classes or split differ from what the checkpoint records.
    """
    checkpoint = spec.checkpoint
    if checkpoint is None:
        return
    if checkpoint.architecture.classes != len(dataset.classes):
        counts = f"{checkpoint.architecture.classes} classes, '{dataset.name}' {len(dataset.classes)}"
        raise SalunError(f"{spec.path}: has {counts}")
    if checkpoint.architecture.channels != dataset.channels:
        counts = f"{checkpoint.architecture.channels} colour channels, '{dataset.name}' {dataset.channels}"
        raise SalunError(f"{spec.path}: has {counts}")
    if "preparation" in checkpoint.config:
        preparation_of(checkpoint, dataset, split)
    names = checkpoint.config.get("class_names")
    if names is not None and names != list(dataset.classes):
        raise SalunError(f"{spec.path}: was trained on other class names than '{dataset.name}' has")
    recorded = checkpoint.config.get("split")
    if recorded is not None and recorded != split.fingerprint:
        what = (
            f"was trained on another split of '{dataset.name}' ({recorded}) than these data give ({split.fingerprint})"
        )
        raise SalunError(f"{spec.path}: {what}; the data have changed since")


def fresh_model(architecture: Architecture, pretrained: bool, seed: int, device: torch.device) -> nn.Module:
    """Build a model as it is before training; the global generators stay where they are.

    Args:
        architecture: what to build.
        pretrained: whether pretrained weights are taken.
        seed: of fresh weights.
        device: where the model goes.

    Returns:
        The model on the device.

    Raises:
        SalunError: it cannot be built.
    """
    with seeded_globally(seed, device):
        return placed(build(architecture, pretrained), device)


def train_checkpoint(
    model: str,
    dataset: Dataset,
    recipe: Recipe,
    request: ForgetRequest,
    split_seed: int,
    device: torch.device,
    callback: Callback = no_callback,
    compiled: bool = False,
    state: StateFile | None = None,
    group: Group = SINGLE_PROCESS,
) -> tuple[Checkpoint, Split, list[Epoch]]:
    """Train a model by a recipe on everything but the forget set.

    Args:
        model: timm's name.
        dataset: the data, on the device.
        recipe: all settings of the training.
        request: what is left out; nothing for a base model.
        split_seed: of the validation split.
        device: where it runs.
        watch: is told of every step.
        compiled: whether the model is compiled for its steps.
        state: where the training's state is written, and taken up if an earlier process left it.
        group: the processes that train the model together.

    Returns:
        The checkpoint of the epoch that is best on validation, the split, and the curve.

    Raises:
        SalunError: the model, the forget set, or the pretrained weights cannot be had, or training diverged.
    """
    split = make_split(dataset, request, split_seed)
    checkpoint, curve = train_on(model, dataset, recipe, split, split_seed, device, callback, compiled, state, group)
    return checkpoint, split, curve


def train_on(
    model: str,
    dataset: Dataset,
    recipe: Recipe,
    split: Split,
    split_seed: int,
    device: torch.device,
    callback: Callback = no_callback,
    compiled: bool = False,
    state: StateFile | None = None,
    group: Group = SINGLE_PROCESS,
) -> tuple[Checkpoint, list[Epoch]]:
    """Train a model by a recipe on the retain set of a split.

    Args:
        model: timm's name.
        dataset: the data, on the device.
        recipe: all settings of the training.
        parts: which images are learned, and which choose the epoch.
        split_seed: of the validation split.
        device: where it runs.
        watch: is told of every step.
        compiled: whether the model is compiled for its steps.
        state: where the training's state is written, and taken up if an earlier process left it.
        group: the processes that train the model together.

    Returns:
        The checkpoint of the epoch that is best on validation, and the curve.

    Raises:
        SalunError: the model or the pretrained weights cannot be had, or training diverged.
    """
    architecture, resize = architecture_for(model, dataset, recipe.pretrained)
    preparation = prepare(dataset, split, resize)
    with seeded_globally(recipe.seed, device):  # weights, and then dropout
        network = placed(build(architecture, recipe.pretrained), device)
        sets = make_sets(dataset, split, preparation, device)
        config = describe(dataset, recipe, preparation, split, split_seed)
        generator = seeded(recipe.seed, device)
        precision = precision_for(recipe.precision, device, architecture.size)
        described = json.dumps([model, dataset.name, config, split.forget_fingerprint], sort_keys=True)
        writer = StateWriter(state, f"{described} in {precision} on {device.type}", generator) if state else None
        runtime = Runtime(precision, compiled, callback=callback, state=writer, group=group)
        curve, optimizer = train(network, sets.retain, sets.validation, recipe, generator, runtime)
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    checkpoint = Checkpoint(weights, architecture, dataset.name, optimizer, config, tuple(split.listed.tolist()))
    if not checkpoint.is_finite:
        raise SalunError(f"training {model} on {dataset.name} diverged at lr {recipe.lr:g}; a lower one may hold")
    return checkpoint, curve


def describe(
    dataset: Dataset, recipe: Recipe | None, preparation: Preparation, split: Split, split_seed: int
) -> dict[str, Any]:
    """Gather what a checkpoint records beside weights and architecture.

    Args:
        dataset: the data.
        recipe: how the model, or its base model, was trained; None where that is unknown.
        preparation: how its images are prepared.
        parts: their split.
        split_seed: of the validation split.

    Returns:
        Plain values.
    """
    return {
        "class_names": list(dataset.classes),
        "recipe": recipe.model_dump() if recipe else None,
        "preparation": {**vars(preparation), "mean": list(preparation.mean), "std": list(preparation.std)},
        "split": split.fingerprint,
        "split_seed": split_seed,
        "salun": __version__,
    }
