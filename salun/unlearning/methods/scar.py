"""SCAR, and how it differs from the paper.

Deviations:
    The paper distils on out-of-distribution images, to need no retain image but for the class statistics, and its
    self-forget variant takes those for forget images too; no such images come with a task, so this distils on
    retain images. None of them is left out for looking like a forgotten class; as in the code, the base model's
    logit of a forgotten class becomes the batch's smallest. f^delta is sign(f) * abs(f)^delta, 0 below 1e-6, as
    features may be negative and the root has no slope at 0. Targets are the base model's in evaluation mode. The
    forget accuracy, and with random forgetting the weights of classes (their accuracy, 0 below 0.8), are taken
    once an epoch, not once a step, and the accuracy sought is of validation, not test images.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.models.features import features_seen
from salun.training.evaluate import accuracy, class_accuracies, predict
from salun.unlearning import (
    Around,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Share,
    Step,
    Task,
    TrainingConfig,
    method,
)
from salun.unlearning.class_features import accuracy_sought, against_retain, class_batches, targets
from salun.unlearning.losses import distillation

_LEAST_EPOCHS = 3
_TOLERANCE = 0.015
_STILL_KNOWN = 0.8
_SMALLEST = 1e-6


@method(training=TrainingConfig(lr=5e-4, epochs=30, batch_size=1024, optimizer="adam", weight_decay=0.0))
def scar(
    task: Task,
    *,
    lambda_1: Annotated[NonNegativeFloat, Around(5)] = 1.0,
    lambda_2: Annotated[NonNegativeFloat, Around(5)] = 5.0,
    temperature: PositiveFloat = 1.0,
    delta: PositiveFloat = 0.5,
    gamma_1: NonNegativeFloat = 3.0,
    gamma_2: NonNegativeFloat = 3.0,
    retain_steps: PositiveInt = 6,
    target_accuracy: Share | None = None,
) -> None:
    """Pull the features of forget images into the nearest other class, while obeying the base model on retain images.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set, at most.
        batch_size: forget images a step, and as many retain images.
        lambda_1: weight of the pull.
        lambda_2: weight of the divergence from the base model.
        temperature: divides the base model's logits.
        delta: exponent of Tukey's transformation of features.
        gamma_1: how far variances are shrunk towards their mean.
        gamma_2: how far covariances are shrunk towards their mean.
        retain_steps: steps on one forget batch, at most, each with another retain batch.
        target_accuracy: on the forget images, below which, from the third on, an epoch is the last; None for 0.01 where
            whole classes are forgotten, else for the base model's accuracy on validation images less 0.015.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        L = lambda_1 * mean over forget of d S_j^-1 d + lambda_2 * mean over retain of KL(p_base || p);
        d = u(f(x)^delta) - u(mu_j), u scales to length 1; mu_j and S_j mean and correlation of f^delta over the retain
        images of class j, the covariance S + gamma_1 * V1 * I + gamma_2 * V2 * (1 - I) twice, V1 and V2 its mean
        variance and mean covariance; j the nearest class other than the image's own.

    Source:
        Bonato, Cotogni and Sabetta, "Is Retain Set All You Need in Machine Unlearning? Restoring Performance of
        Unlearned Models with Out-Of-Distribution Images", ECCV 2024, https://arxiv.org/abs/2404.12922, section 3.
    """
    goal = accuracy_sought(task, _TOLERANCE) if target_accuracy is None else target_accuracy
    teacher = task.frozen()
    weights = torch.ones(task.classes, device=task.forget.device)
    gone = torch.zeros(task.classes, dtype=torch.bool, device=task.forget.device)
    gone[[*task.forgotten, *task.absent]] = True
    pull = _pull(task, weights, _class_statistics(task, delta, gamma_1, gamma_2), delta)

    with features_seen(task.model) as features:

        def loss(logits: Tensor, batch: Batch, kept: Batch) -> Tensor:
            base = task.logits(kept.x, teacher)
            base = base.masked_fill(gone, base.min()) / temperature
            return lambda_1 * pull(features(), batch) + lambda_2 * distillation(task.logits(kept.x), base)

        task.fit(partial(_steps, task=task, loss=loss, weights=weights, goal=goal, retain_steps=retain_steps))


def _steps(
    epoch: int, task: Task, loss: Callable[..., Tensor], weights: Tensor, goal: float, retain_steps: int
) -> Iterator[Step]:
    """Give the steps of an epoch, none once enough is forgotten, and weigh the classes anew before."""
    if epoch and len(task.forget) <= task.passes.left:
        outputs = predict(task.model, task.forget)
        if epoch >= _LEAST_EPOCHS and accuracy(outputs) < goal:
            return
        if not task.forgotten:
            known = class_accuracies(outputs, task.classes)
            weights.copy_(torch.where(known < _STILL_KNOWN, 0.0, known))
    for batch, kept in against_retain(task, retain_steps):
        yield Step(batch, partial(loss, kept=kept), extra=3 * len(kept.x))


def _pull(
    task: Task, weights: Tensor, statistics: tuple[Tensor, Tensor, Tensor], delta: float
) -> Callable[[Tensor, Batch], Tensor]:
    """Measure how far features of forget images are from the class that was nearest at first, weighted by class."""
    means, inverses, present = statistics
    distances = partial(_mahalanobis, means=means, inverses=inverses, delta=delta)
    nearest = targets(task, distances, present)
    chosen, target = nearest.unique(return_inverse=True)
    means, inverses = means[chosen], inverses[chosen]

    def pull(features: Tensor, batch: Batch) -> Tensor:
        distances = _mahalanobis(features, means, inverses, delta).gather(1, target[batch.at, None])[:, 0]
        return (weights[batch.y] * distances).mean()

    return pull


def _tukey(features: Tensor, delta: float) -> Tensor:
    """Make the distribution of features less skew, by a power that keeps their sign."""
    return features.sign() * features.abs().clamp(min=_SMALLEST).pow(delta)


def _class_statistics(task: Task, delta: float, gamma_1: float, gamma_2: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find the (C, D) means and (C, D, D) inverse correlations of classes, and (C,) which have two images."""
    found = {}
    for label, count, batches in class_batches(task):
        mean, scatter = _moments(_tukey(features, delta) for features in batches)
        if count > 1:
            found[label] = mean, scatter / (count - 1)
    nothing = torch.zeros_like(mean), torch.zeros_like(scatter)
    parts = [found.get(label, nothing) for label in range(task.classes)]
    means, covariances = (torch.stack(values) for values in zip(*parts, strict=True))
    inverses = _inverse_correlation(covariances.cpu(), gamma_1, gamma_2).to(means.device)
    return means, inverses, torch.tensor([label in found for label in range(task.classes)], device=means.device)


