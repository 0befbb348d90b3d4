"""Gaussian noise on weights."""

from collections.abc import Iterable

import torch
from torch import nn

from salun.device import seeded
from salun.unlearning import Task


def noise_source(task: Task) -> torch.Generator:
    """Make a generator for noise; the task's own would begin as the base model's weights did, if they share a seed."""
    drawn = torch.randint(2**31, (), generator=task.generator, device=task.generator.device)
    return seeded(int(drawn), task.generator.device)


@torch.no_grad()
def add_noise(task: Task, weights: Iterable[nn.Parameter], std: float, source: torch.Generator) -> None:
    """Add Gaussian noise to weights of the task's model, in place; what a mask holds stays.

    Args:
        task: whose mask, if there is one, holds weights.
        weights: to add to.
        std: standard deviation of the noise.
        source: what `noise_source` made.
    """
    for weight in weights:
        noise = torch.randn(weight.shape, generator=source, device=source.device)
        weight.add_(noise.to(weight.device), alpha=std)
    task.runtime.hold.restore()
