"""What attacks and distances look at: a number an image, made of its logits and its label."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from salun.training.evaluate import Outputs

Singles = NDArray[np.float32]
Variant = Literal["corrected", "original"]

_FLOOR = 1e-30


def probabilities(outputs: Outputs) -> Singles:
    """Compute the softmax.

    Args:
        outputs: logits (N, C) and labels (N,), as of all scores.

    Returns:
        (N, C) float32.
    """
    return np.asarray(outputs.logits.softmax(1).numpy())


def true_confidence(outputs: Outputs) -> Singles:
    """Compute the probability that a model gives to the true class.

    Returns:
        (N,) float32 in [0, 1].
    """
    return np.asarray(_of_label(outputs.logits.softmax(1), outputs.labels).numpy())


def correctness(outputs: Outputs) -> Singles:
    """Tell which images are classified right.

    Returns:
        (N,) float32, 1 where the largest logit is the true class's.
    """
    return np.asarray((outputs.logits.argmax(1) == outputs.labels).float().numpy())


def entropy(outputs: Outputs) -> Singles:
    """Compute the entropy of the prediction, -sum p ln p.

    Returns:
        (N,) float32, nats; at least 0.
    """
    p = outputs.logits.softmax(1)
    return np.asarray(-(p * _floored_log(p)).sum(1).numpy())


def modified_entropy(outputs: Outputs, variant: Variant = "corrected") -> Singles:
    """Compute the modified entropy -(1 - p_y) ln p_y - sum over c != y of p_c ln(1 - p_c).

    Args:
        outputs: logits (N, C) and labels (N,).
        variant: "original" for the SalUn code's, which takes p for 1 - p in the logarithm, and treats as true
            classes all that occur among the labels of the set.

    Returns:
        (N,) float32, nats; at least 0.

    Source:
        Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security
        2021, equation 6; the original in OPTML-Group/Unlearn-Saliency, `evaluation/SVC_MIA.py`.
    """
    p = outputs.logits.softmax(1)
    rest = 1 - p
    if variant == "original":
        occurring = torch.isin(torch.arange(p.shape[1]), outputs.labels)
        weight = torch.where(occurring, rest, p)
        return np.asarray(-(weight * _floored_log(p)).sum(1).numpy())
    terms = torch.where(_own_class(outputs), rest * _floored_log(p), p * _floored_log(rest))
    return np.asarray(-terms.sum(1).numpy())


def losses(outputs: Outputs) -> Singles:
    """Compute the cross-entropy of each image.

    Returns:
        (N,) float32, nats.
    """
    return np.asarray(F.cross_entropy(outputs.logits, outputs.labels, reduction="none").numpy())


def margins(outputs: Outputs) -> Singles:
    """Compute z_y - ln sum over c != y of exp z_c: ln p_y - ln(1 - p_y) without its cancellation.

    Args:
        outputs: logits (N, C) and labels (N,), C at least 2.

    Returns:
        (N,) float32.

    Source:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, section V.
    """
    others = outputs.logits.masked_fill(_own_class(outputs), -torch.inf)
    return np.asarray((_of_label(outputs.logits, outputs.labels) - others.logsumexp(1)).numpy())


def _of_label(values: Tensor, labels: Tensor) -> Tensor:
    """Pick each row's entry at its label."""
    return values.gather(1, labels[:, None])[:, 0]


def _own_class(outputs: Outputs) -> Tensor:
    """Mark each row's entry at its label: (N, C) bool."""
    return torch.zeros_like(outputs.logits, dtype=torch.bool).scatter_(1, outputs.labels[:, None], True)


def _floored_log(values: Tensor) -> Tensor:
    """Take logarithms, of 1e-30 where a value is smaller."""
    return values.clamp_min(_FLOOR).log()


def evenly_spaced(outputs: Outputs, count: int) -> Outputs:
    """Choose images evenly over a set, the first and the last among them.

    Args:
        outputs: logits (N, C) and labels (N,).
        count: how many, at most N.

    Returns:
        Those of `count` images.
    """
    return outputs.take(torch.from_numpy(np.linspace(0, len(outputs.labels) - 1, count).astype(int)))


def area(members: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Compute the area under the ROC curve of an attack whose scores are large for members.

    Args:
        members: (N,) scores, N at least 1; none is NaN.
        others: (M,) scores, M at least 1.

    Returns:
        In [0, 1], ties counting half; 0.5 where scores tell nothing.
    """
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, members, side=side).sum() for side in ("left", "right"))
    return float((below + up_to) / (2 * len(members) * len(others)))
