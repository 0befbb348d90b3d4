from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Range, Share, Step, Task, TrainingConfig, method


@method(training=TrainingConfig(batch_size=64, momentum=0.0, weight_decay=0.0))
def neggrad_plus(task: Task, *, alpha: Annotated[Share, Range(0.8, 0.999)] = 0.95) -> None:
    """Descend on a retain batch and ascend on a forget batch in the same step.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set; the forget set is gone through again and again meanwhile.
        batch_size: retain images a step, and forget images a step.
        alpha: weight of the retain loss, in [0, 1]; beta in the paper.

    Equation:
        L = alpha * CE(retain batch) - (1 - alpha) * CE(forget batch), the two in separate forward passes.

    Deviations:
        The paper states a weight decay of 0.1; its code runs this method without any, as the default is here, but for
        VGG, where it is 5e-4. Alpha, rate and epochs are of the authors' small experiments, which add a penalty on the
        squared distance from the base model, left out here, and take batches of 32 retain and 64 forget images. In the
        large experiments they take alpha 0.9999, 5 epochs and no penalty.

    Source:
        Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023,
        https://arxiv.org/abs/2302.09880, where it is the baseline NegGrad+.
    """

    def loss(logits: Tensor, batch: Batch, forget: Batch) -> Tensor:
        kept = F.cross_entropy(logits, batch.y)
        return alpha * kept - (1 - alpha) * F.cross_entropy(task.logits(forget.x), forget.y)

    def stream(epoch: int) -> Iterator[Step]:
        for forget, retain in task.pairs():
            yield Step(retain, partial(loss, forget=forget), extra=2 * len(forget.x))

    task.fit(stream)
