"""A user's own model and images: copied, checked, and made into the task of a method or the outputs for metrics."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from salun.data.images import Images
from salun.device import derived_seed, pick_device, placed, seeded, seeded_globally
from salun.errors import SalunError, did_you_mean, enumerated, first_line
from salun.metrics import METRICS, Evaluation, Models, Runs, evaluate
from salun.models.build import untrained_copy
from salun.models.features import classifiers, mark_head
from salun.models.foreign import misfit
from salun.training.evaluate import Outputs, accuracy, predict
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime
from salun.unlearning import Task
from salun.unlearning.mask import Mask, check_mask

Build = Callable[[], nn.Module]

# Arguments of other functions that users give to `unlearn` and `retrain`.
_ELSEWHERE = {
    "augment": "Images.from_tensors, from_loader, from_dataset and from_folder take it",
    "keep": "saliency takes it",
    "metrics": "evaluate takes it",
}


def device_of(
    model: nn.Module, device: str | torch.device | None, name: str = "model", *, learns: bool = False
) -> torch.device:
    """Choose where to compute: the device that is asked for, or the model's own, which is checked.

    Raises:
        SalunError: it is no model, lacks weights or values, or is frozen and must learn; or there is no such device.
    """
    if not isinstance(model, nn.Module):
        raise SalunError(f"{name}: a {type(model).__name__}; must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise SalunError(f"{name}: a {type(model).__name__}; must be the torch.nn.Module that it was compiled from")
    kind, weights = type(model).__name__, dict(model.named_parameters())
    if not weights:
        raise SalunError(f"{name} {kind}: has no weights")
    for key, weight in weights.items():
        if is_lazy(weight) or weight.is_meta:
            reason = "of a lazy layer; run the model once" if is_lazy(weight) else "on the device meta; load them"
            raise SalunError(f"{name} {kind}: weight '{key}' has no values yet: it is {reason}")
    if learns and not any(weight.requires_grad for weight in weights.values()):
        raise SalunError(f"{name} {kind}: all weights are frozen; requires_grad must be True where they may move")
    return next(iter(weights.values())).device if device is None else pick_device(str(device))


def check_keywords(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse unknown settings that are arguments of another function, and say of which."""
    for key in given:
        if key in _ELSEWHERE and key not in known:
            raise SalunError(f"{where}: {key}=: is not taken here; {_ELSEWHERE[key]}")


def checked_recipe(recipe: Recipe | None) -> Recipe:
    """Give the recipe, or the default one."""
    if recipe is not None and not isinstance(recipe, Recipe):
        raise SalunError(f"recipe: a {type(recipe).__name__}; must be salun.Recipe(epochs=..., lr=...)")
    return recipe or Recipe()


