from typing import Annotated, Literal

import torch
from torch import Tensor

from salun.models.features import classifiers
from salun.unlearning import Around, PositiveFloat, PositiveInt, Task, method
from salun.unlearning.gradients import Each, Gradients, mean_cross_entropy, squared_gradients, trainable, zeros
from salun.unlearning.noise import noise_source

_LARGEST = 1e3
_LARGEST_IN_HEAD = 1e2
_SMALLEST = 1e-8
_TIMES = 10
_VARIANCE_OF_FORGOTTEN = 1e-4


@method()
def fisher(
    task: Task,
    *,
    alpha: Annotated[PositiveFloat, Around(100)] = 1e-6,
    information: Literal["model", "empirical"] = "model",
    each: Each = "image",
    batch_size: PositiveInt = 32,
    reset_classes: bool = True,
) -> None:
    """Fisher forgetting: add noise to each weight, the more the less the retain images depend on it.

    One look at the retain images for every class; one in all with `information` "empirical".

    Args:
        task: what to unlearn.
        alpha: scale of the noise's variance.
        information: Fisher's, of labels as the "model" would draw them; or "empirical", of the true labels, as many
            times cheaper as there are classes.
        each: squares of the gradients of every "image", or of "batch" means, as the SalUn code's fisher_new has it.
        batch_size: images a gradient, for "batch".
        reset_classes: whether, where whole classes are forgotten, their rows of the head are first set to zero and
            get noise of variance 1e-3.

    Equation:
        F = mean over retain of E_y [squared gradient of log p(y | x)], y ~ p(. | x);
        w <- w + sqrt(alpha V) e, e ~ N(0, 1), V = min(1 / F, 1000), or min(1 / F, 100) in the head, averaged over the
        second dimension, and 10 times as large in the head, in biases and in BatchNorm.

    Deviations:
        The paper's noise has a standard deviation that goes with F^(-1/4); its code, which is followed, takes a
        variance of alpha / F, bounded, averaged and enlarged as in the equation, and resets the rows of a forgotten
        class. The head is the model's classifier rather than every weight with as many rows as there are classes.
        With `each` "batch" the square is of a batch's mean gradient, and every image counts for a label by the
        batch's mean probability of it, however unlikely it is for that image: for a model that is sure of its labels
        F is larger, the noise smaller. With "empirical" it is the other way round, as the gradients of a batch cancel.
        The SalUn code's other variant, "empirical" with noise cut off at 0.001 and times 10 wherever a last dimension
        is 10, is not followed beyond that.

    Source:
        Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        CVPR 2020, https://arxiv.org/abs/1911.04933, and its code; `each` "batch" is that of Fan et al.,
        https://arxiv.org/abs/2310.12508.
    """
    found = _fisher_information(task, information, each, batch_size)
    head = {weight for layer in classifiers(task.model) for weight in layer.parameters()}
    generator = noise_source(task)
    with torch.no_grad():
        for name, weight in trainable(task.model).items():
            variance = _variances(found[name], weight in head, alpha)
            if weight in head and reset_classes and task.forgotten:
                rows = list(task.forgotten)
                weight[rows] = 0
                variance[rows] = _TIMES * _VARIANCE_OF_FORGOTTEN
            noise = torch.randn(weight.shape, generator=generator, device=generator.device)
            weight.add_(variance.sqrt() * noise.to(weight.device))


def _fisher_information(task: Task, information: str, each: Each, batch_size: int) -> Gradients:
    """Compute the diagonal of the Fisher information on the retain images."""
    if information == "empirical":
        return squared_gradients(task.model, task.retain, each, batch_size)
    total = zeros(task.model)
    for label in range(task.classes):
        images = task.retain.relabel(torch.full_like(task.retain.labels, label))
        for name, squares in squared_gradients(task.model, images, each, batch_size, _likely_labels).items():
            total[name] += squares
    return total


def _likely_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute a loss whose squared gradient counts as often as the model would draw the label."""
    probability = logits.detach().softmax(1).gather(1, labels[:, None]).mean()
    return mean_cross_entropy(logits, labels) * probability.sqrt()


def _variances(information: Tensor, in_head: bool, alpha: float) -> Tensor:
    """Turn Fisher information into the variance of noise."""
    variance = alpha * (1 / (information + _SMALLEST)).clamp_(max=_LARGEST_IN_HEAD if in_head else _LARGEST)
    if variance.ndim > 1:
        variance = variance.mean(1, keepdim=True).expand_as(information).clone()
    return variance * _TIMES if in_head or variance.ndim == 1 else variance
