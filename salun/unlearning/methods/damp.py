from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.training.evaluate import evaluating
from salun.unlearning import PositiveInt, Task, method

_Layer = nn.Conv2d | nn.Linear
_NEGLIGIBLE = 1e-6
_HELD_OUT = 5
_FEWEST = 10


@method(classwise=True)
def damp(task: Task, *, stages: PositiveInt = 5) -> None:
    """Project the directions that only forgotten classes have out of some layers' weights, more in deeper ones (DAMP).

    One look at every image, and no training. A layer whose inputs have no more dimensions than there are classes to
    retain has no such direction, and stays.

    Args:
        task: what to unlearn.
        stages: how many layers are edited, evenly spread over those after the first one; the head is the last.

    Equation:
        W_l <- W_l (I - a_l Q Q^T); Q an orthonormal basis of d_f = mu_f - R R^+ mu_f, f the forgotten classes, mu the
        mean inputs of the layer by class, R = those of the classes to retain; a_l = min(1, max(0, 2 s_l - 1)) l / L
        for layer l of L, s_l the accuracy of a linear classifier of inputs, to forget or to retain, on held-out images.

    Deviations:
        There is no public code, and the equations are all of the paper that this follows. How inputs are averaged and
        how the classifier is trained is this file's reading: a convolution's inputs are averaged over places and
        projected channel by channel, a token's over tokens; the classifier is a logistic regression on forget and as
        many retain images, every fifth held out, or none of fewer than ten. Grouped convolutions are not edited.

    Source:
        Hatami, Aalishah and Monosov, "Class Unlearning via Depth-Aware Removal of Forget-Specific Directions", CVPR
        2026 workshop on machine unlearning for vision, https://arxiv.org/abs/2604.15166.
    """
    chosen = _spread(task.model, stages)
    forget, retain = (_inputs_of(task.model, chosen, images) for images in (task.forget, task.retain))
    labels = task.forget.labels.cpu(), task.retain.labels.cpu()
    for depth, (layer, lost, kept) in enumerate(zip(chosen, forget, retain, strict=True), 1):
        basis = _directions(_means(lost, labels[0]), _means(kept, labels[1]))
        strength = min(1.0, max(0.0, 2 * _separability(lost, kept) - 1)) * depth / len(chosen)
        _project(layer.weight, basis, strength)


def _spread(model: nn.Module, count: int) -> list[_Layer]:
    """Choose layers after the first one, evenly spread, the last among them."""
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1
    ][1:]
    count = min(count, len(layers))
    return [layers[(place + 1) * len(layers) // count - 1] for place in range(count)]


def _inputs_of(model: nn.Module, layers: list[_Layer], images: Images) -> list[Tensor]:
    """Average what each layer gets of every image over places: (N, D) float64 on the CPU."""
    with torch.no_grad(), evaluating(model), _seeing(layers) as seen:
        for batch in images.batches(256):
            model(batch.x)
    return [torch.cat(parts).double().cpu() for parts in seen]


@contextmanager
def _seeing(layers: list[_Layer]) -> Iterator[list[list[Tensor]]]:
    """Keep the inputs of layers, averaged over places."""
    seen: list[list[Tensor]] = [[] for _ in layers]

    def see(layer: nn.Module, inputs: tuple[Tensor, ...], place: int) -> None:
        channels_first = inputs[0] if isinstance(layer, nn.Conv2d) else inputs[0].movedim(-1, 1)
        seen[place].append(channels_first.reshape(*channels_first.shape[:2], -1).mean(2))

    hooks = [layer.register_forward_pre_hook(partial(see, place=place)) for place, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _means(inputs: Tensor, labels: Tensor) -> Tensor:
    """Average (N, D) inputs by class, of those that have any: (D, classes)."""
    return torch.stack([inputs[labels == label].mean(0) for label in labels.unique()], 1)


def _directions(forget: Tensor, retain: Tensor) -> Tensor:
    """Find an orthonormal (D, K) basis of what (D, F) means have beside the span of (D, R) means."""
    beside = forget - retain @ (torch.linalg.pinv(retain) @ forget)
    sizes = beside.norm(dim=0)
    known = sizes > _NEGLIGIBLE * forget.norm(dim=0)
    basis: Tensor = torch.linalg.qr(beside[:, known] / sizes[known]).Q
    return basis


def _separability(forget: Tensor, retain: Tensor) -> float:
    """Measure how well a linear classifier tells forget from retain inputs that it was not trained on."""
    from sklearn.linear_model import LogisticRegression

    count = min(len(forget), len(retain))
    inputs = torch.cat([part[torch.arange(count) * len(part) // count] for part in (forget, retain)])
    wanted = (torch.arange(2 * count) >= count).long()
    held = torch.arange(2 * count) % count % _HELD_OUT == 0
    fitted = ~held
    if count < _FEWEST:
        held, fitted = torch.ones_like(held), torch.ones_like(held)
    spread = inputs[fitted].std(0).clamp(min=_NEGLIGIBLE)
    inputs = (inputs - inputs[fitted].mean(0)) / spread
    probe = LogisticRegression(max_iter=1000).fit(inputs[fitted].numpy(), wanted[fitted].numpy())
    return float(probe.score(inputs[held].numpy(), wanted[held].numpy()))


@torch.no_grad()
def _project(weight: Tensor, basis: Tensor, strength: float) -> None:
    """Take a share of some directions of the input out of a layer's (O, D, ...) weights."""
    basis = basis.to(weight)
    along = torch.einsum("od...,dk->ok...", weight, basis)
    weight.sub_(strength * torch.einsum("ok...,dk->od...", along, basis))
