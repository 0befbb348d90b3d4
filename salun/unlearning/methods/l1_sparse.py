from collections.abc import Iterator
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Around, NonNegativeFloat, NonNegativeInt, Step, Task, TrainingConfig, method


@method(training=TrainingConfig())
def l1_sparse(
    task: Task, *, alpha: Annotated[NonNegativeFloat, Around(10)] = 5e-4, no_l1_epochs: NonNegativeInt = 0
) -> None:
    """Fine-tune on the retain images with a penalty on the weights' absolute values that fades away.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        weight_decay: L2 penalty, on top of the other.
        alpha: weight of the penalty in the first epoch; gamma in the paper.
        no_l1_epochs: how many epochs at the end go without the penalty.

    Equation:
        L = CE(retain) + alpha * (1 - e / (E - E0)) * sum of |w| over all weights in epoch e = 0, 1, ... of E - E0,
        and CE(retain) alone in the E0 = `no_l1_epochs` last ones.

    Deviations:
        None from the code: the penalty has normalisation weights and biases in it, and the last epoch of E0 = 0
        still has alpha / E.

    Source:
        Jia, Liu, Ram, Yao, Liu, Liu, Sharma and Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
        https://arxiv.org/abs/2304.04934, l1-sparse MU.
    """
    penalised = max(task.training.epochs - no_l1_epochs, 0)

    def stream(epoch: int) -> Iterator[Step]:
        strength = alpha * (1 - epoch / penalised) if epoch < penalised else 0.0

        def loss(logits: Tensor, batch: Batch) -> Tensor:
            sizes = (weight.abs().sum() for weight in task.model.parameters())
            return F.cross_entropy(logits, batch.y) + strength * sum(sizes, logits.new_zeros(()))

        yield from (Step(batch, loss) for batch in task.batches(task.retain))

    task.fit(stream)
