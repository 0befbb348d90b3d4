from typing import Annotated

import torch
from pydantic import Field

from salun.unlearning import PositiveFloat, Task, TrainingConfig, method
from salun.unlearning.gradients import Gradients
from salun.unlearning.task_vectors import subtract, task_vector

_Factors = Annotated[list[PositiveFloat], Field(min_length=2)]

_AROUND = [0.25, 0.5, 1.0, 2.0, 4.0]


@method(
    training=TrainingConfig(
        lr=1e-5, batch_size=128, optimizer="adamw", weight_decay=0.1, grad_clip=1.0, schedule="cosine"
    )
)
def negmerge(task: Task, *, lr_factors: _Factors = _AROUND, scale: PositiveFloat = 1.0) -> None:
    """Fine-tune on the forget images in several ways and undo the changes whose direction is the same in all of them.

    It is `task_arithmetic` with the mean of several task vectors, 0 where they disagree. It needs no retain image.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set of each fine-tuning.
        lr_factors: learning rates of the fine-tunings, one each, as multiples of `lr`.
        scale: how far to go, in units of what the fine-tunings changed alike; the authors search from 0.05 to 1 on
            validation images.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        w <- w - scale * mean over k of t_k where all t_k = w_ft,k - w have one sign, else w <- w; w_ft,k from w by
        training on CE(forget) in the k-th way.

    Deviations:
        The authors have 10 to 30 models at hand, fine-tuned with different rates, epochs, weight decays or strengths
        of augmentation; here they are made, and differ in the rate and in the order and augmentation of the images.
        `scale` is a setting, as in `task_arithmetic`. The authors' code merges buffers too; here the running
        statistics of batch normalisation stay, of which a variance could become negative. Settings are those for CLIP,
        without the warm-up; the published code has none for classifiers that were trained from scratch.

    Source:
        Kim, Han and Choe, "NegMerge: Sign-Consensual Weight Merging for Machine Unlearning", ICML 2025,
        https://arxiv.org/abs/2410.05583, section 3.2.
    """
    vectors = [task_vector(task, factor * task.training.lr) for factor in lr_factors]
    subtract(task, _consensus(vectors), scale)


def _consensus(vectors: list[Gradients]) -> Gradients:
    """Average vectors where all their signs are the same; 0 elsewhere."""
    merged = {}
    for name in vectors[0]:
        values = torch.stack([vector[name] for vector in vectors])
        agree = values.sign().sum(0).abs() == len(vectors)
        merged[name] = values.mean(0) * agree
    return merged
