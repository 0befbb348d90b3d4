"""How far a model has memorised images: stand-ins for scores that would take many models."""

import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Images
from salun.training.evaluate import predict

_LEAST = 1e-10


def cross_entropy_score(model: nn.Module, images: Images) -> Tensor:
    """Score images by how unsure a model is of them.

    Args:
        model: is left as it is.
        images: N images.

    Returns:
        (N,) float64, the minus of the true class's log probability in nats.
    """
    outputs = predict(model, images)
    return F.cross_entropy(outputs.logits.double(), outputs.labels, reduction="none")


def symmetric_kl(model: nn.Module, other: nn.Module, images: Images) -> Tensor:
    """Score images by how far two models differ on them.

    Args:
        model: is left as it is.
        other: of the same classes; is left as it is.
        images: N images.

    Returns:
        (N,) float64, the mean of the Kullback-Leibler divergences in both directions, in nats.
    """
    p, q = (predict(each, images).logits.double().softmax(1).clamp_min(_LEAST) for each in (model, other))
    return ((p - q) * (p.log() - q.log())).sum(1) / 2
