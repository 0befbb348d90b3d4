"""Certified noisy fine-tuning, and what its guarantee covers.

Equation:
    w_0 = w min(1, C_0 / ||w||); T times w <- w - eta (g min(1, C_1 / ||g||) + lambda w) + e, e ~ N(0, sigma^2 I),
    g of CE(retain batch), with r = 1 - eta lambda and the least sigma for which
    rho = (2 C_0 r^T + 2 eta C_1 sum_{t<T} r^t)^2 / (2 sigma^2 sum_{t<T} r^2t) gives
    min over a of (a rho + ln((a - 1) / a) - (ln delta + ln a) / (a - 1)) <= epsilon; then L = CE(retain).

Deviations:
    The paper has no batch normalisation: its running statistics depend on all of the noisy steps, of which the
    guarantee covers the last weights alone, so they are reset after those steps and come from the fine-tuning. No mask
    may hold weights, which would stay as the forget images made them; weights that take no gradient count as such that
    never saw a forget image. The code turns the divergence into epsilon without its order, and takes half the variance
    where the decay is 0; sigma here is larger. Where the budget ends the noisy steps, epsilon is that of the steps that
    were taken. The code's fine-tuning follows a one-cycle schedule, here it is a cosine.

Source:
    Koloskova, Allouah, Jha, Guerraoui and Koyejo, "Certified Unlearning for Neural Networks", ICML 2025,
    https://arxiv.org/abs/2506.06985, gradient clipping; settings of its code for CIFAR-10.
"""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from salun.data.images import Batch
from salun.errors import SalunError
from salun.unlearning import NonNegativeFloat, PositiveFloat, PositiveInt, Task, TrainingConfig, method
from salun.unlearning.accounting import NoisySteps, epsilon_of
from salun.unlearning.gradients import trainable
from salun.unlearning.noise import add_noise, noise_source

_Probability = Annotated[float, Field(gt=0, lt=1)]


@method(training=TrainingConfig(lr=0.1, epochs=30, batch_size=128, momentum=0.0, schedule="cosine"), maskable=False)
def noisy_ft(
    task: Task,
    *,
    epsilon: PositiveFloat = 1.0,
    delta: _Probability = 1e-5,
    init_clip: PositiveFloat = 20.0,
    step_clip: PositiveFloat = 10.0,
    noise_lr: PositiveFloat = 0.01,
    noise_decay: NonNegativeFloat = 50.0,
    noise_steps: PositiveInt | None = None,
) -> None:
    """Shrink the weights, take noisy steps on retain images that guarantee unlearning, and fine-tune without noise.

    The guarantee is (epsilon, delta)-unlearning: whoever sees the weights can hardly tell whether they began as the
    base model or as one that never saw the forget images. It takes much noise; the fine-tuning must learn anew.

    Args:
        task: what to unlearn.
        epsilon: largest privacy loss.
        delta: probability with which it may be larger.
        init_clip: largest norm of the weights at the start.
        step_clip: largest norm of a gradient in the noisy steps.
        noise_lr: learning rate of the noisy steps.
        noise_decay: L2 penalty of the noisy steps, at most 1 / noise_lr.
        noise_steps: their number; null for that of the authors' code, after which more hardly lower the noise.
        lr: learning rate of the fine-tuning.
        epochs: passes of the fine-tuning over the retain set.
        weight_decay: L2 penalty of the fine-tuning.
        batch_size: images a step, noisy or not.
    """
    if noise_lr * noise_decay > 1:
        product = f"noise_lr={noise_lr:g} times noise_decay={noise_decay:g} is {noise_lr * noise_decay:g}"
        raise SalunError(f"method 'noisy_ft': {product}; must be at most 1")
    plan = NoisySteps(noise_lr, noise_decay, init_clip, step_clip)
    steps = noise_steps or plan.fewest()
    sigma, taken = plan.sigma(epsilon, delta, steps), 0
    weights, source = list(trainable(task.model).values()), noise_source(task)

    def stream(epoch: int) -> Iterator[Batch]:
        nonlocal taken
        for batch in islice(task.forever(task.retain), steps):
            yield batch
            add_noise(task, weights, sigma, source)
            taken += 1

    _shrink(weights, init_clip)
    with task.part() as first:
        first.training = TrainingConfig(noise_lr, 1, momentum=0.0, weight_decay=noise_decay, grad_clip=step_clip)
        first.fit(stream)
    if taken:
        guaranteed = epsilon_of(plan.rate(sigma, taken), delta)
        task.certificate = {"epsilon": guaranteed, "delta": delta, "sigma": sigma, "steps": taken, **asdict(plan)}
    _forget_statistics(task.model)
    task.fit(lambda epoch: task.batches(task.retain))


@torch.no_grad()
def _shrink(weights: list[nn.Parameter], largest: float) -> None:
    """Scale all weights together to a largest norm."""
    norm = torch.cat([weight.flatten() for weight in weights]).norm()
    for weight in weights:
        weight.mul_((largest / norm).clamp(max=1))


def _forget_statistics(model: nn.Module) -> None:
    """Reset the running statistics of batch normalisation."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
