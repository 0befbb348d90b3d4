"""Checkpoints made of weights that another program trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from salun.data.dataset import Dataset
from salun.data.sets import make_sets, prepare
from salun.data.split import ForgetRequest, Split, make_split
from salun.data.transforms import Preparation
from salun.device import placed
from salun.errors import SalunError
from salun.experiments.base_model import checkpoint_config, preparation_of
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint
from salun.models.features import classifiers
from salun.models.foreign import ForeignWeights, fit_weights, read_foreign
from salun.training.evaluate import accuracy, predict


@dataclass(frozen=True)
class ImportRequest:
    """What is known of foreign weights beside their file.

    Attributes:
        model: name of the architecture.
        mean: of each channel in [0, 1], that their images were normalised by; empty where it is not known.
        std: likewise.
        size: side in pixels that their images had; None for the data set's own.
        classes: class names in the order of their outputs; empty for the data set's order.
        averaged: whether the exponential moving average is taken.
    """

    model: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int | None = None
    classes: tuple[str, ...] = ()
    averaged: bool = False


def import_weights(path: Path, dataset: Dataset, request: ImportRequest) -> Checkpoint:
    """Make a checkpoint of foreign weights.

    Args:
        path: their file, as `read_foreign` takes it.
        dataset: that they were trained on.
        request: what else is known of them.

    Returns:
        The checkpoint, which records the file's digest and how its images are prepared, and no recipe or split.

    Raises:
        SalunError: the file cannot be read, the weights do not fit the model, or mean, std or classes the data.
    """
    found = read_foreign(path, request.averaged)
    split = make_split(dataset, ForgetRequest())
    preparation = _preparation_of(found, dataset, split, request)
    architecture, weights = _fitted(path, found, dataset, request)
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise SalunError(f"{path}: holds weights that are no numbers: the training diverged")
    config = checkpoint_config(request.model, dataset, None, preparation, split)
    del config["split"]  # which images they were trained on is not known
    config["imported"] = {"file": path.name, "sha256": found.digest, "key": found.holder}
    return Checkpoint(weights, architecture, dataset.name, config=config)


def accuracy_on_test(checkpoint: Checkpoint, dataset: Dataset, device: torch.device) -> float:
    """Measure a checkpoint on the whole test part of its data set, whose images are prepared as it records."""
    split = make_split(dataset, ForgetRequest())
    images = make_sets(dataset, split, preparation_of(checkpoint, dataset, split), device).test
    return accuracy(predict(placed(checkpoint.restore(), device), images))


def _fitted(
    path: Path, found: ForeignWeights, dataset: Dataset, request: ImportRequest
) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """Find the shape of the model that the weights fit: adapted to small images, or timm's own."""
    side = request.size or dataset.size
    faults = []
    for native in (False, True):
        architecture = Architecture(request.model, len(dataset.classes), dataset.channels, side, native)
        try:
            model = build(architecture)
            fitted = fit_weights(path, found, model)
        except SalunError as error:
            faults.append(error)
            continue
        model.load_state_dict(fitted.weights)
        _reorder(model, request.classes, dataset)
        return architecture, model.state_dict()
    raise faults[0]


def _reorder(model: nn.Module, classes: Sequence[str], dataset: Dataset) -> None:
    """Put the outputs of a model into the data set's order of classes, in place."""
    if not classes:
        return
    if sorted(classes) != sorted(dataset.classes):
        apart = sorted(set(classes) ^ set(dataset.classes))
        raise SalunError(f"--classes: must be the class names of '{dataset.name}'; {', '.join(apart[:4])} differ")
    heads = classifiers(model)
    if len(heads) != 1 or not isinstance(heads[0], nn.Linear):
        raise SalunError("--classes: the model's head is not one linear layer, whose outputs could be put in order")
    order = [classes.index(name) for name in dataset.classes]
    with torch.no_grad():
        for values in heads[0].parameters(recurse=False):
            values.copy_(values[order])


def _preparation_of(found: ForeignWeights, dataset: Dataset, split: Split, request: ImportRequest) -> Preparation:
    """Find how the images of foreign weights are prepared: as told, as their own layer says, or as ours are."""
    resize = request.size if request.size != dataset.size else None
    ours = prepare(dataset, split, resize)
    mean, std = request.mean or found.mean or ours.mean, request.std or found.std or ours.std
    for flag, values in (("--mean", mean), ("--std", std)):
        if len(values) != dataset.channels:
            raise SalunError(f"{flag}: {len(values)} values for images of {dataset.channels} channels")
    if min(std) <= 0:
        raise SalunError(f"--std {min(std):g}: must be greater than 0")
    return replace(ours, mean=mean, std=std)
