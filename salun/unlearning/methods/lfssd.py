from typing import Annotated

from torch import Tensor

from salun.unlearning import Around, NonNegativeFloat, PositiveFloat, PositiveInt, Task, method
from salun.unlearning.gradients import Each, absolute_gradients, dampen


@method()
def lfssd(
    task: Task,
    *,
    alpha: Annotated[PositiveFloat, Around(10)] = 10.0,
    dampening: Annotated[NonNegativeFloat, Around(10)] = 1.0,
    each: Each = "batch",
    batch_size: PositiveInt = 128,
) -> None:
    """Loss-free selective synaptic dampening: importance from the size of the logits, without any label.

    Args:
        task: what to unlearn; its labels are not looked at.
        alpha: a weight is dampened where its importance to the forget set is more than alpha times that to all
            images. Importances grow with the gradient, not with its square, so that the same alpha chooses fewer
            weights than in `ssd`.
        dampening: lambda of the paper; the smaller, the stronger.
        each: absolute values of the gradients of "batch" means, as the code has it, or of every "image".
        batch_size: images a gradient, for "batch"; the importance depends on it.

    Equation:
        O(D) = mean over D of |gradient of ||f(x)||^2|, f the logits; where O(forget) > alpha O(all):
        w <- min(lambda O(all) / O(forget), 1) w.

    Deviations:
        The sensitivity is a mean over images; the code takes the absolute value after the mean over a batch, in which
        gradients of opposite signs cancel, and lets a small last batch count in full. The default follows the code.
        As for `ssd` all images are the retain images and, after them, the forget images, unaugmented.

    Source:
        Foster, Schoepf and Brintrup, "Loss-Free Machine Unlearning", Tiny Papers at ICLR 2024,
        https://arxiv.org/abs/2402.19308, the sensitivity; the dampening is that of
        https://arxiv.org/abs/2308.07707.
    """
    of_forget = absolute_gradients(task.model, task.forget, each, batch_size, _squared_norm)
    of_all = absolute_gradients(task.model, task.retain.join(task.forget), each, batch_size, _squared_norm)
    dampen(task.model, of_forget, of_all, alpha, dampening)


def _squared_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute how large the logits are."""
    return logits.square().sum(1).mean()
