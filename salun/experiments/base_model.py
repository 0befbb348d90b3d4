"""Base models: which one an experiment names, what is known of it, and whether it fits the data."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from salun import __version__
from salun.data.corruption import Corruption
from salun.data.dataset import Dataset
from salun.data.sets import prepare
from salun.data.split import Split
from salun.data.transforms import Preparation
from salun.device import placed, seeded_globally
from salun.errors import SalunError
from salun.experiments.config import Experiment
from salun.io.files import name_part
from salun.models.architecture import TINY, Architecture
from salun.models.build import build
from salun.models.checkpoint import CODE, Checkpoint, load_checkpoint
from salun.models.own import code_of
from salun.models.pretrained import pretrained_size
from salun.training.recipe import Recipe, default_recipe

FOLDER = "folder:"
_BY_WEIGHTS = "weights "


@dataclass(frozen=True)
class BaseModelSpec:
    """Where a base model comes from, as far as is known before any data are read.

    Attributes:
        path: its checkpoint, which may still have to be trained.
        model: timm's name.
        dataset: the data set's name.
        recipe: how it is or was trained; None where the checkpoint does not say.
        split_seed: of its validation split.
        identity: tells it from other base models: its weights and what they never saw, or how they came about.
        checkpoint: its content, where the file was there when it was looked for.
        moved_to: name of the data set as it lies now; None where it lies where the model was trained.
        corruption: of the images that it learns; None where they are as they lie on disk.
    """

    path: Path
    model: str
    dataset: str
    recipe: Recipe | None
    split_seed: int
    identity: str
    checkpoint: Checkpoint | None = None
    moved_to: str | None = None
    corruption: Corruption | None = None

    @property
    def by_weights(self) -> bool:
        """Whether its weights are its identity: the user named the file, or its record does not tell their origin."""
        return self.identity.startswith(_BY_WEIGHTS)

    @property
    def known_recipe(self) -> Recipe:
        """Its recipe, or the data set's default where none is recorded."""
        return self.recipe or default_recipe(self.dataset)

    @property
    def excluded(self) -> torch.Tensor:
        """(K,) training indices that it was never trained on."""
        return torch.tensor(self.checkpoint.excluded if self.checkpoint else (), dtype=torch.int64)


@contextmanager
def hinting_at_moves(spec: BaseModelSpec) -> Iterator[None]:
    """Say how to name the folder that the images of a checkpoint lie in now, where it cannot be read.

    Args:
        spec: of the checkpoint.

    Yields:
        Nothing.

    Raises:
        SalunError: as the block does.
    """
    try:
        yield
    except SalunError as error:
        if spec.checkpoint is None or spec.moved_to is not None or not spec.dataset.startswith(FOLDER):
            raise
        advice = f"if the images of {spec.path} have moved, --dataset folder:NEW names their place"
        raise SalunError(f"{error}; {advice}") from error


def recipe_identity(
    model: str, dataset: str, recipe: Recipe | None, split_seed: int, corruption: Corruption | None = None
) -> str:
    """Identify a base model by how it is trained.

    Args:
        model: timm's name.
        dataset: the data set's name.
        recipe: how it is trained.
        split_seed: of its validation split.
        corruption: of the images that it learns, whatever part of these is found.

    Returns:
        A text.
    """
    described: list[Any] = [model, dataset, recipe.model_dump() if recipe else None, split_seed]
    described += [] if corruption is None else [corruption.described()]
    return f"recipe {hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]}"


def weights_identity(checkpoint: Checkpoint) -> str:
    """Identify a base model by its weights, and by what they never saw.

    Args:
        checkpoint: the base model.

    Returns:
        A text.
    """
    unseen = checkpoint.excluded
    without = f" without {hashlib.sha256(str(unseen).encode()).hexdigest()[:8]}" if unseen else ""
    return f"{_BY_WEIGHTS}{checkpoint.fingerprint}{without}"


