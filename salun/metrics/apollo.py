"""A membership attack that sees nothing of the model but the labels that it predicts."""

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from salun.data.images import Images
from salun.metrics import Models, Value, metric
from salun.metrics.evaluation import spread
from salun.metrics.scores import area

_BATCH = 256
_STEPS = 5
_REACH = 0.5


@metric("Apollo_under", "Apollo_over", ideal="0.5", cost="weights", against=("retrained",), gone=True)
def label_only_attack(models: Models) -> tuple[Value, Value]:
    """Label-only membership attack: areas under the ROC curve of forget images against unseen ones like them.

    Formula:
        Each image x goes 5 steps of e / 5 along the signs of the gradient of the retrained model's cross-entropy,
        e = half the standard deviation of its values: uphill, away from its label, and downhill, further into it.
        Apollo_under = area under the ROC curve of the share of uphill steps at which the model still predicts the
        label, forget images against the test images of the forgotten classes, or the test set where no class is
        forgotten; Apollo_over = the same of the share of downhill steps at which it predicts another class. At most
        2,000 images of each, evenly spaced in the order of their indices.

    Cannot see:
        What only shadow models show: the authors' attacker trains many, and unlearns with them, for each image; here
        one retrained model stands for those that never saw it. Models that never predict the class, retrained ones of
        a forgotten class among them, give 0.5.

    Returns:
        Two areas, 0.5 where labels tell nothing. Apollo_under is larger where images were forgotten too little,
        Apollo_over where the model was pushed away from their labels. None without test images.

    Source:
        Tang, Joshi and Kundu, "Apollo: A Posteriori Label-Only Membership Inference Attack Towards Machine
        Unlearning", arXiv 2506.09923, code LiouTang/Unlearn-Apollo-Attack. Gradients of shadow models that unlearned
        the image are left out here, and steps have the signs of the gradient in place of Adam's.
    """
    unseen, surrogate = models.unseen, models.retrained
    if unseen is None or surrogate is None or not len(models.forget) or not len(unseen):
        return None, None
    target, guide = (deepcopy(network).eval().requires_grad_(False) for network in (models.model, surrogate))
    forget, others = (_answers(target, guide, spread(images)) for images in (models.forget, unseen))
    return area(forget[0], others[0]), area(1 - forget[1], 1 - others[1])


def _answers(target: nn.Module, surrogate: nn.Module, images: Images) -> NDArray[np.float64]:
    """Compute the (2, N) shares of steps, uphill and downhill, at which the target predicts the label."""
    shares = [
        torch.stack([_kept(target, surrogate, x, y, way) for way in (1, -1)]) for x, y, _ in images.batches(_BATCH)
    ]
    return torch.cat(shares, 1).cpu().double().numpy()


def _kept(target: nn.Module, surrogate: nn.Module, x: Tensor, y: Tensor, way: int) -> Tensor:
    """Move images along the surrogate's gradient, and count the steps at which the target predicts their labels."""
    stride = way * _REACH / _STEPS * x.flatten(1).std(1).view(-1, *[1] * (x.ndim - 1))
    point, kept = x.clone(), torch.zeros(len(x), device=x.device)
    for _ in range(_STEPS):
        with torch.enable_grad():
            point.requires_grad_(True)
            loss = F.cross_entropy(surrogate(point), y, reduction="sum")
            slope = torch.autograd.grad(loss, point)[0]
        point = point.detach() + stride * slope.sign()
        with torch.no_grad():
            kept += target(point).argmax(1) == y
    return kept / _STEPS
