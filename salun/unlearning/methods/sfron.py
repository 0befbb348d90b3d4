from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from math import cos, pi
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Around, Dual, NonNegativeFloat, PositiveInt, Share, Step, Task, TrainingConfig, method
from salun.unlearning.gradients import Each, scaled_gradients, squared_gradients, trainable

_FLOOR = 1e-15


@method(training=TrainingConfig(epochs=5, batch_size=128, grad_clip=7.0, schedule="cosine"))
def sfron(
    task: Task,
    *,
    alpha: Annotated[NonNegativeFloat, Around(10)] = 25.0,
    forget_every: PositiveInt = 5,
    gamma: NonNegativeFloat = 1.0,
    power: NonNegativeFloat = 0.5,
    beta: Share = 1.0,
    fisher: Each = "batch",
    dual: Dual = False,
) -> None:
    """SFR-on: ascend on forget images where they matter more than the retain images do, and repair on those.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        alpha: strength of the ascent at first; a cosine takes it to zero.
        forget_every: repair steps for each step of ascent, which goes before them.
        gamma: a weight's gradient of the ascent counts where Fisher(forget) / Fisher(retain) is at least this.
        power: exponent of the loss in an image's weight in the ascent, lambda in the paper: 0 for equal weights.
        beta: how far the slow weights follow the fast ones after each repair step; at 1 they are the same.
        fisher: "batch", squared gradients of batches as in the code; "image", of each image, the definition.
        dual: whether AdamW, at this learning rate or at 1e-4 for true, takes the steps of ascent.

    Equation:
        every `forget_every` steps descend on -alpha_t * sum_i c_i CE(x_i), c_i = CE(x_i)^-power / sum_j CE(x_j)^-power
        held constant, over a forget batch, with the gradient multiplied by [F_forget / F_retain >= gamma], where
        alpha_t = alpha * (1 + cos(pi t / T)) / 2 in step t of T; in every step descend on CE(retain batch); then
        w <- w_before + beta * (w - w_before).

    Deviations:
        The paper keeps slow weights, which its code has with ema_beta = 1: the fast weights replace the slow ones after
        every repair step, nothing is averaged. `beta` 1 is that, and less is a slow weight of this file's reading.
        The code counts 1,500 steps, here it is epochs: five of CIFAR-10 without a tenth are 1,585. It sets the
        learning rate's cosine every step, here it is every epoch; it clips the gradients of the ascent alone, here
        all are clipped. F from batches is smaller than the Fisher diagonal by about the batch's size on both sides of
        the ratio, which keeps the ratio only where images agree equally in both; it is taken in order and plain.

    Source:
        Huang, Cheng, Zheng, Wang, He, Li and Huang, "Unified Gradient-Based Machine Unlearning with Remain Geometry
        Enhancement", NeurIPS 2024, https://arxiv.org/abs/2409.19732, SFR-on; `dual` is DualOptim's,
        https://arxiv.org/abs/2504.15827.
    """
    salient = _saliency_ratio(task, gamma, fisher)
    forget = task.forever(task.forget)
    steps = task.training.epochs * -(-len(task.retain) // task.training.batch_size)
    numbers = count()

    def stream(epoch: int) -> Iterator[Batch | Step]:
        for batch, number in zip(task.batches(task.retain), numbers, strict=False):
            with _following(task, beta):
                if number % forget_every == 0:
                    strength = alpha * (1 + cos(pi * number / steps)) / 2
                    with scaled_gradients(salient):
                        yield Step(next(forget), partial(_ascent, strength=strength, power=power), forgets=True)
                yield batch

    task.fit(stream, dual=dual)


def _ascent(logits: Tensor, batch: Batch, strength: float, power: float) -> Tensor:
    """Compute the loss of the ascent, in which images with a small loss weigh more."""
    losses = F.cross_entropy(logits, batch.y, reduction="none")
    weights = 1 / (losses.detach() ** power + _FLOOR)
    return -strength * (weights / weights.sum() * losses).sum()


def _saliency_ratio(task: Task, gamma: float, fisher: Each) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """Find the weights that matter to the forget set more than to the retain set."""
    forget = squared_gradients(task.model, task.forget, fisher, task.training.batch_size)
    retain = squared_gradients(task.model, task.retain, fisher, task.training.batch_size)
    return [
        (weight, ((forget[name] + _FLOOR) / (retain[name] + _FLOOR) >= gamma).to(weight.dtype))
        for name, weight in trainable(task.model).items()
    ]


@contextmanager
def _following(task: Task, beta: float) -> Iterator[None]:
    """Let the slow weights follow what the steps inside the block do to the fast ones."""
    weights = list(trainable(task.model).values()) if beta < 1 else []
    before = [weight.detach().clone() for weight in weights]
    yield
    with torch.no_grad():
        for weight, slow in zip(weights, before, strict=True):
            weight.copy_(slow.lerp(weight, beta))
