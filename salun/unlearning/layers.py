"""The first layer of a model and its head, and layers whose weights are drawn anew."""

import torch
from torch import nn

from salun.models.features import classifiers
from salun.unlearning.freezing import last_layers


def first_layer(model: nn.Module) -> dict[str, nn.Module]:
    """Find the first layer by name: the first convolution, of a transformer the patch embedding.

    Args:
        model: any.

    Returns:
        The layer; where there is no convolution, the first without parts that has a weight of two or more dimensions.
    """
    found = list(model.named_modules())
    convolutions = ((name, module) for name, module in found if isinstance(module, nn.Conv2d))
    others = ((name, module) for name, module in found if not list(module.children()) and matrices(module))
    return dict([next(convolutions, None) or next(others, ("", model))])


def matrices(layer: nn.Module) -> list[nn.Parameter]:
    """List the weights of two or more dimensions of a layer and its parts."""
    return [weight for weight in layer.parameters() if weight.ndim > 1]


def head_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find by name the layers that give a model's logits; where they are not known, its last layer."""
    heads = classifiers(model)
    return {name: module for name, module in model.named_modules() if module in heads} or last_layers(model, 1)


@torch.no_grad()
def reset_layers(layers: dict[str, nn.Module], fresh: nn.Module) -> None:
    """Give layers, without their parts, the weights and buffers that they have in another model.

    Args:
        layers: by name, edited in place.
        fresh: of the same architecture.
    """
    others = dict(fresh.named_modules())
    for name, layer in layers.items():
        values = [*others[name].parameters(recurse=False), *others[name].buffers(recurse=False)]
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        for tensor, value in zip(own, values, strict=True):
            tensor.copy_(value)
