"""How fast a model learns again what it was to forget."""

import math
from collections.abc import Iterator
from copy import deepcopy

import torch.nn.functional as F
from torch import nn

from salun.data.images import Batch, Images, even_sizes
from salun.device import seeded, seeded_globally
from salun.metrics import Models, Value, metric
from salun.metrics.evaluation import spread
from salun.training.evaluate import Outputs, predict
from salun.training.loop import fit
from salun.training.recipe import Recipe, TrainingConfig
from salun.training.runtime import Runtime
from salun.training.step import frozen_norms

_EPOCHS = 10
_ORDERS = 3
_SLOWER = 10
_SMALLEST_LOSS = 1e-4


@metric("relearn_time", unit="epochs", cost="weights", against=("base",), revised="0.2.0")
def relearn_time(models: Models) -> Value:
    """Epochs by which a copy of the model, trained on the forget set, stays behind the base model's loss on it.

    Formula:
        Mean over 3 orders of the batches of the sum over e = 0 .. 9 of s_e, with s_e = ln(L_e / L_0) / ln(ln C / L_0),
        cut to [0, 1]: how far the copy is behind after e epochs, 0 at the base model's loss L_0, 1 at that of a guess
        among C classes. L is the mean cross-entropy on the forget set in evaluation mode, at least 1e-4. The copy is
        trained on the forget set alone by SGD with momentum, weight decay and precision of the base model's recipe,
        at a tenth of its learning rate, held constant, in batches of at most its size that differ by 1 image at
        most; batch normalisation keeps its statistics. At most 2,000 forget images, evenly spaced in the order of
        their indices.

    Cannot see:
        How much of it is the loss before the first epoch, and how much the speed; what the retain set loses
        meanwhile; anything beyond 10 epochs, or above the loss of a guess, where every model is 1 behind. In random
        forgetting retrained models have nearly the base model's loss, so that of few forget images a single hard
        one decides: compare several seeds. It depends on the learning rate; a recipe of Adam gives a rate that SGD
        learns slowly with.

    Returns:
        From 0 to 10 epochs; None where a model's logits are no numbers, or the base model is no better than a guess.

    Source:
        The time until the loss on the forget set is below a threshold in Golatkar et al., "Forgetting Outside the
        Box", ECCV 2020, whose code trains on all images; relative to the base model as in the anamnesis index of
        Chundawat et al., "Zero-Shot Machine Unlearning", IEEE TIFS 2023. The area under the curve is used here in
        place of the time at which it crosses the goal, which one image decides.
    """
    if not len(models.forget):
        return None
    images = spread(models.forget)
    before = predict(models.base, images)
    goal, start = _loss_of(before), _loss_of(predict(models.model, images))
    chance = math.log(max(before.logits.shape[1], 1))
    if not (goal < chance and math.isfinite(start)):
        return None

    def behind(loss: float) -> float:
        if not math.isfinite(loss):
            return 1.0
        return min(max(math.log(loss / goal) / math.log(chance / goal), 0.0), 1.0)

    seeds = [_ORDERS * models.seed + order for order in range(_ORDERS)]
    later = [loss for seed in seeds for loss in _losses_after(deepcopy(models.model), images, models.recipe, seed)]
    return behind(start) + math.fsum(map(behind, later)) / _ORDERS


def _loss_of(outputs: Outputs) -> float:
    """Compute the mean cross-entropy in float64, at least 1e-4."""
    return float(F.cross_entropy(outputs.logits.double(), outputs.labels).clamp_min(_SMALLEST_LOSS))


def _losses_after(model: nn.Module, images: Images, recipe: Recipe, seed: int) -> list[float]:
    """Train a model on images, and measure its loss on them after each epoch."""
    generator = seeded(seed, images.device)
    losses: list[float] = []

    def stream(epoch: int) -> Iterator[Batch]:
        if epoch:
            losses.append(_loss_of(predict(model, images)))
        return images.batches(even_sizes(len(images), recipe.batch_size), generator)

    rate, momentum, decay = recipe.lr / _SLOWER, recipe.momentum, recipe.weight_decay
    config = TrainingConfig(rate, _EPOCHS - 1, momentum=momentum, weight_decay=decay)
    with seeded_globally(seed, images.device):
        # Unless frozen, a few images, or those of one class, would make the base model itself forget them.
        steps = frozen_norms(model.requires_grad_(True), stream)
        fit(model, steps, config, Runtime(recipe.precision))
    losses.append(_loss_of(predict(model, images)))
    return losses + [math.nan] * (_EPOCHS - 1 - len(losses))
