"""A model's outputs on every set, and the metrics computed from them."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from salun.data.sets import Sets
from salun.device import derived_seed, placed
from salun.experiments.base_model import fresh_model
from salun.experiments.context import ModelCache
from salun.experiments.problem import LoadedProblem
from salun.metrics import METRICS, Evaluation, Value, check_metrics, evaluate
from salun.metrics.evaluation import CORRUPTED_SETS
from salun.training.evaluate import predict

RANDOM_MODEL_SEED = derived_seed("random model")


def outputs_of(model: nn.Module, sets: Sets, seconds: float | None, passes: int | None = None) -> Evaluation:
    """Compute a model's outputs on every set, one forward pass an image.

    Args:
        model: on its device.
        sets: the images.
        seconds: what unlearning took; None for a base model.
        passes: image passes that it took, likewise.

    Returns:
        What all metrics are computed from.
    """
    concerned = {name: getattr(sets.corrupted, name) for name in CORRUPTED_SETS} if sets.corrupted else {}
    more: dict[str, Any] = {name: predict(model, images) for name, images in concerned.items()}
    return Evaluation(
        forget=predict(model, sets.forget),
        retain=predict(model, sets.retain),
        validation=predict(model, sets.validation),
        test=predict(model, sets.test),
        forgotten_test=predict(model, sets.forgotten_test),
        earlier=tuple(predict(model, images) for images in sets.earlier),
        seconds=seconds,
        passes=passes,
        **more,
    )


def base_outputs(loaded: LoadedProblem, cache: ModelCache) -> Evaluation:
    """Compute the outputs of a problem's base model, and of a model with random weights, once.

    Args:
        loaded: the problem.
        cache: keeps the outputs.

    Returns:
        The outputs; the base model stands as its own base.
    """

    def make() -> Evaluation:
        device, base = cache.context.device, loaded.base
        found = outputs_of(placed(base.restore(), device), loaded.sets, None)
        random = fresh_model(base.architecture, False, RANDOM_MODEL_SEED, device)
        found = replace(found, random=predict(random, loaded.sets.forget))
        return replace(found, base=found)

    return cache.get(("before", *loaded.problem.group), make)


def base_metrics(loaded: LoadedProblem, names: tuple[str, ...], cache: ModelCache) -> dict[str, Value]:
    """Compute the metrics of a problem's base model, once a base model, forget set and list of metrics.

    Args:
        loaded: the problem.
        names: which metrics; none for the default ones.
        cache: keeps the values.

    Returns:
        Values by name.
    """
    key = ("metrics before", *loaded.problem.group, names)
    return dict(cache.get(key, lambda: measure(base_outputs(loaded, cache), names).metrics))


def with_references(evaluation: Evaluation, before: Evaluation, retrained: Evaluation | None = None) -> Evaluation:
    """Put a model's outputs beside those of the models that it is compared with.

    Args:
        evaluation: of the model.
        before: of the base model, with a random model's.
        retrained: of the retrained model, if there is one.

    Returns:
        The outputs.
    """
    return replace(evaluation, random=before.random, base=replace(before, base=None), retrained=retrained)


@dataclass(frozen=True)
class Measured:
    """Metrics of one model.

    Attributes:
        metrics: values by name.
        details: matrices and values a layer, by name.
        diverged: whether the outputs hold anything but numbers; all values are then None.
    """

    metrics: dict[str, Value]
    details: dict[str, Any]
    diverged: bool


def measure(evaluation: Evaluation, names: tuple[str, ...], diverged: bool = False) -> Measured:
    """Compute those metrics that a model's outputs are enough for, unless the model diverged.

    Args:
        evaluation: a model's outputs; with or without a retrained model's.
        names: which metrics; none for the default ones.
        diverged: whether that is known already; else the outputs tell.

    Returns:
        The values; those that need a retrained model only where there is one.
    """
    able = [name for name in check_metrics(names) if METRICS[name].subject is Evaluation]
    if evaluation.retrained is None:
        able = [name for name in able if "retrained" not in METRICS[name].against]
    diverged = diverged or not all(bool(outputs.logits.isfinite().all()) for outputs in evaluation.sets.values())
    found = dict.fromkeys(able) if diverged or not able else evaluate(evaluation, tuple(able))
    return Measured(*split_tables(found), diverged)


def split_tables(found: dict[str, Any]) -> tuple[dict[str, Value], dict[str, Any]]:
    """Keep values that stand in a table's columns apart from matrices and values a layer.

    Args:
        found: by metric.

    Returns:
        The two.
    """
    details = {name: value for name, value in found.items() if METRICS[name].unit == "table"}
    return {name: value for name, value in found.items() if name not in details}, details
