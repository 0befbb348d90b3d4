"""SCRUB, and how it differs from the paper.

Deviations:
    The paper's D has no temperature; its code has T = 4 and the factor T^2, and so has this. The learning rate
    follows `schedule`; the code's drop after epoch 3 comes after its last epoch. The batch sizes are those that
    the notebook states; its loaders, made before, have 256 retain and 512 forget images a batch. Rewind: the
    untouched model is no candidate, as in the paper; a class without a validation image, as one that is
    forgotten whole, counts with an error of 1, that of a model which never saw it; equally near epochs: the later.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.errors import SalunError
from salun.training.evaluate import class_accuracies, predict
from salun.unlearning import (
    Around,
    Dual,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Step,
    Task,
    TrainingConfig,
    method,
)
from salun.unlearning.losses import distillation

_Mark = tuple[float, dict[str, Tensor]]


@method(training=TrainingConfig(lr=5e-4, epochs=3, batch_size=128))
def scrub(
    task: Task,
    *,
    msteps: NonNegativeInt = 2,
    forget_batch_size: PositiveInt = 32,
    alpha: Annotated[NonNegativeFloat, Around(30)] = 0.001,
    gamma: Annotated[NonNegativeFloat, Range(0.5, 1.0)] = 0.99,
    temperature: PositiveFloat = 4.0,
    rewind: bool = False,
    dual: Dual = False,
) -> None:
    """Disobey the base model on forget images and obey it on retain images, in turn.

    With `rewind` it is SCRUB+R: of the epochs' weights those are kept whose forget error is nearest to the error on
    images like the forget set that were never trained on.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        msteps: epochs, the first ones, that begin with a pass over the forget set.
        batch_size: retain images a step.
        forget_batch_size: forget images a step.
        alpha: weight of the divergence from the base model on retain images.
        gamma: weight of the cross-entropy on retain images.
        temperature: of the divergences.
        rewind: whether to go back to the epoch that forgot just enough.
        momentum: of SGD.
        dual: whether AdamW, at this learning rate or at 1e-4 for true, takes the forget batches.

    Equation:
        while epoch <= msteps L = -D(forget) over all forget batches; then L = gamma * CE(retain) + alpha * D(retain);
        D = T^2 * mean of KL(p_base || p) at temperature T. Rewind: argmin over epochs of abs(error(forget) - error of
        the last epoch on validation images, each class weighted by its share of the forget set).

    Source:
        Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023,
        https://arxiv.org/abs/2302.09880, equation 3 and algorithm 1; settings of the authors' CIFAR-10 notebook;
        `dual` is DualOptim's, https://arxiv.org/abs/2504.15827.
    """
    teacher = task.frozen()
    marks: list[_Mark] = []

    def divergence(logits: Tensor, batch: Batch) -> Tensor:
        return distillation(logits, task.logits(batch.x, teacher), temperature)

    def obey(logits: Tensor, batch: Batch) -> Tensor:
        return gamma * F.cross_entropy(logits, batch.y) + alpha * divergence(logits, batch)

    def stream(epoch: int) -> Iterator[Step]:
        if rewind and epoch and len(task.forget) <= task.passes.left:
            marks.append(_mark(task))
        forget = task.batches(task.forget, forget_batch_size) if epoch < msteps else ()
        yield from (Step(batch, lambda *given: -divergence(*given), forgets=True, cost=3) for batch in forget)
        yield from (Step(batch, obey, cost=3) for batch in task.batches(task.retain))

    with task.passes.reserving(_cost_of_rewind(task) if rewind else 0):
        task.fit(stream, dual=dual)
    if rewind:
        _rewind(task, marks)


def _cost_of_rewind(task: Task) -> int:
    """Count the passes that the way back takes, which looks at validation images."""
    if not len(task.validation):
        raise SalunError("method 'scrub': rewind: there are no validation images; give them, or rewind=False")
    return len(task.forget) + len(task.validation)


def _mark(task: Task) -> _Mark:
    """Note the error on the forget images and the weights that make it."""
    error = 1 - float(predict(task.model, task.forget).correct.float().mean())
    return error, {name: tensor.clone() for name, tensor in task.model.state_dict().items()}


def _rewind(task: Task, marks: list[_Mark]) -> None:
    """Go back to the epoch whose forget error is nearest to that on unseen images, of equal ones the later."""
    shares = torch.bincount(task.forget.labels.cpu(), minlength=task.classes) / len(task.forget)
    known = class_accuracies(predict(task.model, task.validation), task.classes)
    wanted = float(1 - (shares * known).sum())
    marks.append(_mark(task))
    task.model.load_state_dict(min(reversed(marks), key=lambda each: abs(each[0] - wanted))[1])
