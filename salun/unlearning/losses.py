"""Losses that several methods share."""

import torch.nn.functional as F
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute how far a student's predictions are from a teacher's, softened by a temperature.

    Args:
        student: (B, C) float32 logits.
        teacher: (B, C) logits; minus infinity rules a class out.
        temperature: both logits are divided by it.

    Returns:
        A scalar: KL(teacher || student), summed over classes, averaged over images, times the squared temperature.

    Source:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
        https://arxiv.org/abs/1503.02531, section 2.
    """
    wanted = F.softmax(teacher.float() / temperature, 1)
    given = F.log_softmax(student / temperature, 1)
    return F.kl_div(given, wanted, reduction="batchmean") * temperature**2
