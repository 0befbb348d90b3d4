import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method


@method(keeps=False)
def ga_small(
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
    """Gradient ascent on the forget images alone; nothing holds the rest, so keep it short.

    Args:
        task: what to unlearn.
        lr: learning rate.
        epochs: passes over the forget set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.

    Equation:
        L = -CE(forget).

    Deviations:
        Of the paper's single-gradient unlearning, equation 6, this takes as many steps as asked for, with momentum.

    Source:
        Thudi, Deza, Chandrasekaran and Papernot, "Unrolling SGD: Understanding Factors Influencing Machine
        Unlearning", EuroS&P 2022, https://arxiv.org/abs/2109.13398.
    """

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return -F.cross_entropy(logits, batch.y)

    task.fit(
        lambda epoch: task.forget.batches(batch_size, task.generator),
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
        loss=loss,
    )
