from collections.abc import Iterator
from functools import partial
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Labels, Step, Task, TrainingConfig, method
from salun.unlearning.gradients import trainable

_OPPOSED = 1e-6
_WEIGHT_WITHOUT_BARGAIN = 0.1


@method(training=TrainingConfig(grad_clip=1.0))
def munba(task: Task, *, labels: Labels = "any") -> None:
    """Weigh random labels of forget images and true labels of retain images by Nash bargaining, in every step (MUNBa).

    Neither loss prevails by a larger gradient: both gradients gain equally from the step.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set; the forget set is gone through once beside it.
        batch_size: retain images a step, and forget images a step while there are any.
        labels: which labels may be drawn: "any", "other" than the true one, or "remaining", neither the true one nor
            a forgotten one.
        grad_clip: largest norm of the gradient; null for no limit.

    Equation:
        L = a_r CE(retain) + a_f CE(forget, random label); a solves G^T G a = 1 / a for G = (g_r, g_f), the gradients
        of the two: a_i = 1 / (||g_i|| sqrt(1 + cos(g_r, g_f))). Where there is no bargain, g_r = -s g_f or a zero
        gradient, a_r = 1 and a_f = 0.1. Once all forget images were seen L = CE(retain).

    Deviations:
        The code writes a_f by way of a_r and adds 1e-8 to denominators, which counts where gradients are small; here
        the two are written alike. It clips the steps of both losses only; here all are clipped. It stops where there
        are more forget than retain images; here those left over are left out. The norms count every weight that takes
        a gradient, also where a mask holds it.

    Source:
        Wu and Harandi, "MUNBa: Machine Unlearning via Nash Bargaining", ICCV 2025, https://arxiv.org/abs/2411.15537,
        closed-form solution; settings of its code for CIFAR-10.
    """
    weights = list(trainable(task.model).values())

    def loss(logits: Tensor, batch: Batch, forget: Batch, drawn: Tensor) -> Tensor:
        kept = F.cross_entropy(logits, batch.y)
        lost = F.cross_entropy(task.logits(forget.x), drawn[forget.at])
        return _bargained(kept, lost, weights)

    def stream(epoch: int) -> Iterator[Batch | Step]:
        drawn = task.random_labels(labels)
        for batch, forget in zip_longest(task.batches(task.retain), task.batches(task.forget)):
            if batch is None:
                return
            if forget is None:
                yield batch
            else:
                yield Step(batch, partial(loss, forget=forget, drawn=drawn), extra=2 * len(forget.x))

    task.fit(stream)


def _bargained(kept: Tensor, lost: Tensor, weights: list[torch.nn.Parameter]) -> Tensor:
    """Weigh two losses so that their gradients gain equally; the gradient of the sum is known without another pass."""
    found = [torch.autograd.grad(each, weights, allow_unused=True, materialize_grads=True) for each in (kept, lost)]
    first, second = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in found)
    norms = torch.stack([first.norm(), second.norm()])
    apart = 1 + first @ second / norms.prod()
    without = norms.new_ones(2)
    without[1] = _WEIGHT_WITHOUT_BARGAIN
    shares = torch.where(apart > _OPPOSED, 1 / (norms * apart.sqrt()), without)
    value = (shares * torch.stack([kept, lost]).detach()).sum()
    sums = [shares[0] * one + shares[1] * other for one, other in zip(*found, strict=True)]
    slope = torch.stack([(total * weight).sum() for total, weight in zip(sums, weights, strict=True)]).sum()
    return value + (slope - slope.detach())
