from typing import Annotated

import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.unlearning import Around, PositiveFloat, PositiveInt, Task, method
from salun.unlearning.gradients import Gradients, image_gradients, mean_gradient, trainable


@method(keeps=False)
def iu(
    task: Task,
    *,
    alpha: Annotated[PositiveFloat, Around(30)] = 1.0,
    n: PositiveInt = 1000,
    batch_size: PositiveInt = 256,
) -> None:
    """Influence unlearning: one step to where the weights would be without the forget images, by WoodFisher.

    Args:
        task: what to unlearn.
        alpha: length of the step; the authors search from 1 to 20.
        n: N of the WoodFisher recursion, in its denominators; it goes over the first n + 2 retain images.
        batch_size: images at once for the mean gradients, which do not depend on it.

    Equation:
        v = |forget| / (|forget| + |retain|) (mean gradient of forget - mean gradient of retain);
        k = v, o = g_1, then for the gradients g_2, g_3, ... of single retain images
        k <- k - (k g) / (N + o g) o, o <- o - (o g) / (N + o g) o; w <- w + alpha k.

    Deviations:
        WoodFisher multiplies v by the inverse of the empirical Fisher matrix; the authors' code, which is followed,
        keeps one vector o of that matrix instead of the matrix, takes N as 1000 however many images there are, and
        looks at the first 1002 retain images alone. Since o stays a multiple of g_1, the recursion is run here on
        the coefficients of g_1 in o and in k, which is the same step. The influence function's step has `alpha` 1.
        For ImageNet the code takes both mean gradients over the forget set and N = 300,000; this is not followed.

    Source:
        Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017,
        https://arxiv.org/abs/1703.04730; Izzo, Smart, Chaudhuri and Zou, "Approximate Data Deletion from Machine
        Learning Models", AISTATS 2021, https://arxiv.org/abs/2002.10077; Singh and Alistarh, "WoodFisher: Efficient
        Second-Order Approximation for Neural Network Compression", NeurIPS 2020, https://arxiv.org/abs/2004.14340;
        as used by Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
        https://arxiv.org/abs/2304.04934.
    """
    share = len(task.forget) / (len(task.forget) + len(task.retain))
    of_forget, of_retain = (mean_gradient(task.model, images, batch_size) for images in (task.forget, task.retain))
    v = {name: share * (gradient - of_retain[name]) for name, gradient in of_forget.items()}
    first, coefficient = _woodfisher(task.model, task.retain, v, n)
    with torch.no_grad():
        for name, weight in trainable(task.model).items():
            weight.add_(alpha * (v[name] - coefficient * first[name]))


def _woodfisher(model: nn.Module, images: Images, v: Gradients, n: int) -> tuple[Gradients, float]:
    """Run the recursion k <- k - (k g) / (n + o g) o over the gradients of single images, in order."""
    first: Gradients = {}
    rows = []
    for found in image_gradients(model, images.take(torch.arange(min(n + 2, len(images))))):
        first = first or {name: gradient[0].clone() for name, gradient in found.items()}
        rows.append(torch.stack([_products(found, first), _products(found, v)], 1))
    c, s = 1.0, 0.0
    for along_first, along_v in torch.cat(rows)[1:].tolist():
        along_o = c * along_first
        s += (along_v - s * along_first) / (n + along_o) * c
        c -= along_o / (n + along_o) * c
    return first, s


def _products(gradients: Gradients, vector: Gradients) -> Tensor:
    """Multiply gradients by a vector of the weights' shapes."""
    parts = [gradient.flatten(1) @ vector[name].flatten() for name, gradient in gradients.items()]
    return torch.stack(parts).sum(0)
