"""A user's own model and images: copied, checked, and made into the task of a method or the outputs for metrics."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.data.split import Choice, divide
from salun.device import derived_seed, pick_device, placed, seeded, seeded_globally
from salun.errors import SalunError
from salun.metrics import Evaluation
from salun.models.build import untrained_copy
from salun.models.features import mark_head
from salun.training.evaluate import predict
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime
from salun.unlearning import Task
from salun.unlearning.forget_choice import choose

Build = Callable[[], nn.Module]


def split(
    train: Images,
    *,
    classes: int | str | Sequence[int | str] = (),
    share: float | None = None,
    indices: Sequence[int] | Tensor | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    stratified: bool = False,
    choice: Choice = "random",
    model: nn.Module | None = None,
) -> tuple[Images, Images]:
    """Divide training images into those to forget and those to retain, by one of four ways to name them.

    Args:
        train: N images.
        classes: numbers or names of the classes to forget, all of their images.
        share: part of the images, in (0, 1), drawn with `seed` or chosen by a model.
        indices: positions from 0 to N - 1.
        names: of the images, as `Images.from_folder` gives them.
        seed: of the share.
        stratified: whether the share is taken of each class.
        choice: of the share: "random"; "memorized" or "easy", what the model has memorised most or least; or "worst",
            what is hardest to forget.
        model: the base model, trained on the images, where it chooses.

    Returns:
        The forget set and the retain set.

    Raises:
        SalunError: not exactly one way is given, an image or class is not there, nothing would be left of a set, or a
            choice lacks its model or share.

    Example:
        >>> forget, retain = split(Images.from_tensors(torch.rand(6, 1, 8, 8), [0, 1, 2] * 2), classes=[2])
        >>> len(forget), len(retain)
        (2, 4)
    """
    if choice != "random":
        if choice not in get_args(Choice):
            raise SalunError(f"split: choice='{choice}': must be one of {', '.join(get_args(Choice))}")
        if model is None or share is None or stratified:
            raise SalunError(f"split: choice='{choice}': needs model= and share=, without stratified=")
        if not 0 < share < 1:
            raise SalunError(f"split: share={share}: must be between 0 and 1")
        indices, share = _chosen(train, model, choice, round(share * len(train)), seed), None
    return divide(train, classes=classes, share=share, indices=indices, names=names, seed=seed, stratified=stratified)


def _chosen(train: Images, model: nn.Module, choice: Choice, count: int, seed: int) -> Tensor:
    """Let a user's model choose images: positions."""
    device = device_of(model, None)
    (images,) = moved(device, train)
    class_count(copied(model, device), images)
    with seeded_globally(seed, device):
        return choose(copied(model, device), images, choice, count, seeded(seed, device))


