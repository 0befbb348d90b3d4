import torch
from torch import nn

from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method


@method()
def ct(
    task: Task,
    *,
    lr: PositiveFloat = 1e-3,
    epochs: PositiveInt = 3,
    batch_size: PositiveInt = 64,
    momentum: Momentum = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
    grad_clip: PositiveFloat | None = None,
    schedule: Schedule = "cosine",
) -> None:
    """Transpose the kernels of all convolutions, height for width, and fine-tune on the retain images.

    A transformer has one convolution, the patch embedding, whose patches it then reads mirrored. Kernels of one pixel
    are their own transpose.

    Args:
        task: what to unlearn.
        lr: learning rate.
        epochs: passes over the retain set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.

    Equation:
        W[o, i, h, w] <- W[o, i, w, h] in every convolution; then L = CE(retain).

    Deviations:
        Kernels that are not square stay as they are: transposed they would not fit their padding.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, CT, the fifth entry of the NeurIPS 2023 unlearning
        competition; settings of its code.
    """
    _transpose(task.model)
    task.fit(
        lambda epoch: task.retain.batches(batch_size, task.generator),
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
    )


@torch.no_grad()
def _transpose(model: nn.Module) -> None:
    """Transpose every square convolution kernel, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[2] == module.weight.shape[3]:
            module.weight.copy_(module.weight.transpose(2, 3).clone())
