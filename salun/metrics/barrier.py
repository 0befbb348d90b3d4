"""What lies between a model and another on the straight line from weights to weights."""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Images
from salun.metrics import Models, Value, metric
from salun.metrics.evaluation import spread
from salun.training.evaluate import predict

_STEPS = 4

_Barrier = tuple[Value, Value, dict[str, float | None] | None]


@metric(
    "barrier_base", "barrier_base_loss", "barrier_base_curve", unit=("%", "nats", "table"), cost="weights",
    against=("base",), gone=True,
)  # fmt: skip
def barrier_to_base(models: Models) -> _Barrier:
    """Linear mode connectivity to the base model: the barrier in accuracy and in loss on the line between them.

    Formula:
        The largest over t = 0, 0.25 .. 1 of (1 - t) a(w) + t a(w0) - a((1 - t) w + t w0), with a the accuracy on the
        retain set, w the model's weights and statistics of batch normalisation, and w0 the base model's; and of
        L((1 - t) w + t w0) - (1 - t) L(w) - t L(w0), with L the mean cross-entropy. At most 2,000 retain images, evenly
        spaced in the order of their indices.

    Cannot see:
        Anything forgotten by small steps: no barrier says that the model stayed in the base model's basin, from where
        it relearns fast, not that it remembers. Statistics of batch normalisation that are averaged fit no model
        half-way, which makes every barrier larger.

    Returns:
        Accuracy, nats, and the accuracy by t; at least 0, 0 of models that are linearly connected.

    Source:
        Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020; of unlearned models in
        Siddiqui et al., "From Dormant to Deleted", arXiv 2505.22310.
    """
    return _barrier(models.model, models.base, models.retain)


@metric(
    "barrier_retrained", "barrier_retrained_loss", "barrier_retrained_curve", unit=("%", "nats", "table"),
    cost="weights", against=("retrained",), gone=True,
)  # fmt: skip
def barrier_to_retrained(models: Models) -> _Barrier:
    """Linear mode connectivity to the retrained model: the barrier in accuracy and in loss on the line between them.

    Formula:
        As `barrier_base`, with the retrained model in the place of the base model.

    Cannot see:
        That two retrained models lie in basins of their own: compare with the value between them. Otherwise what
        `barrier_base` cannot.

    Returns:
        Accuracy, nats, and the accuracy by t; at least 0.

    Source:
        As `barrier_base`.
    """
    assert models.retrained is not None
    return _barrier(models.model, models.retrained, models.retain)


def _barrier(model: nn.Module, other: nn.Module, images: Images) -> _Barrier:
    """Measure two models of one architecture and what lies between them."""
    if not len(images):
        return None, None, None
    images, ends, middle = spread(images), (model.state_dict(), other.state_dict()), deepcopy(model)
    shares = [step / _STEPS for step in range(_STEPS + 1)]
    right, losses = [], []
    for share in shares:
        middle.load_state_dict({name: _between(tensor, ends[1][name], share) for name, tensor in ends[0].items()})
        outputs = predict(middle, images)
        loss = float(F.cross_entropy(outputs.logits.double(), outputs.labels))
        losses.append(loss)
        right.append(math.nan if math.isnan(loss) else float(outputs.correct.double().mean()))
    curve: dict[str, float | None] = {f"{share:g}": value for share, value in zip(shares, right, strict=True)}
    return _height([-value for value in right]), _height(losses), curve


def _between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Go a share of the way from one tensor to another; counters stay the first's."""
    return torch.lerp(first, second, share) if first.is_floating_point() else first


def _height(values: list[float]) -> Value:
    """Find how far values on the line rise above the straight line between its ends."""
    if not all(map(math.isfinite, values)):
        return None
    steps = len(values) - 1
    chords = [((steps - step) * values[0] + step * values[-1]) / steps for step in range(steps + 1)]
    return max(0.0, *(value - chord for value, chord in zip(values, chords, strict=True)))
