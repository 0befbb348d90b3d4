"""Magnitude pruning, after which a method works on a sparse model."""

import torch
from torch import nn

from salun.models.features import classifiers
from salun.unlearning.mask import Mask
from salun.unlearning.topk import select


@torch.no_grad()
def prune(model: nn.Module, share: float) -> Mask:
    """Set the smallest weights of all convolutions and linear layers together to zero, those of the head left out.

    Biases and the weights of normalisation stay. The paper's code prunes convolutions alone, which is the same for a
    ResNet; the linear layers are here because a transformer has little else. The paper holds methods against a sparse
    retrained model too; here the gold standard stays dense, as the base model is that everything began with.

    Args:
        model: is edited in place.
        share: of those weights that are set to zero, in (0, 1).

    Returns:
        The survivors: a boolean tensor for each weight that was pruned, False where it is zero now and is to stay so.

    Source:
        Jia, Liu, Ram, Yao, Liu, Liu, Sharma and Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
        https://arxiv.org/abs/2304.04934, one-shot magnitude pruning.
    """
    heads = classifiers(model)
    weights = {
        f"{name}.weight": part.weight
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear) and part not in heads
    }
    total = sum(map(torch.numel, weights.values()))
    kept = select([weight.abs() for weight in weights.values()], total - int(share * total))
    for weight, chosen in zip(weights.values(), kept, strict=True):
        weight.mul_(chosen)
    return dict(zip(weights, kept, strict=True))


def both(one: Mask | None, other: Mask | None) -> Mask | None:
    """Let only those weights move that two masks let; None, and the lack of a weight, lets all move."""
    if one is None or other is None:
        return one or other
    return one | other | {name: one[name].to(other[name].device) & other[name] for name in one.keys() & other.keys()}
