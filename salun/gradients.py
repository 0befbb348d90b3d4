"""Gradients of a model that stands still: of each image alone, of batches, and their squares."""

from collections.abc import Callable, Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from salun.data.images import Images
from salun.training import evaluating

Gradients = dict[str, Tensor]
Objective = Callable[[Tensor, Tensor], Tensor]
Each = Literal["image", "batch"]

GRADIENT_BYTES = 256 * 1024**2
MOST_IMAGES = 64


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy.

    Args:
        logits: (B, C).
        labels: (B,) int64.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits, labels)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the weights that a method may edit.

    Args:
        model: any.

    Returns:
        Weights that take a gradient, by name.
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def image_gradients(model: nn.Module, images: Images, objective: Objective = mean_cross_entropy) -> Iterator[Gradients]:
    """Compute the gradient of every image alone, many at once, in evaluation mode.

    Args:
        model: is left as it is.
        images: N images, taken in order and plain.
        objective: of the (1, C) float32 logits of one image and its (1,) label.

    Yields:
        Gradients of up to 64 images, as many as fit into 256 MiB: by name of the weight, (images, *shape).
    """
    weights = {name: weight.detach() for name, weight in trainable(model).items()}
    others = {name: weight.detach() for name, weight in model.named_parameters() if name not in weights}
    constant = others | dict(model.named_buffers())
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())

    def of_one(moved: Gradients, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, {**constant, **moved}, (x[None],))
        return objective(cast(Tensor, logits).float(), y[None])

    gradients = vmap(grad(of_one), in_dims=(None, 0, 0))
    with evaluating(model):
        for batch in images.batches(max(1, min(MOST_IMAGES, GRADIENT_BYTES // size))):
            yield gradients(weights, batch.x, batch.y)


def batch_gradients(
    model: nn.Module, images: Images, batch_size: int, objective: Objective = mean_cross_entropy
) -> Iterator[tuple[Gradients, int]]:
    """Compute the gradient of every batch, in evaluation mode.

    Args:
        model: is left as it is.
        images: N images, taken in order and plain.
        batch_size: images a gradient; the last may be of fewer.
        objective: of the (B, C) float32 logits and the (B,) labels of a batch.

    Yields:
        A gradient a weight, by name, zeros where the objective does not depend on it; and the images in the batch.
    """
    weights = trainable(model)
    with evaluating(model):
        for batch in images.batches(batch_size):
            value = objective(model(batch.x).float(), batch.y)
            found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
            yield dict(zip(weights, found, strict=True)), len(batch.x)


def mean_gradient(
    model: nn.Module, images: Images, batch_size: int = 256, objective: Objective = mean_cross_entropy
) -> Gradients:
    """Average the gradient over all images.

    Args:
        model: is left as it is.
        images: N images.
        batch_size: images at once; the mean does not depend on it.
        objective: of logits and labels, a mean over the images of a batch.

    Returns:
        A tensor a weight, by name.
    """
    total = {name: torch.zeros_like(weight) for name, weight in trainable(model).items()}
    for gradients, count in batch_gradients(model, images, batch_size, objective):
        for name, gradient in gradients.items():
            total[name].add_(gradient, alpha=count / len(images))
    return total


def squared_gradients(
    model: nn.Module,
    images: Images,
    each: Each = "image",
    batch_size: int = 256,
    objective: Objective = mean_cross_entropy,
) -> Gradients:
    """Average squared gradients: of single images, the diagonal of the empirical Fisher information; or of batches.

    The square of a batch's mean gradient is not the mean of its images' squares: it is smaller, by a factor of about
    the batch's size where the images' gradients are independent.

    Args:
        model: is left as it is.
        images: N images, taken in order and plain.
        each: "image", the mean over all images; "batch", the mean over batches, of which a small last one counts in
            full.
        batch_size: images a batch, for "batch".
        objective: of logits and labels.

    Returns:
        A tensor a weight, by name; none negative.
    """
    return averaged(torch.square, model, images, each, batch_size, objective)


def absolute_gradients(
    model: nn.Module,
    images: Images,
    each: Each = "image",
    batch_size: int = 256,
    objective: Objective = mean_cross_entropy,
) -> Gradients:
    """Average absolute gradients, of single images or of batches.

    Args:
        model: is left as it is.
        images: N images, taken in order and plain.
        each: "image" or "batch", as for squared gradients.
        batch_size: images a batch, for "batch".
        objective: of logits and labels.

    Returns:
        A tensor a weight, by name; none negative.
    """
    return averaged(torch.abs, model, images, each, batch_size, objective)


def averaged(
    change: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Images,
    each: Each,
    batch_size: int,
    objective: Objective,
) -> Gradients:
    """Average what becomes of gradients.

    Args:
        change: of a gradient, entry by entry.
        model: is left as it is.
        images: N images, taken in order and plain.
        each: gradients of single images or of batches.
        batch_size: images a batch.
        objective: of logits and labels.

    Returns:
        A tensor a weight, by name.
    """
    total = {name: torch.zeros_like(weight) for name, weight in trainable(model).items()}
    count = 0
    if each == "image":
        for found in image_gradients(model, images, objective):
            count += len(next(iter(found.values())))
            for name, gradient in found.items():
                total[name] += change(gradient).sum(0)
    else:
        for gradients, _ in batch_gradients(model, images, batch_size, objective):
            count += 1
            for name, gradient in gradients.items():
                total[name] += change(gradient)
    return {name: summed / max(count, 1) for name, summed in total.items()}
