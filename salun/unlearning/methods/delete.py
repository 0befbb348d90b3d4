import torch
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Step, Task, TrainingConfig, method
from salun.unlearning.losses import distillation


@method(training=TrainingConfig(lr=1e-4, epochs=20, batch_size=128, weight_decay=0.0))
def delete(task: Task, *, freeze_norms: bool = False) -> None:
    """Learn from the base model what it says of forget images apart from their own class.

    It needs no retain image: what the base model says of the other classes holds them.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set.
        freeze_norms: whether batch normalisation uses its running statistics and leaves them as they are, rather than
            taking on those of the forget set.
        momentum: of SGD.

    Equation:
        L = mean over forget images of KL(softmax(z_base + m) || softmax(z)), m minus infinity at the image's own
        class and 0 elsewhere.

    Deviations:
        The code puts -1e10 in the place of the own class's logit, this minus infinity, which gives the same. It
        freezes batch normalisation for one class of Tiny ImageNet only: `freeze_norms`. The paper
        forgets classes; here, as the code's loss allows, the forget set may be any. A forget set of single images is
        then driven from labels that a retrained model would often give: forget error well above retraining's.

    Source:
        Zhou, Zheng, Mo, Lu, Lin and Zheng, "Decoupled Distillation to Erase: A General Unlearning Method for Any
        Class-centric Tasks", CVPR 2025, https://arxiv.org/abs/2503.23751, section "Mask distillation".
    """
    teacher = task.frozen()

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return distillation(logits, task.logits(batch.x, teacher).scatter(1, batch.y[:, None], -torch.inf))

    task.fit(
        lambda epoch: (Step(batch, cost=3) for batch in task.batches(task.forget)), loss=loss, freeze_norms=freeze_norms
    )