def device_of(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Choose where to compute: the device that is asked for, or the model's own."""
    if not isinstance(model, nn.Module):
        raise SalunError(f"model: a {type(model).__name__}; must be a torch.nn.Module")
    weight = next(model.parameters(), None)
    if weight is None:
        raise SalunError(f"model {type(model).__name__}: has no weights")
    return weight.device if device is None else pick_device(str(device))


def copied(model: nn.Module, device: torch.device) -> nn.Module:
    """Copy a model to the device, in evaluation mode."""
    return placed(deepcopy(model), device).eval()


def untrained(model: nn.Module, build: Build | None, seed: int, device: torch.device) -> nn.Module:
    """Make an untrained model on the device: by a function of the user, or by drawing the weights of a copy anew."""
    with seeded_globally(seed, device):
        return placed((build or partial(untrained_copy, model))(), device)


def moved(device: torch.device, *sets: Images | None) -> list[Images]:
    """Bring images to the device, each store of pixels once; None becomes an empty set of the first's kind."""
    stores: dict[int, Any] = {}
    found = []
    for images in sets:
        given = sets[0] if images is None else images
        if not isinstance(given, Images):
            raise SalunError(f"images: a {type(given).__name__}; must be salun.Images, as Images.from_loader gives")
        pixels = stores.get(id(given.pixels), given.pixels)
        if isinstance(pixels, torch.Tensor):
            pixels = stores[id(given.pixels)] = pixels.to(device)
        rows, labels = given.rows.to(pixels.device), given.labels.to(device)
        on_device = replace(given, pixels=pixels, rows=rows, labels=labels, device=device)
        found.append(on_device if images is not None else on_device.take(torch.empty(0, dtype=torch.int64)))
    return found


@torch.no_grad()
def class_count(model: nn.Module, *sets: Images) -> int:
    """Count the classes of a model in evaluation mode, trying it on two images; every label must be one of them.

    Raises:
        SalunError: a set is empty, or the model cannot take the images, gives no logits, or has too few classes.
    """
    if not all(map(len, sets)):
        raise SalunError("images: a set is empty")
    name, x = type(model).__name__, next(sets[0].batches(2)).x
    try:
        logits = model(x)
    except Exception as error:  # a user's model may raise anything
        reason = str(error).partition("\n")[0]
        raise SalunError(f"model {name}: cannot take images of shape {tuple(x.shape)}: {reason}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(x):
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise SalunError(f"model {name}: gives {given} for {len(x)} images; must give logits (N, classes)")
    highest = max(int(images.labels.max()) for images in sets)
    if highest >= logits.shape[1]:
        raise SalunError(f"model {name}: gives {logits.shape[1]} logits, but the images have label {highest}")
    return logits.shape[1]


def _forgotten_classes(forget: Images, retain: Images) -> tuple[int, ...]:
    """List the classes that are forgotten as a whole: those of which no image is retained."""
    return tuple(sorted(set(forget.labels.tolist()) - set(retain.labels.tolist())))


def make_task(
    model: nn.Module,
    sets: tuple[Images, Images, Images],
    runtime: Runtime,
    *,
    head: str | None,
    build: Build | None,
    recipe: Recipe | None,
    seed: int,
) -> Task:
    """Make the task of a method from a user's model and images.

    Args:
        model: the base model; it is left as it is.
        sets: forget, retain and validation set, on the device.
        runtime: precision, callback and budget.
        head: name of the layer that gives the logits; None finds it where it can.
        build: makes an untrained model; None draws the weights of a copy anew.
        recipe: by which the method "retrain" trains.
        seed: of all randomness.

    Returns:
        The task, on a copy of the model.

    Raises:
        SalunError: model and images do not fit together, or there is no such head.
    """
    forget, retain, validation = sets
    device = forget.device
    copy = copied(model, device)
    classes = class_count(copy, forget, retain)
    mark_head(copy, next(forget.batches(1)).x, head)

    def built(purpose: str) -> nn.Module:
        return untrained(model, build, derived_seed(purpose, seed), device)

    return Task(
        model=copy,
        forget=forget,
        retain=retain,
        validation=validation,
        classes=classes,
        forgotten=_forgotten_classes(forget, retain),
        recipe=recipe or Recipe(),
        fresh=partial(built, "fresh weights"),
        untrained=partial(built, "random teacher"),
        generator=seeded(seed, device),
        runtime=runtime,
    )


def evaluation_sets(forget: Images, retain: Images, validation: Images, test: Images) -> dict[str, Images]:
    """Name the sets that metrics look at; forgotten classes are taken out of validation and test images."""
    classes = torch.tensor(_forgotten_classes(forget, retain), dtype=torch.int64, device=forget.device)

    def parted(images: Images) -> tuple[Images, Images]:
        gone = torch.isin(images.labels, classes)
        return images.take((~gone).nonzero().flatten()), images.take(gone.nonzero().flatten())

    kept, gone = parted(test)
    sets = {"forget": forget, "retain": retain, "validation": parted(validation)[0]}
    return sets | {"test": kept, "forgotten_test": gone}


def outputs_on(model: nn.Module, sets: dict[str, Images]) -> Evaluation:
    """Compute a model's outputs on every set."""
    forget, retain, validation, test, gone = (predict(model, images) for images in sets.values())
    return Evaluation(forget, retain, validation, test, gone)
