"""The last layers of a model, trained while all before them stands still."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


def last_layers(model: nn.Module, k: int) -> dict[str, nn.Module]:
    """Find the last k layers and all that is registered after the first of them.

    Args:
        model: any.
        k: layers that count: those without parts that have a weight of two or more dimensions.

    Returns:
        Modules by name, in order; of each its own weights and buffers are meant, not those of its parts. The
        whole model where it has fewer than k such layers.
    """
    found = list(model.named_modules())
    counted = [
        place
        for place, (_, module) in enumerate(found)
        if not list(module.children()) and any(weight.ndim > 1 for weight in module.parameters())
    ]
    return dict(found[counted[-k] :] if k <= len(counted) else found)


@contextmanager
def training_only(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let only some layers' own weights, not those of their parts, take a gradient inside the block."""
    with training_weights(model, (weight for layer in layers for weight in layer.parameters(recurse=False))):
        yield


@contextmanager
def training_weights(model: nn.Module, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let only some weights of a model take a gradient inside the block."""
    trained = set(map(id, weights))
    frozen = [weight for weight in model.parameters() if id(weight) not in trained and weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(True)
