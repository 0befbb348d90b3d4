"""How far a model's weights lie from those of the base model and of the retrained one."""

import math

from torch import Tensor, nn

from salun.metrics import Models, Value, metric

_Layered = tuple[Value, dict[str, float | None]]


@metric("weight_distance_base", "weight_distance_base_layers", unit=("", "table"), cost="weights", against=("base",))
def distance_to_base(models: Models) -> _Layered:
    """Distance of the weights to the base model's, as a share of their length: of all together, and of each tensor.

    Formula:
        ||w - w0|| / ||w0||, the Euclidean norm over all weights w of the model and w0 of the base model, or over
        those of one parameter; summed in float64.

    Cannot see:
        What the change does: a few weights of the head change every prediction, many others none. Nor statistics of
        batch normalisation, which are no weights.

    Returns:
        The distance, 0 where no weight moved, 1 where all became zero; good when it equals the retrained model's.

    Source:
        Layer-wise distance of weights: Tarun et al., "Fast Yet Effective Machine Unlearning", arXiv 2111.08947;
        taken relative to the base model here, so that layers of every size compare.
    """
    return _relative_distance(models.model, models.base)


@metric(
    "weight_distance_retrained", "weight_distance_retrained_layers", unit=("", "table"), direction="lower", ideal="0",
    cost="weights", against=("retrained",),
)  # fmt: skip
def distance_to_retrained(models: Models) -> _Layered:
    """Distance of the weights to the retrained model's, as a share of their length: of all, and of each tensor.

    Formula:
        ||w - wr|| / ||wr||, as `weight_distance_base`, with wr the weights of the retrained model.

    Cannot see:
        That models which do the same may have other weights: two that were trained from different seeds lie far
        apart, whether or not one of them forgot anything. Otherwise what `weight_distance_base` cannot.

    Source:
        As `weight_distance_base`; to a retrained model: Wu et al., "DeltaGrad", ICML 2020.
    """
    assert models.retrained is not None
    return _relative_distance(models.model, models.retrained)


def _relative_distance(model: nn.Module, reference: nn.Module) -> _Layered:
    """Compare the weights of two models of one architecture, frozen ones too."""
    origin = dict(reference.named_parameters())
    squares = {name: _moved_and_whole(weight, origin[name]) for name, weight in model.named_parameters()}
    moved, whole = (math.fsum(part) for part in zip(*squares.values(), strict=True))
    return _root_ratio(moved, whole), {name: _root_ratio(*pair) for name, pair in squares.items()}


def _moved_and_whole(weight: Tensor, origin: Tensor) -> tuple[float, float]:
    """Sum squares in float64, on the CPU: not every device has it."""
    after, before = (tensor.detach().cpu().double() for tensor in (weight, origin))
    return float((after - before).square().sum()), float(before.square().sum())


def _root_ratio(moved: float, whole: float) -> Value:
    """Divide two lengths."""
    if not math.isfinite(moved + whole):
        return None
    if whole == 0:
        return 0.0 if moved == 0 else None
    return math.sqrt(moved / whole)
