from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method


@method()
def ga(
    task: Task,
    *,
    lr: PositiveFloat = 1e-3,
    epochs: PositiveInt = 5,
    batch_size: PositiveInt = 256,
    momentum: Momentum = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
    grad_clip: PositiveFloat | None = None,
    schedule: Schedule = "constant",
) -> None:
    """Gradient ascent on the forget images and descent on the retain images, in one shuffled mix.

    Args:
        task: what to unlearn.
        lr: learning rate.
        epochs: passes over forget and retain set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.

    Equation:
        L = mean over a batch of s(x) * CE(x), s = -1 for forget and +1 for retain images.

    Deviations:
        The paper ascends on the forget set alone, which is `ga_small`; the mix is the SalUn DeepDive project's.

    Source:
        Thudi, Deza, Chandrasekaran and Papernot, "Unrolling SGD: Understanding Factors Influencing Machine
        Unlearning", EuroS&P 2022, https://arxiv.org/abs/2109.13398.
    """
    mixed = task.forget.join(task.retain)
    sign = torch.ones(len(mixed), device=mixed.device)
    sign[: len(task.forget)] = -1

    def stream(epoch: int) -> Iterator[Batch]:
        return mixed.batches(batch_size, task.generator)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return (sign[batch.at] * F.cross_entropy(logits, batch.y, reduction="none")).mean()

    task.fit(
        stream,
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
        loss=loss,
    )
