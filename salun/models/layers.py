"""Layers of a model: which ones are compared (stem, blocks and head of any timm model), and what they give."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from salun.device import full_precision
from salun.errors import SalunError, did_you_mean
from salun.models.features import classifiers

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d)


@torch.no_grad()
def default_layers(network: nn.Module, x: Tensor) -> list[str]:
    """List the layers that tell how a model goes from pixels to logits.

    A ResNet gives its stem convolution, each residual block and the head; a VGG each convolution after its activation
    and the head; a vision transformer its patch embedding, each block, the last norm and the head.

    Args:
        network: any timm model.
        x: (B, C, H, W) input to try the layers on, B at least 2.

    Returns:
        Names of modules that give a tensor with one row an image, in the order of the model.

    Raises:
        SalunError: there is no such layer.
    """
    outputs, _ = _try_layers(network.eval(), _with_head(network, list(_blocks(network, ""))), x)
    found = [name for name, output in outputs.items() if _by_image(output, len(x))]
    if not found:
        raise SalunError(f"model {type(network).__name__}: no layers found; name them with --layers")
    return found


def _by_image(output: object, count: int) -> bool:
    """Tell whether an output has one row an image."""
    return isinstance(output, Tensor) and output.ndim > 1 and len(output) == count


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    """Walk a model down to its blocks."""
    if isinstance(module, nn.Sequential):
        kept = _ends_of_stages(module)
    else:
        kept = [name for name, child in module.named_children() if _is_layer(child)]
    for name, child in module.named_children():
        if not list(child.children()):
            if name in kept:
                yield prefix + name
        elif isinstance(child, _CONTAINERS[:2]) or _holds_blocks(child):
            yield from _blocks(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name


def _is_layer(child: nn.Module) -> bool:
    """Tell whether a single layer is worth comparing: it has weights and is more than a batch normalisation."""
    return any(True for _ in child.parameters()) and not isinstance(child, _BatchNorm)


def _ends_of_stages(sequence: nn.Sequential) -> list[str]:
    """Find, in layers that follow each other, the last of each stage: a weighted layer, its norm, its activation."""
    ends: list[str] = []
    stage_open = False
    for name, layer in sequence.named_children():
        if isinstance(layer, _IDLE):
            continue
        if list(layer.children()) or "pool" in type(layer).__name__.lower():
            stage_open = False
        elif isinstance(layer, _WEIGHTED):
            ends.append(name)
            stage_open = True
        elif stage_open:
            ends[-1] = name
    return ends


def _holds_blocks(module: nn.Module) -> bool:
    """Tell a stage, which is a row of blocks, from a block."""
    rows = (child for child in module.children() if isinstance(child, _CONTAINERS))
    return any(list(part.children()) for row in rows for part in row.children())


def _with_head(network: nn.Module, names: list[str]) -> list[str]:
    """Put the linear layer of the head in the place of the part that holds it."""
    known = classifiers(network)
    head = next((name for name, module in network.named_modules() if known and module is known[0]), None)
    if head is None or len(known) > 1 or isinstance(known[0], nn.Identity):
        return names
    return [name for name in names if head != name and not head.startswith(f"{name}.")] + [head]


@torch.no_grad()
def check_layers(network: nn.Module, layers: Sequence[str], x: Tensor) -> list[str]:
    """Check the layers that a user names.

    Args:
        network: any model.
        layers: names of modules.
        x: (B, C, H, W) input to try them on.

    Returns:
        The names, each once.

    Raises:
        SalunError: the model has no such layer, or its output has not one row an image.
    """
    names = [name for name, _ in network.named_modules() if name]
    for layer in layers:
        if layer not in names:
            raise SalunError(f"--layers {layer}: the model has none of that name{did_you_mean(layer, names)}")
    outputs, _ = _try_layers(network.eval(), layers, x)
    for name, output in outputs.items():
        if not _by_image(output, len(x)):
            given = f"an output of shape {tuple(output.shape)}" if isinstance(output, Tensor) else "no tensor"
            raise SalunError(f"--layers {name}: gives {given}, not one row an image, when the model runs")
    return list(outputs)


def outputs_at(network: nn.Module, layers: Sequence[str], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Run a model once and keep what some of its layers give.

    Args:
        network: any model.
        layers: names of modules.
        x: (B, C, H, W).

    Returns:
        The layers' outputs by name, of their last call, and (B, classes) logits.

    Raises:
        SalunError: a layer is never called, or gives no tensor.
    """
    caught, logits = _try_layers(network, layers, x)
    outputs = {name: output for name, output in caught.items() if isinstance(output, Tensor)}
    for name in layers:
        if name not in outputs:
            raise SalunError(f"layer {name}: gives no tensor when the model runs")
    return outputs, logits


def _try_layers(network: nn.Module, layers: Sequence[str], x: Tensor) -> tuple[dict[str, object], Tensor]:
    """Run a model once to see what some of its layers give."""
    caught: dict[str, object] = dict.fromkeys(layers)

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            # An activation that works in place, further on, would change what is kept.
            caught[name] = output.clone() if isinstance(output, Tensor) else output

        return hook

    modules = dict(network.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in caught]
    try:
        with full_precision(x.device):
            logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return caught, logits
