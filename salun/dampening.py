"""The step that the methods of selective synaptic dampening share: shrink what matters to the forget set alone."""

import torch
from torch import nn

from salun.gradients import Gradients, trainable


@torch.no_grad()
def dampen(model: nn.Module, forget: Gradients, everything: Gradients, alpha: float, dampening: float) -> None:
    """Shrink the weights that matter far more to the forget set than to the data as a whole.

    Where F_forget > alpha * F_all, weight *= min(dampening * F_all / F_forget, 1).

    Args:
        model: is edited in place; weights that take no gradient and buffers stay.
        forget: importance of each weight to the forget set, by name; none negative.
        everything: importance to the data that it is held against.
        alpha: a weight is chosen where its importance to the forget set is more than so many times the other.
        dampening: lambda of the paper; 0 sets the chosen weights to zero.

    Source:
        Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
        Dampening", AAAI 2024, https://arxiv.org/abs/2308.07707.
    """
    for name, weight in trainable(model).items():
        factor = (dampening * everything[name] / forget[name]).clamp_(max=1)
        weight.copy_(torch.where(forget[name] > alpha * everything[name], weight * factor, weight))