def recipe_of(given: dict[str, Any]) -> Recipe:
    """Check the fields of a recipe."""
    for name in given:
        if name not in Recipe.model_fields:
            raise SalunError(f"retrain: {name}: unknown{did_you_mean(name, Recipe.model_fields)}")
    try:
        return Recipe(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        told = fault["msg"][0].lower() + fault["msg"][1:]
        raise SalunError(f"retrain: {fault['loc'][0]}={fault['input']!r}: {told}") from error


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """List the metrics that a user asks for."""
    if not isinstance(metrics, str | Sequence):
        raise SalunError(f"metrics: a {type(metrics).__name__}; must be a name or a list of names")
    return (metrics,) if isinstance(metrics, str) else tuple(metrics)


def check_callback(callback: object) -> None:
    """Refuse a callback that cannot be called."""
    if callback is not None and not callable(callback):
        raise SalunError(f"callback: a {type(callback).__name__}; must be a function of a Progress")


def copied(model: nn.Module, device: torch.device) -> nn.Module:
    """Copy a model to the device, in evaluation mode."""
    return placed(deepcopy(model), device).eval()


def untrained(model: nn.Module, build: Build | None, seed: int, device: torch.device) -> nn.Module:
    """Make an untrained model on the device: by a function of the user, or by drawing the weights of a copy anew."""
    with seeded_globally(seed, device):
        return placed((build or partial(untrained_copy, model))(), device)


def checked_build(build: Build | None, model: nn.Module, device: torch.device) -> None:
    """Refuse a function that makes no model of the given one's architecture."""
    if build is None:
        return
    if isinstance(build, nn.Module) or not callable(build):
        raise SalunError(f"fresh: a {type(build).__name__}; must be a class or function that makes a model: fresh=Net")
    try:
        built = untrained(model, build, 0, device)
    except Exception as error:  # a user's code may raise anything
        raise SalunError(f"fresh: cannot make a model: {first_line(error)}") from error
    device_of(built, None, "fresh")
    if fault := misfit(built.state_dict(), model.state_dict()):
        raise SalunError(f"fresh: makes a model unlike the one given: {fault}")


def moved(device: torch.device, sets: Mapping[str, Images | None]) -> list[Images]:
    """Check sets of images and bring them to the device, each store of pixels once.

    Args:
        device: where to.
        sets: by the name of the argument; "validation" may be None, which becomes an empty set.

    Returns:
        The sets in order.

    Raises:
        SalunError: one is no set of images or empty, they are not alike, or forget and retain set share images.
    """
    known = {name: images for name, images in sets.items() if images is not None or name != "validation"}
    for name, images in known.items():
        if not isinstance(images, Images):
            raise SalunError(f"{name}: a {type(images).__name__}; must be salun.Images, as Images.from_loader gives")
        if not len(images):
            raise SalunError(f"{name}: holds no images")
    checked = {name: images for name, images in known.items() if images is not None}
    _check_alike(checked)
    stores: dict[int, Any] = {}
    found = []
    for name in sets:
        images, given = sets[name], checked.get(name, next(iter(checked.values())))
        pixels = stores.get(id(given.pixels), given.pixels)
        if isinstance(pixels, torch.Tensor):
            pixels = stores[id(given.pixels)] = pixels.to(device)
        rows, labels = given.rows.to(pixels.device), given.labels.to(device)
        on_device = replace(given, pixels=pixels, rows=rows, labels=labels, device=device)
        found.append(on_device if images is not None else on_device.take(torch.empty(0, dtype=torch.int64)))
    return found


def _check_alike(sets: Mapping[str, Images]) -> None:
    """Refuse sets whose images or classes differ, and a forget and a retain set that share images."""
    for (one, first), (other, second) in combinations(sets.items(), 2):
        if first.pixels.shape[1:] != second.pixels.shape[1:]:
            shapes = [" x ".join(map(str, images.pixels.shape[1:])) for images in (first, second)]
            raise SalunError(f"{other}: images of {shapes[1]}, those of {one} of {shapes[0]}; must be alike")
        if first.classes and second.classes and first.classes != second.classes:
            held = [enumerated(images.classes) for images in (first, second)]
            raise SalunError(f"{other}: has the classes {held[1]}, but {one} {held[0]}; labels must mean the same")
    if {"forget", "retain"} <= sets.keys():
        if sets["forget"].view != sets["retain"].view:
            raise SalunError("forget and retain: differ in mean, std or augment; give both the same")
        if count := _shared(sets["forget"], sets["retain"]):
            raise SalunError(f"forget and retain: {count} images are in both; salun.split divides images in two")


def _shared(first: Images, second: Images) -> int:
    """Count the images of a set that lie at the same place in memory as one of another set."""
    places = []
    for images in (first, second):
        pixels, places_of = images.pixels, images.rows.cpu()
        if isinstance(pixels, Tensor):
            places_of = pixels.data_ptr() + places_of * pixels.stride(0) * pixels.element_size()
        elif first.pixels is not second.pixels:
            return 0
        places.append(places_of)
    return int(torch.isin(*places).sum())


def _doubts_about_sets(sets: Mapping[str, Images | None]) -> list[str]:
    """Say which sets that should hold unseen images share some with the training images."""
    lines = []
    for seen, unseen in product(("forget", "retain"), ("test", "validation")):
        one, other = sets[seen], sets[unseen]
        if one is not None and other is not None and (count := _shared(one, other)):
            lines.append(f"evaluate: {count} images of {unseen} are in {seen} too, but count as unseen")
    return lines


def _doubts_about_models(models: Mapping[str, nn.Module]) -> list[str]:
    """Say that the retrained model has the weights of another one."""
    states = {name: network.state_dict() for name, network in models.items()}
    gold, told = states.pop("retrained", None), "retrain a new model without the forget set"
    same = [name for name, state in states.items() if gold and _are_equal(state, gold)]
    return [f"evaluate: retrained has the same weights as {name}; {told}" for name in same]


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two models have the same weights."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _doubts_about_metrics(asked: Sequence[str], names: Sequence[str], given: Mapping[str, object]) -> list[str]:
    """Say, a line an argument, which metrics have no value for want of it or of several runs."""
    lacking: dict[str, list[str]] = {}
    for name in names if asked else ():
        found = METRICS[name]
        wanted = [*found.against, *["base"] * (found.subject is Models), *found.needs]
        for key in dict.fromkeys(wanted):
            if key in given and given[key] is None:
                lacking.setdefault(f"without {key}=", []).append(name)
        if found.subject is Runs and name in asked:
            lacking.setdefault("of one model; salun.run compares several runs", []).append(name)
    return [f"evaluate: no value of {enumerated(members)} {want}" for want, members in lacking.items()]


@torch.no_grad()
def class_count(model: nn.Module, *sets: Images, role: str = "model") -> int:
    """Count the classes of a model in evaluation mode, trying it on two images; every label must be one of them.

    Raises:
        SalunError: the model cannot take the images, gives no logits or no numbers, or has too few classes.
    """
    name, x = f"{role} {type(model).__name__}", next(sets[0].batches(2)).x
    try:
        logits = model(x)
    except Exception as error:  # a user's model may raise anything
        raise SalunError(f"{name}: cannot take images of shape {tuple(x.shape)}: {first_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(x):
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise SalunError(f"{name}: gives {given} for {len(x)} images; must give logits (N, classes)")
    if not bool(logits.isfinite().all()):
        raise SalunError(f"{name}: its outputs are no numbers; did its training diverge?")
    highest = max(int(images.labels.max()) for images in sets)
    if highest >= logits.shape[1]:
        raise SalunError(f"{name}: gives {logits.shape[1]} logits, but the images have label {highest}")
    return logits.shape[1]


def tried(network: nn.Module, device: torch.device, name: str, sets: Sequence[Images]) -> nn.Module:
    """Copy a network that takes the images and knows their classes."""
    device_of(network, None, name)
    copy = copied(network, device)
    class_count(copy, *sets, role=name)
    return copy


def _forgotten_classes(forget: Images, retain: Images) -> tuple[int, ...]:
    """List the classes that are forgotten as a whole: those of which no image is retained."""
    return tuple(sorted(set(forget.labels.tolist()) - set(retain.labels.tolist())))


def make_task(
    model: nn.Module,
    sets: Sequence[Images],
    runtime: Runtime,
    *,
    mask: Mask | None,
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
        mask: of the weights that may move, all of them; or None.
        head: name of the layer that gives the logits; None finds it where it can.
        build: makes an untrained model; None draws the weights of a copy anew.
        recipe: by which the method "retrain" trains.
        seed: of all randomness.

    Returns:
        The task, on a copy of the model.

    Raises:
        SalunError: model, images, mask and builder do not fit together, or there is no such head.
    """
    forget, retain, validation = sets
    device = forget.device
    copy = copied(model, device)
    classes = class_count(copy, forget, retain)
    checked_build(build, copy, device)
    if mask is not None:
        check_mask(mask, dict(copy.named_parameters()))
    if head is not None and not isinstance(head, str):
        raise SalunError(f"head={head!r}: must be the name of a layer")
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
        recipe=checked_recipe(recipe),
        fresh=partial(built, "fresh weights"),
        untrained=partial(built, "random teacher"),
        generator=seeded(seed, device),
        runtime=runtime,
    )


def _evaluation_sets(forget: Images, retain: Images, validation: Images, test: Images) -> dict[str, Images]:
    """Name the sets that metrics look at; forgotten classes are taken out of validation and test images."""
    classes = torch.tensor(_forgotten_classes(forget, retain), dtype=torch.int64, device=forget.device)

    def parted(images: Images) -> tuple[Images, Images]:
        gone = torch.isin(images.labels, classes)
        return images.take((~gone).nonzero().flatten()), images.take(gone.nonzero().flatten())

    kept, gone = parted(test)
    sets = {"forget": forget, "retain": retain, "validation": parted(validation)[0]}
    return sets | {"test": kept, "forgotten_test": gone}


def _outputs_on(name: str, model: nn.Module, sets: dict[str, Images]) -> Evaluation:
    """Compute a model's outputs on every set, which must be numbers."""
    forget, retain, validation, test, gone = (predict(model, images) for images in sets.values())
    found = Evaluation(forget, retain, validation, test, gone)
    for title, outputs in found.sets.items():
        if not bool(outputs.logits.isfinite().all()):
            raise SalunError(f"{name} {type(model).__name__}: its outputs on {title} images are no numbers")
    return found


def _doubts_about_head(model: nn.Module, names: tuple[str, ...]) -> list[str]:
    """Tell which metrics have no value because the head of a model is not known, in a line."""
    blind = [name for name in names if METRICS[name].head and not classifiers(model)]
    lacking = f"no linear layer gives its logits, so it has no {', '.join(blind)}; name its last layer with head="
    return [f"model {type(model).__name__}: {lacking}"] if blind else []


def weighed(
    models: dict[str, nn.Module], sets: list[Images], recipe: Recipe, seed: int
) -> Iterator[tuple[str, Models]]:
    """Put each model beside those that it is compared with; a retrained model is not compared with itself."""
    forget, retain, test, validation = sets
    images = _evaluation_sets(forget, retain, validation, test)
    for name, network in models.items():
        gold = None if name == "retrained" else models.get("retrained")
        unseen = images["test"], images["forgotten_test"]
        yield name, Models(network, models["base"], gold, forget, retain, recipe, seed, *unseen)


def measured(
    models: dict[str, nn.Module],
    sets: list[Images],
    names: tuple[str, ...],
    random: Outputs | None,
    cost: tuple[float | None, int | None],
    floor: float,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Compute the metrics of each model's outputs; a retrained model is not compared with itself.

    Args:
        models: by the name of the argument.
        sets: forget, retain, test and validation set.
        names: of metrics.
        random: outputs of an untrained model on the forget set.
        cost: seconds and image passes of unlearning.
        floor: points of RA; a retrained model that lost more against the base model is doubted.

    Returns:
        Values by model and metric, and a line where the retrained model is doubted.
    """
    forget, retain, test, validation = sets
    images = _evaluation_sets(forget, retain, validation, test)
    found = {name: _outputs_on(name, network, images) for name, network in models.items()}
    doubts = []
    if "base" in found and "retrained" in found:
        points = 100 * (accuracy(found["base"].retain) - accuracy(found["retrained"].retain))
        told = f"lost {points:.1f} points of RA against the base model: no gold standard; train it longer"
        doubts = [f"evaluate: the retrained model {told}"] if points > floor else []
    found["model"] = replace(found["model"], seconds=cost[0], passes=cost[1])
    base, retrained, columns = found.get("base"), found.get("retrained"), {}
    for name, outputs in found.items():
        gold = None if name == "retrained" else retrained
        columns[name] = evaluate(replace(outputs, base=base, retrained=gold, random=random), names)
    return columns, doubts


def doubts_of_evaluation(
    given: Mapping[str, Images | None],
    models: Mapping[str, nn.Module],
    asked: tuple[str, ...],
    names: tuple[str, ...],
) -> list[str]:
    """Say what a user might not expect of an evaluation.

    Args:
        given: images by the name of the argument.
        models: that are evaluated, likewise.
        asked: names of metrics and groups, as the user gave them.
        names: of the metrics.

    Returns:
        Lines; none where nothing is unusual.
    """
    known = {**dict.fromkeys(("base", "retrained")), **models, **given}
    lines = [*_doubts_about_sets(given), *_doubts_about_models(models), *_doubts_about_metrics(asked, names, known)]
    return lines + _doubts_about_head(models["model"], names)
