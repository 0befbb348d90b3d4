"""Adversarial examples: images, moved a little in pixel space, that a model takes for another class."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Images
from salun.data.transforms import unit_interval
from salun.training.evaluate import evaluating

_LEVELS = 255


def fgsm(model: nn.Module, images: Images, bound: float, batch_size: int = 256) -> Images:
    """Move each image one step up the loss of its label: the fast gradient sign method.

    x_adv = round(clip(x + bound * sign(d CE(f(x), y) / dx), 0, 1) * 255) / 255, with f in evaluation mode.

    Args:
        model: is left as it is.
        images: N images, taken in order and plain; their normalisation is differentiated through.
        bound: length of the step in each pixel, of pixels in [0, 1].
        batch_size: images at once.

    Returns:
        The N moved images, float32 in [0, 1], under the classes that the model takes them for. Where the step
        crosses no boundary that is the class of before.

    Source:
        Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
        https://arxiv.org/abs/1412.6572.
    """
    moved, classes = [], []
    with evaluating(model):
        for pixels, labels in _pixel_batches(images, batch_size):
            gradient, _ = _loss_gradient(model, images, pixels, labels)
            moved.append(((pixels + bound * gradient.sign()).clamp(0, 1) * _LEVELS).round() / _LEVELS)
            with torch.no_grad():
                classes.append(model(images.view(moved[-1], None)).argmax(1))
    return _computed(images, moved, classes)


def nearest_adversarial(
    model: nn.Module,
    images: Images,
    epsilon: float = 0.04,
    steps: int = 50,
    batch_size: int = 256,
    allowance: Callable[[], float] = lambda: math.inf,
) -> Images:
    """Search for the nearest image that a model takes for another class: projected gradient ascent, L2.

    Every image takes steps of epsilon / 10 along its own normalised gradient, held within epsilon of where it
    was and within [0, 1]. It stops as soon as the model errs. What has not crossed a boundary after `steps` goes on
    with twice the epsilon, until the ball is larger than the cube of all images.

    Args:
        model: is left as it is; runs in evaluation mode.
        images: N images, taken in order and plain; their normalisation is differentiated through.
        epsilon: radius of the first ball, of pixels in [0, 1].
        steps: in each ball.
        batch_size: images at once.
        allowance: is asked before each step how many image passes may still be made, of which the step takes two an
            image; what has not crossed a boundary when they run out keeps its label.

    Returns:
        The N images that were found, float32 in [0, 1], under the classes that the model takes them for: another
        than their label, or the label where none was found.

    Source:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
        https://arxiv.org/abs/1706.06083; the growing ball is of Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran,
        "Not All Wrong is Bad: Using Adversarial Examples for Unlearning", ICML 2025,
        https://arxiv.org/abs/2503.00917.
    """
    found, classes = [], []
    with evaluating(model):
        for pixels, labels in _pixel_batches(images, batch_size):
            moved, seen, left = pixels.clone(), labels.clone(), torch.arange(len(pixels), device=pixels.device)
            radius = epsilon
            widest = 2 * pixels[0].numel() ** 0.5
            while len(left) and radius < widest and 2 * len(left) <= allowance():
                for _ in range(steps):
                    if 2 * len(left) > allowance():
                        break
                    gradient, seen[left] = _loss_gradient(model, images, moved[left], labels[left])
                    still = (seen[left] == labels[left]).nonzero().flatten()
                    left, gradient = left[still], gradient[still]
                    if len(left) == 0:
                        break
                    moved[left] = _climb(pixels[left], moved[left], gradient, radius)
                radius *= 2
            if 0 < len(left) <= allowance():
                with torch.no_grad():
                    seen[left] = model(images.view(moved[left], None)).argmax(1)
            found.append(moved)
            classes.append(seen)
    return _computed(images, found, classes)


def _climb(start: Tensor, moved: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """Take one step of projected gradient ascent."""
    change = moved + radius / 10 * _unit(gradient) - start
    length = change.square().sum((1, 2, 3), keepdim=True).sqrt()
    return (start + change / (length / radius).clamp_min(1)).clamp(0, 1)


def _unit(gradient: Tensor) -> Tensor:
    """Bring each image's gradient to length 1, however small it is."""
    tiny = torch.finfo(gradient.dtype).tiny
    # The largest entry is divided out first: squares of the gradients of a model that is sure would vanish.
    scaled = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / scaled.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(tiny)


def _loss_gradient(model: nn.Module, images: Images, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradient of each image's loss with respect to its pixels."""
    with torch.enable_grad():
        x = pixels.detach().requires_grad_()
        logits = model(images.view(x, None)).float()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    return gradient, logits.detach().argmax(1)


def _pixel_batches(images: Images, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Go once through images as pixels, in order and plain."""
    for rows, labels in zip(images.rows.split(batch_size), images.labels.split(batch_size), strict=True):
        yield unit_interval(images.pixels[rows].to(images.device)), labels


def _computed(images: Images, pixels: list[Tensor], labels: list[Tensor]) -> Images:
    """Make a set of computed images."""
    store = torch.cat(pixels)
    rows = torch.arange(len(store), device=store.device)
    return replace(images, pixels=store, rows=rows, labels=torch.cat(labels))
