import math
from typing import Annotated

import torch
from torch import Tensor

from salun.unlearning import Around, NonNegativeFloat, PositiveInt, Task, method
from salun.unlearning.gradients import Each, Gradients, dampen, squared_gradients
from salun.unlearning.topk import largest


@method()
def assd(
    task: Task,
    *,
    dampening: Annotated[NonNegativeFloat, Around(10)] = 1.0,
    each: Each = "batch",
    batch_size: PositiveInt = 128,
) -> None:
    """Adaptive selective synaptic dampening: `ssd` whose alpha follows from the size of the forget set.

    The larger the share of the images that is to be forgotten, the more weights are dampened: 0.7 % of them for 1 %
    of the images, 2.4 % for 10 %.

    Args:
        task: what to unlearn.
        dampening: lambda of the paper, which keeps it at 1; the smaller, the stronger.
        each: squares of the gradients of "batch" means, as the code has it, or of every "image".
        batch_size: images a gradient, for "batch"; the importance depends on it.

    Equation:
        p = 100 - ln(1 + 100 |forget| / |all|); alpha = the p-th percentile of F(forget) / F(retain) over all weights;
        where F(forget) > alpha F(retain): w <- min(lambda F(retain) / F(forget), 1) w.

    Deviations:
        The paper holds the forget set against all images and writes the ratio the other way round; its code, which
        is followed, holds it against the retain images and takes F(forget) / F(retain). As in `ssd` the default F
        squares the gradients of batches, of which the mean of the images' squares, each "image", is the definition.
        The code reads the model in training mode; here it is in evaluation mode, as for `ssd`.

    Source:
        Schoepf, Foster and Brintrup, "Parameter-tuning-free data entry error unlearning with adaptive selective
        synaptic dampening", 2024, https://arxiv.org/abs/2402.10098, the selection of alpha; the dampening is that of
        https://arxiv.org/abs/2308.07707.
    """
    of_forget = squared_gradients(task.model, task.forget, each, batch_size)
    of_retain = squared_gradients(task.model, task.retain, each, batch_size)
    share = len(task.forget) / (len(task.forget) + len(task.retain))
    alpha = _percentile(_ratios(of_forget, of_retain), 100 - math.log(1 + 100 * share))
    dampen(task.model, of_forget, of_retain, alpha, dampening)


def _ratios(forget: Gradients, retain: Gradients) -> Tensor:
    """Divide importances."""
    found = torch.cat([(forget[name] / retain[name]).flatten() for name in forget])
    finite = found[found.isfinite()]
    return finite if len(finite) else found.new_zeros(1)


def _percentile(values: Tensor, percent: float) -> float:
    """Find a percentile by selection, with linear interpolation between neighbours."""
    place = (len(values) - 1) * percent / 100
    below = math.floor(place)
    low = float(largest(values, len(values) - below))
    high = float(largest(values, max(len(values) - below - 1, 1)))
    return low + (place - below) * (high - low)