def find_spec(experiment: Experiment, folder: Path) -> BaseModelSpec:
    """Find the base model that an experiment names, trained or not.

    Args:
        experiment: names a checkpoint, or a model and a data set.
        folder: of base models.

    Returns:
        The base model.

    Raises:
        SalunError: the checkpoint cannot be read, holds weights that are no numbers, or contradicts the experiment.
    """
    spec = _named_spec(experiment) if experiment.checkpoint else _trained_spec(experiment, folder)
    if spec.checkpoint is not None and not spec.checkpoint.is_finite:
        raise SalunError(f"{spec.path}: weights that are no numbers: the model diverged")
    return spec


def _named_spec(experiment: Experiment) -> BaseModelSpec:
    """Find the base model of an experiment that names its file."""
    assert experiment.checkpoint is not None
    spec = saved_spec(experiment.checkpoint, experiment.recipe)
    if spec.checkpoint is not None and "corrupt" in spec.checkpoint.config:
        instead = "give model, dataset and corrupt in its place"
        raise SalunError(f"checkpoint: {experiment.checkpoint}: was trained on corrupted images; {instead}")
    if experiment.recipe is not None and experiment.recipe != spec.recipe:
        raise SalunError(f"recipe: {experiment.checkpoint} records another recipe; leave the key out")
    if experiment.dataset is not None and not spec.dataset.startswith(FOLDER):
        where = f"{experiment.checkpoint} was trained on '{spec.dataset}'"
        raise SalunError(f"dataset: {where}; only images of a folder may lie elsewhere now")
    return replace(spec, moved_to=experiment.dataset)


def _trained_spec(experiment: Experiment, folder: Path) -> BaseModelSpec:
    """Find the base model of an experiment that names model and data set."""
    model, dataset, split_seed = str(experiment.model), str(experiment.dataset), experiment.split_seed
    recipe, seed, corruption = experiment.recipe, experiment.base_seed, experiment.corruption
    if recipe is None and corruption is not None:
        recipe = default_recipe(dataset)
    if recipe is None:
        path = checkpoint_path(folder, model, dataset, "base" if split_seed == 0 else f"base-split{split_seed}")
        plain = _plain_spec(path, model, dataset, split_seed)
        if seed is None or plain.recipe is None or plain.recipe.seed == seed:
            return plain
        recipe = plain.recipe
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    identity = recipe_identity(model, dataset, recipe, split_seed, corruption)
    kind = "" if corruption is None else f"{corruption.kind}-"
    path = checkpoint_path(folder, model, dataset, f"base-{kind}{identity[-8:]}")
    checkpoint = load_checkpoint(path) if path.exists() else None
    return BaseModelSpec(path, model, dataset, recipe, split_seed, identity, checkpoint, corruption=corruption)


def _plain_spec(path: Path, model: str, dataset: str, split_seed: int) -> BaseModelSpec:
    """Find the base model that no recipe is asked for: `..._base.pt` as it is, or by the default recipe."""
    recipe = default_recipe(dataset)
    if not path.exists():
        identity = recipe_identity(model, dataset, recipe, split_seed)
        return BaseModelSpec(path, model, dataset, recipe, split_seed, identity)
    found = saved_spec(path)
    held, asked = (found.model, found.dataset, found.split_seed), (model, dataset, split_seed)
    if held != asked:  # the names of two data sets may look alike in a file name
        texts = [f"{name} on {data} with split_seed {seed}" for name, data, seed in (held, asked)]
        raise SalunError(f"{path}: holds {texts[0]}, not {texts[1]}; name it by 'checkpoint', or move it away")
    checkpoint = found.checkpoint
    if checkpoint is None or checkpoint.excluded or "unlearned" in checkpoint.config or found.recipe is None:
        return found
    return replace(found, identity=recipe_identity(model, dataset, found.recipe, split_seed))


def saved_spec(path: Path, recipe: Recipe | None = None) -> BaseModelSpec:
    """Read from a checkpoint what base model it is.

    Args:
        path: the checkpoint.
        recipe: stands in where the checkpoint records none.

    Returns:
        The base model, whose weights are its identity.

    Raises:
        SalunError: the file cannot be read, or records a recipe that is none.
    """
    checkpoint = load_checkpoint(path)
    recorded = checkpoint.config.get("recipe")
    try:
        known = Recipe(**recorded) if recorded is not None else recipe
    except (ValidationError, TypeError) as error:
        raise SalunError(f"{path}: records no usable recipe") from error
    seed, identity = checkpoint.config.get("split_seed", 0), weights_identity(checkpoint)
    return BaseModelSpec(path, checkpoint.architecture.model, checkpoint.dataset, known, seed, identity, checkpoint)


