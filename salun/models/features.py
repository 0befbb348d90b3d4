"""What a model computes before its last layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from salun.errors import SalunError, did_you_mean

_TWO_TOKENS = ("VisionTransformerDistilled", "PoolingVisionTransformer")
_HEAD = "salun_head"


def embed(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the features that the classification head sees.

    Args:
        model: of timm, or with a head that `mark_head` found.
        x: (B, C, H, W) model input.

    Returns:
        (B, D) features; `head(model)` maps them to logits. A distilled transformer's two heads read a token each: D
        counts both.

    Raises:
        SalunError: the head is not known.
    """
    if hasattr(model, _HEAD) or not hasattr(model, "forward_head"):
        with features_seen(model) as seen:
            model(x)
            return seen()
    features = cast(Any, model).forward_features(x)
    if _has_two_tokens(model):
        return cast(Tensor, features[:, :2].flatten(1))
    return cast(Tensor, cast(Any, model).forward_head(features, pre_logits=True))


@torch.no_grad()
def mark_head(model: nn.Module, x: Tensor, name: str | None = None) -> None:
    """Find the classification head of a model unlike timm's, the layer whose output is the logits, and remember it.

    Args:
        model: any, in evaluation mode.
        x: (B, C, H, W) model input to try it on.
        name: of the head among the model's modules; None takes the last linear layer, where that gives the logits.

    Raises:
        SalunError: there is no layer of that name, or its output is not the logits.
    """
    if name is None and hasattr(model, "get_classifier"):
        return
    modules = dict(model.named_modules())
    if name is not None and name not in modules:
        raise SalunError(f"head='{name}': the model has no such layer{did_you_mean(name, filter(None, modules))}")
    linear = [known for known, layer in modules.items() if isinstance(layer, nn.Linear)]
    found = name or next(reversed(linear), None)
    if found is None:
        return
    outputs: list[Any] = []
    hook = modules[found].register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    try:
        logits = model(x)
    finally:
        hook.remove()
    if outputs and isinstance(outputs[-1], Tensor) and torch.equal(outputs[-1].flatten(1), logits):
        setattr(model, _HEAD, found)
    elif name is not None:
        raise SalunError(f"head='{name}': the layer's output is not the model's logits")


def classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """List the layers that give a model's logits: two of a distilled transformer, none where they are not known."""
    if hasattr(model, _HEAD):
        return (model.get_submodule(getattr(model, _HEAD)),)
    found = getattr(model, "get_classifier", lambda: ())()
    return found if isinstance(found, tuple) else (found,)


def _heads_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """List the layers that give a model's logits, of which there must be one."""
    layers = classifiers(model)
    if not layers:
        reason = "no linear layer gives its logits, so its features are not known; name its last layer with head="
        raise SalunError(f"model {type(model).__name__}: {reason}")
    return layers


@contextmanager
def features_seen(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Watch what the classification head of a model sees, for losses on the features of a forward pass.

    Args:
        model: of timm, or with a head that `mark_head` found.

    Yields:
        A function that gives the (B, D) float32 features of the model's last forward pass, with their gradient.

    Raises:
        SalunError: the head is not known.
    """
    layers = _heads_of(model)
    parts: dict[int, Tensor] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...], place: int) -> None:
        parts[place] = inputs[0].flatten(1).float()

    hooks = [layer.register_forward_pre_hook(partial(see, place=place)) for place, layer in enumerate(layers)]
    try:
        yield lambda: torch.cat([parts[place] for place in range(len(layers))], 1)
    finally:
        for hook in hooks:
            hook.remove()


def head(model: nn.Module) -> nn.Linear:
    """Find the classification head; its weight (classes, D) holds the class prototypes.

    Args:
        model: with a linear head that is known.

    Returns:
        The linear layer; for a 1x1 convolution one of the same weights, for two heads (distillation) their average.

    Raises:
        SalunError: the model's head is not known, or not linear.
    """
    found = _heads_of(model)
    layer: Any = found[0] if len(found) == 1 else found
    if _is_timms(model, "VOLO"):
        raise SalunError("model VOLO: its logits add the largest of every patch, not linear: no prototypes")
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        return _linear_of(layer.weight.flatten(1), layer.bias)
    if isinstance(layer, tuple) and all(isinstance(part, nn.Linear) for part in layer):
        halves = [part.weight / len(layer) for part in layer]
        weight = torch.cat(halves, 1) if _has_two_tokens(model) else torch.stack(halves).sum(0)
        return _linear_of(weight, torch.stack([part.bias for part in layer]).mean(0))
    if not isinstance(layer, nn.Linear):
        raise SalunError(f"model {type(model).__name__}: its head is {type(layer).__name__}, not linear: no prototypes")
    return layer


def _has_two_tokens(model: nn.Module) -> bool:
    """Tell whether a model is a distilled transformer, whose two heads read a token each."""
    return _is_timms(model, *_TWO_TOKENS) and isinstance(cast(Any, model).get_classifier(), tuple)


def _is_timms(model: nn.Module, *names: str) -> bool:
    """Tell whether a model is of one of some classes of timm, which need not be imported for that."""
    return any(kind.__name__ in names and kind.__module__.startswith("timm.") for kind in type(model).__mro__)


def _linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a linear layer of given weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear
