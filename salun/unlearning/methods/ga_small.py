import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Task, TrainingConfig, method


@method(training=TrainingConfig(lr=1e-3, epochs=5), keeps=False)
def ga_small(task: Task) -> None:
    """Gradient ascent on the forget images alone; nothing holds the rest, so keep it short.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set.

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

    task.fit(lambda epoch: task.batches(task.forget), loss=loss)
