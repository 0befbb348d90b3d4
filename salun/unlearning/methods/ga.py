import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Task, TrainingConfig, method


@method(training=TrainingConfig(lr=1e-3, epochs=5))
def ga(task: Task) -> None:
    """Gradient ascent on the forget images and descent on the retain images, in one shuffled mix.

    Args:
        task: what to unlearn.
        epochs: passes over forget and retain set.

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

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return (sign[batch.at] * F.cross_entropy(logits, batch.y, reduction="none")).mean()

    task.fit(lambda epoch: task.batches(mixed), loss=loss)
