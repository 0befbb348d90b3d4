"""How fast a model learns again what it was to forget."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
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
_RETAIN_EPOCHS = 5
_SHOWN = 10
_ORDERS = 3
_SLOWER = 10
_SMALLEST_LOSS = 1e-4

_Curved = tuple[Value, dict[str, float | None] | None]


@metric("relearn_time", unit="epochs", cost="weights", against=("base",), gone=True, revised="0.2.0")
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
    return _after_epochs(model, images, recipe, _EPOCHS - 1, seed, lambda: _loss_of(predict(model, images)))


def _after_epochs(
    model: nn.Module, images: Images, recipe: Recipe, epochs: int, seed: int, measure: Callable[[], float]
) -> list[float]:
    """Train a model on images in place, and measure after each epoch; NaN for epochs that a diverged one lacks."""
    generator = seeded(seed, images.device)
    measured: list[float] = []

    def stream(epoch: int) -> Iterator[Batch]:
        if epoch:
            measured.append(measure())
        return images.batches(even_sizes(len(images), recipe.batch_size), generator)

    rate, momentum, decay = recipe.lr / _SLOWER, recipe.momentum, recipe.weight_decay
    config = TrainingConfig(rate, epochs, momentum=momentum, weight_decay=decay)
    with seeded_globally(seed, images.device):
        # Unless frozen, a few images, or those of one class, would make the base model itself forget them.
        steps = frozen_norms(model.requires_grad_(True), stream)
        fit(model, steps, config, Runtime(recipe.precision))
    measured.append(measure())
    return measured + [math.nan] * (epochs - len(measured))


@metric("relearn_retain", "relearn_retain_curve", unit=("%", "table"), cost="weights", gone=True)
def relearned_from_retain(models: Models) -> _Curved:
    """Accuracy on the forget set that a copy of the model regains when it is trained on retain images alone.

    Formula:
        Share of the forget images that the copy classifies right, in the mean over what it does after each of 5 epochs
        on retain images, trained as `relearn_time` says. At most 2,000 images of either set, evenly spaced in the
        order of their indices.

    Cannot see:
        What the retain images teach by themselves: in random forgetting a retrained model has about its test
        accuracy. More epochs, another learning rate, or new statistics of batch normalisation, which are frozen here.

    Returns:
        The mean accuracy, and the curve: by epoch, from 0.

    Source:
        Siddiqui et al., "From Dormant to Deleted: Tamper-Resistant Unlearning Through Weight-Space Regularization",
        arXiv 2505.22310, who train longer and look at the last epoch: here the mean tells how fast it comes back.
    """
    return _relearned(models, 0)


@metric("relearn_few", "relearn_few_curve", unit=("%", "table"), cost="weights", gone=True)
def relearned_from_few(models: Models) -> _Curved:
    """Accuracy on forget images that a copy of the model regains from retain images and 10 other forget images.

    Formula:
        As `relearn_retain`, with 10 evenly spaced forget images, half of them where there are fewer than 20, among
        the images that are trained on, repeated until they are as many as the retain images of a class in the mean.
        The accuracy is that on all other forget images.

    Cannot see:
        What the 10 images teach a model that never saw the others, which is why it is compared with the retrained
        model's value. Otherwise what `relearn_retain` cannot.

    Returns:
        The mean accuracy, and the curve: by epoch, from 0. None of fewer than 2 forget images.

    Source:
        As `relearn_retain`.
    """
    shown = min(_SHOWN, len(models.forget) // 2)
    return _relearned(models, shown) if shown else (None, None)


def _relearned(models: Models, shown: int) -> _Curved:
    """Train a copy on retain images and so many forget images; the accuracy on the others, epoch by epoch."""
    forget, retain = spread(models.forget), spread(models.retain)
    given = torch.arange(shown, device=forget.device) * len(forget) // max(shown, 1)
    others = torch.ones(len(forget), dtype=torch.bool, device=forget.device).index_fill(0, given, False)
    asked = forget.take(others.nonzero()[:, 0])
    if not len(asked) or not len(retain):
        return None, None
    if shown:
        times = max(1, len(retain) // (max(len(retain.labels.unique()), 1) * shown))
        retain = retain.join(forget.take(given.repeat(times)))
    model = deepcopy(models.model)

    def known() -> float:
        outputs = predict(model, asked)
        return math.nan if bool(outputs.logits.isnan().any()) else float(outputs.correct.float().mean())

    start = known()
    curve = [start, *_after_epochs(model, retain, models.recipe, _RETAIN_EPOCHS, models.seed, known)]
    return math.fsum(curve[1:]) / _RETAIN_EPOCHS, {str(epoch): value for epoch, value in enumerate(curve)}