def checkpoint_path(folder: Path, model: str, dataset: str, comment: str) -> Path:
    """Name a checkpoint.

    Args:
        folder: of checkpoints.
        model: timm's name.
        dataset: the data set's name.
        comment: what sets this model apart.

    Returns:
        `folder/{model}_{dataset}_{comment}.pt`.
    """
    return folder / f"{name_part(model)}_{name_part(dataset)}_{name_part(comment)}.pt"


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


def preparation_of(checkpoint: Checkpoint, dataset: Dataset, split: Split) -> Preparation:
    """Find how a checkpoint's model wants its images.

    Args:
        checkpoint: the model.
        dataset: the data.
        split: of the data, for a checkpoint that records no preparation.

    Returns:
        The preparation.

    Raises:
        SalunError: what is recorded is no preparation.
    """
    recorded = checkpoint.config.get("preparation")
    if recorded is None:
        size = checkpoint.architecture.size
        return prepare(dataset, split, size if size != dataset.size else None)
    unusable = f"checkpoint of {checkpoint.architecture.model}: records no usable preparation"
    try:
        found = TypeAdapter(Preparation).validate_python(recorded)
    except ValidationError as error:
        raise SalunError(unusable) from error
    sides = found.resize is None or found.resize > 0
    if not sides or found.padding < 0 or not len(found.mean) == len(found.std) == dataset.channels:
        raise SalunError(unusable)
    return found


def check_belongs(spec: BaseModelSpec, dataset: Dataset, split: Split) -> None:
    """Check that a checkpoint was trained on these data under this very split.

    Args:
        spec: the base model.
        dataset: the data.
        split: of the data.

    Raises:
        SalunError: images, classes or split differ from what the checkpoint records.
    """
    checkpoint = spec.checkpoint
    if checkpoint is None:
        return
    own, name = checkpoint.architecture, f"'{dataset.name}'"
    if own.classes != len(dataset.classes):
        raise SalunError(f"{spec.path}: has {own.classes} classes, {name} {len(dataset.classes)}")
    if own.channels != dataset.channels:
        raise SalunError(f"{spec.path}: has {own.channels} colour channels, {name} {dataset.channels}")
    if "preparation" in checkpoint.config:
        side = preparation_of(checkpoint, dataset, split).resize or dataset.size
        if side != own.size:
            now = f"was trained on images of {own.size} x {own.size} pixels, {name} gives {side} x {side}"
            raise SalunError(f"{spec.path}: {now}; folder:PATH:size={own.size} gives those")
    names = checkpoint.config.get("class_names")
    if names is not None and names != list(dataset.classes):
        raise SalunError(f"{spec.path}: was trained on other class names than {name} has")
    recorded = checkpoint.config.get("split")
    if recorded is not None and recorded != split.fingerprint:
        what = f"was trained on another split of {name} ({recorded}) than these data give ({split.fingerprint})"
        raise SalunError(f"{spec.path}: {what}; the data have changed since")


def checkpoint_config(
    model: str, dataset: Dataset, recipe: Recipe | None, preparation: Preparation, split: Split
) -> dict[str, Any]:
    """Gather what a checkpoint records beside weights and architecture.

    Args:
        model: name of the architecture.
        dataset: the data.
        recipe: how the model, or its base model, was trained; None where that is unknown.
        preparation: how its images are prepared.
        split: of the data.

    Returns:
        Plain values.
    """
    code = code_of(model)
    return ({} if code is None else {CODE: code}) | {
        "class_names": list(dataset.classes),
        "recipe": recipe.model_dump() if recipe else None,
        "preparation": {**vars(preparation), "mean": list(preparation.mean), "std": list(preparation.std)},
        "split": split.fingerprint,
        "split_seed": split.seed,
        "salun": __version__,
        **({"corrupt": dataset.corrupted.described} if dataset.corrupted else {}),
    }
