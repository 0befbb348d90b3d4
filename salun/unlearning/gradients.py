"""Gradients of single images, and weights that are dampened by them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from salun.data.images import Images
from salun.training.evaluate import evaluating

Gradients = dict[str, Tensor]
_Objective = Callable[[Tensor, Tensor], Tensor]
Each = Literal["image", "batch"]

# Many images at once save the calls of single operations. A processor gains by it where the weights are few; of
# ResNet-18 the gradients of single images outgrow its caches, and come 1.5 times as fast one by one.
_FEW_WEIGHTS = 1_000_000
_FEW_AT_ONCE = 32
_DEVICE_BYTES = 1024**3
_MOST_AT_ONCE = 64


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of (B, C) logits under (B,) labels."""
    return F.cross_entropy(logits, labels)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the weights that a method may edit, those that take a gradient, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def image_gradients(
    model: nn.Module, images: Images, objective: _Objective = mean_cross_entropy
) -> Iterator[Gradients]:
    """Compute the gradient of every image alone, in evaluation mode.

    Args:
        model: is left as it is.
        images: N images, taken in order and plain.
        objective: of the (1, C) float32 logits of one image and its (1,) label.

    Yields:
        Gradients of some images, by name of the weight, (images, *shape): on the CPU of 32 for a model of at most a
        million weights, of one for a larger model; elsewhere of up to 64, as many as fit into 1 GiB.
    """
    at_once = _images_at_once(sum(map(torch.numel, trainable(model).values())), images.device)
    if at_once == 1:
        yield from _stacks(model, images, 1, objective)
    else:
        yield from _stacked_gradients(model, images, at_once, objective)


def _images_at_once(weights: int, device: torch.device) -> int:
    """Choose how many images' gradients, of so many entries each, are computed at once."""
    if device.type == "cpu":
        return _FEW_AT_ONCE if weights <= _FEW_WEIGHTS else 1
    return max(1, min(_MOST_AT_ONCE, _DEVICE_BYTES // (4 * weights)))


def _stacked_gradients(model: nn.Module, images: Images, at_once: int, objective: _Objective) -> Iterator[Gradients]:
    """Compute the gradient of every image alone, many at once: by name, (images, *shape)."""
    weights = {name: weight.detach() for name, weight in trainable(model).items()}
    others = {name: weight.detach() for name, weight in model.named_parameters() if name not in weights}
    constant = others | dict(model.named_buffers())

    def of_one(moved: Gradients, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, {**constant, **moved}, (x[None],))
        return objective(cast(Tensor, logits).float(), y[None])

    gradients = vmap(grad(of_one), in_dims=(None, 0, 0))
    with evaluating(model):
        for batch in images.batches(at_once):
            yield gradients(weights, batch.x, batch.y)


def _stacks(model: nn.Module, images: Images, batch_size: int, objective: _Objective) -> Iterator[Gradients]:
    """Compute the gradient of every batch, in the form of those of single images: by name, (1, *shape)."""
    for gradients, _ in batch_gradients(model, images, batch_size, objective):
        yield {name: gradient[None] for name, gradient in gradients.items()}


def batch_gradients(
    model: nn.Module, images: Images, batch_size: int, objective: _Objective = mean_cross_entropy
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
    model: nn.Module, images: Images, batch_size: int = 256, objective: _Objective = mean_cross_entropy
) -> Gradients:
    """Average the gradient over all images, whatever the batch size; the model is left as it is."""
    total = zeros(model)
    for gradients, count in batch_gradients(model, images, batch_size, objective):
        torch._foreach_add_(list(total.values()), list(gradients.values()), alpha=count / len(images))
    return total


def zeros(model: nn.Module) -> Gradients:
    """Make room for sums of gradients, by name of the weight."""
    return {name: torch.zeros_like(weight) for name, weight in trainable(model).items()}


def squared_gradients(
    model: nn.Module,
    images: Images,
    each: Each = "image",
    batch_size: int = 256,
    objective: _Objective = mean_cross_entropy,
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
    return _averaged(
        lambda total, found: torch._foreach_addcmul_(total, found, found), model, images, each, batch_size, objective
    )


def absolute_gradients(
    model: nn.Module,
    images: Images,
    each: Each = "image",
    batch_size: int = 256,
    objective: _Objective = mean_cross_entropy,
) -> Gradients:
    """Average absolute gradients, of single images or of batches, as `squared_gradients` does squares."""
    return _averaged(
        lambda total, found: torch._foreach_add_(total, torch._foreach_abs(found)),
        model,
        images,
        each,
        batch_size,
        objective,
    )


def _averaged(
    add: Callable[[list[Tensor], list[Tensor]], object],
    model: nn.Module,
    images: Images,
    each: Each,
    batch_size: int,
    objective: _Objective,
) -> Gradients:
    """Average what becomes of gradients."""
    total = zeros(model)
    summed, count, single = list(total.values()), 0, each == "image"
    found = image_gradients(model, images, objective) if single else _stacks(model, images, batch_size, objective)
    for gradients in found:
        for one in zip(*(gradient.unbind() for gradient in gradients.values()), strict=True):
            add(summed, list(one))
            count += 1
    torch._foreach_div_(summed, max(count, 1))
    return total


@contextmanager
def scaled_gradients(factors: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Multiply the gradient of each weight by a factor of its shape inside the block, before it is clipped."""
    hooks = [weight.register_hook(factor.mul) for weight, factor in factors]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def dampen(model: nn.Module, forget: Gradients, everything: Gradients, alpha: float, dampening: float) -> None:
    """Shrink the weights that matter far more to the forget set than to the data as a whole.

    Where F_forget > alpha * F_all, weight *= min(dampening * F_all / F_forget, 1).

    Args:
        model: is edited in place; weights that take no gradient and buffers stay.
        forget: importance of each weight to the forget set, by name; none negative.
        everything: importance to the data that it is held against.
        alpha: a weight is chosen where its importance to the forget set is more than so many times the other.
        dampening: lambda of the paper; 0 sets the chosen weights to zero.

    Source:
        Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
        Dampening", AAAI 2024, https://arxiv.org/abs/2308.07707.
    """
    for name, weight in trainable(model).items():
        factor = (dampening * everything[name] / forget[name]).clamp_(max=1)
        weight.copy_(torch.where(forget[name] > alpha * everything[name], weight * factor, weight))
