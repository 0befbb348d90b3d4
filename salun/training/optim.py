"""Optimisers and learning-rate schedules."""

import warnings

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from salun.training.recipe import Schedule, TrainingConfig

_PLATEAU_PATIENCE = 5


def make_optimizer(weights: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """Build an optimiser; the momentum of "adam" and "adamw" is their first beta."""
    fused = weights[0].device.type in ("cpu", "cuda")
    lr, momentum, decay = config.lr, config.momentum, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=momentum, weight_decay=decay, fused=fused)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=fused)


def make_schedule(optimizer: torch.optim.Optimizer, name: Schedule, epochs: int) -> LRScheduler:
    """Build a learning-rate schedule, stepped after each epoch.

    Args:
        optimizer: whose rate it sets.
        name: "constant"; "multistep", x 0.1 at a half and three quarters; "cosine", to zero;
            "plateau", x 0.1 after 5 epochs without improvement.
        epochs: planned length.

    Returns:
        The schedule.
    """
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=_PLATEAU_PATIENCE)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, epochs)
    milestones = sorted({epochs // 2, 3 * epochs // 4} - {0}) if name == "multistep" else []
    return MultiStepLR(optimizer, milestones, gamma=0.1)


def step_schedules(schedules: list[LRScheduler], score: float) -> None:
    """Go on to the next learning rates; the score of the epoch, higher is better, steers "plateau"."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for schedule in schedules:
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(score)
            else:
                schedule.step()