def _moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Find the (D,) mean and (D, D) scatter of (B, D) batches, updated as Chan, Golub and LeVeque (1979) do."""
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for rows in batches:
        own, total = rows.mean(0), count + len(rows)
        apart, spread = own - mean, rows - own
        scatter = scatter + spread.T @ spread + apart.outer(apart) * (count * len(rows) / total)
        mean, count = mean + apart * (len(rows) / total), total
    return mean, scatter


def _inverse_correlation(covariance: Tensor, gamma_1: float, gamma_2: float) -> Tensor:
    """Shrink (..., D, D) covariances twice, scale them to correlations and invert those."""
    diagonal = torch.eye(covariance.shape[-1], dtype=torch.bool)
    for _ in range(2):
        others = ~diagonal & (covariance != 0)
        shared = (covariance * others).sum((-2, -1), keepdim=True) / others.sum((-2, -1), keepdim=True).clamp(min=1)
        spread = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        covariance = covariance + torch.where(diagonal, gamma_1 * spread, gamma_2 * shared)
    deviation = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=_SMALLEST**2).sqrt()
    correlation = covariance / (deviation[..., :, None] * deviation[..., None, :])
    inverse: Tensor = torch.linalg.pinv(correlation, hermitian=True)
    return inverse


def _mahalanobis(features: Tensor, means: Tensor, inverses: Tensor, delta: float) -> Tensor:
    """Compute (N, C) squared distances from (N, D) features to classes."""
    apart = F.normalize(_tukey(features, delta), dim=1) - F.normalize(means, dim=1)[:, None]
    return ((apart @ inverses) * apart).sum(2).T
