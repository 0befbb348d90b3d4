from typing import Annotated

from salun.unlearning import Around, NonNegativeFloat, PositiveFloat, PositiveInt, Task, method
from salun.unlearning.gradients import Each, dampen, squared_gradients


@method()
def ssd(
    task: Task,
    *,
    alpha: Annotated[PositiveFloat, Around(10)] = 10.0,
    dampening: Annotated[NonNegativeFloat, Around(10)] = 1.0,
    each: Each = "batch",
    batch_size: PositiveInt = 128,
) -> None:
    """Selective synaptic dampening: shrink the weights whose Fisher information comes from the forget images.

    No training: one look at all images. BatchNorm's weights are dampened too, its running statistics stay.

    Args:
        task: what to unlearn.
        alpha: a weight is dampened where its importance to the forget set is more than alpha times that to all
            images. With `each` "image" no importance to all images can be smaller than the forget set's share times
            that to the forget set, so that alpha must stay below one over this share to choose any weight.
        dampening: lambda of the paper; the smaller, the stronger.
        each: squares of the gradients of "batch" means, as the code has it, or of every "image", as the paper has it.
        batch_size: images a gradient, for "batch"; the importance depends on it.

    Equation:
        F(D) = mean over D of the squared gradient of CE; where F(forget) > alpha F(all):
        w <- min(lambda F(all) / F(forget), 1) w.

    Deviations:
        The paper's F is the diagonal of the Fisher information, a mean of the squares of single images' gradients;
        its code squares the gradient of a batch's mean loss, which drops all but what the images of the batch have in
        common, makes F depend on the batch size and lets a small last batch count in full. The default follows the
        code, "image" the paper. As in the code all images are the retain images and, after them, the forget images;
        both are taken unaugmented.

    Source:
        Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
        Dampening", AAAI 2024, https://arxiv.org/abs/2308.07707.
    """
    of_forget = squared_gradients(task.model, task.forget, each, batch_size)
    of_all = squared_gradients(task.model, task.retain.join(task.forget), each, batch_size)
    dampen(task.model, of_forget, of_all, alpha, dampening)
