from collections.abc import Iterator
from functools import partial
from itertools import count
from math import cos, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Batch
from salun.unlearning import NonNegativeFloat, Step, Task, TrainingConfig, method
from salun.unlearning.gradients import Gradients, trainable

_LEAST = 1e-16


@method(training=TrainingConfig(epochs=5, batch_size=128))
def uam(task: Task, *, rho: NonNegativeFloat = 0.1) -> None:
    """Unlearning-aware minimization: descend on the retain loss as it is where the forget loss is highest nearby.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set; the forget set is gone through again and again meanwhile.
        batch_size: retain images a step, and forget images a step.
        rho: length of the way up the forget loss at first, the norm of the change to all weights together; a cosine
            takes it to zero.

    Equation:
        w' = w + rho_t * g / ||g||, g the gradient of CE(forget batch) at w, rho_t = rho * (1 + cos(pi t / T)) / 2 in
        step t of T; w <- w - lr * gradient of CE(retain batch) at w'.

    Deviations:
        The paper's equation 15 takes a share gamma of the projection on g out of the retain gradient; its code takes
        gamma as an option, 0 by default, and does not use it, so that it is left out. As in the code, forget and
        retain batch go through the model together for g, which normalisation in training mode sees, though the forget
        images alone are in the loss. Where there are more forget than retain batches the code goes on until the last
        of those. Under a mask, g and its norm are of the weights that may move. Settings are the defaults of the
        code's command and of its example.

    Source:
        Kim, Kim, Chae and Yoon, "Unlearning-Aware Minimization", NeurIPS 2025,
        https://neurips.cc/virtual/2025/poster/116406, and class UAM of the authors' package,
        https://github.com/Harry24k/machine-unlearning-pytorch.
    """
    steps = task.training.epochs * -(-len(task.retain) // task.training.batch_size)
    numbers = count()

    def loss(logits: Tensor, batch: Batch, kept: Batch, radius: float) -> Tensor:
        own = batch.at < len(task.forget)
        forgotten = (F.cross_entropy(logits, batch.y, reduction="none") * own).sum() / own.sum()
        return F.cross_entropy(task.logits(kept.x, weights=_ascended(task, forgotten, radius)), kept.y)

    def stream(epoch: int) -> Iterator[Step]:
        for (forget, kept), number in zip(task.pairs(), numbers, strict=False):
            radius = rho * (1 + cos(pi * number / steps)) / 2
            beside = kept._replace(at=kept.at + len(task.forget))
            both = Batch(*map(torch.cat, zip(forget, beside, strict=True)))
            yield Step(both, partial(loss, kept=kept, radius=radius), extra=2 * len(kept.x))

    task.fit(stream)


def _ascended(task: Task, loss: Tensor, radius: float) -> Gradients:
    """Give the weights a step of a certain length up a loss, as functions of themselves."""
    weights = trainable(task.model)
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    for weight, gradient in zip(weights.values(), found, strict=True):
        weight.grad = gradient
    task.runtime.hold.clear_gradients()
    factor = radius / (nn.utils.get_total_norm(found) + _LEAST)
    for weight in weights.values():
        weight.grad = None
    return {name: weight + factor * gradient for (name, weight), gradient in zip(weights.items(), found, strict=True)}
