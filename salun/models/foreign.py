"""Weights that other programs wrote: found in their files, and fitted to a model."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salun.errors import SalunError
from salun.io.tensors import read_tensors

# Where programs keep the weights: PyTorch's own habit, timm, Lightning, the official code, DeiT, MAE.
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "weights", "module")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# DataParallel, torch.compile, Lightning's usual attribute, and those of many a script.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_NORMALIZE = ("normalize.mean", "normalize.std")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class ForeignWeights:
    """The weights of a file.

    Attributes:
        weights: by name, prefixes and normalisation left out once they are fitted.
        holder: the key that they stood under; empty where the file is the state itself.
        digest: SHA-256 of the file.
        mean: of each channel, where the file has a normalisation layer.
        std: likewise.
    """

    weights: dict[str, Tensor]
    holder: str
    digest: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def read_foreign(path: Path, averaged: bool = False) -> ForeignWeights:
    """Read the weights of a model that another program saved, running no code from the file.

    Args:
        path: a `state_dict`, alone or in a checkpoint of timm, Lightning or the official code, or safetensors.
        averaged: whether the exponential moving average is taken where the file has one.

    Returns:
        The weights.

    Raises:
        SalunError: the file cannot be read, or holds no weights.
    """
    content = read_tensors(path, "file of weights", foreign=True)
    if isinstance(content, dict) and {"model", "config"} <= content.keys():
        raise SalunError(f"{path}: a checkpoint of salun; every command reads it as it is")
    holder, weights = _find_weights(path, content, averaged)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    names = {name: key for key in weights for name in _NORMALIZE if key.endswith(name)}
    if len(names) < len(_NORMALIZE):
        return ForeignWeights(weights, holder, digest)
    mean, std = (tuple(weights[names[name]].double().flatten().tolist()) for name in _NORMALIZE)
    left = {key: tensor for key, tensor in weights.items() if key not in names.values()}
    return ForeignWeights(left, holder, digest, mean, std)


def _find_weights(path: Path, content: Any, averaged: bool) -> tuple[str, dict[str, Tensor]]:
    """Find the dictionary of tensors in a file, and the key that it stands under."""
    if not isinstance(content, dict):
        raise SalunError(f"{path}: holds a {type(content).__name__}, not the weights of a model")
    for holder in _AVERAGED if averaged else ("", *_HOLDERS):
        found = content.get(holder) if holder else content
        if isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values()):
            return holder, {str(name): tensor for name, tensor in found.items()}
    if averaged:
        raise SalunError(f"{path}: holds no moving average; known are the keys {', '.join(_AVERAGED)}")
    keys = ", ".join(map(str, list(content)[:8]))
    raise SalunError(f"{path}: holds no weights; its keys are {keys or 'none'}; known are {', '.join(_HOLDERS)}")


def fit_weights(path: Path, found: ForeignWeights, model: nn.Module) -> ForeignWeights:
    """Bring foreign weights to the names of a model.

    Args:
        path: of the file, for the text of errors.
        found: what was read from it.
        model: that the weights are of.

    Returns:
        The weights by the model's names, in its order.

    Raises:
        SalunError: no way of taking prefixes off makes them fit, or one holds values that are no numbers; the first
            such weight is named.
    """
    wanted = model.state_dict()
    best = max(_stripped(found.weights), key=lambda weights: sum(_fits(weights, name, wanted) for name in wanted))
    for name, tensor in wanted.items():
        if name not in best and name.endswith(_COUNTER):
            best[name] = torch.zeros_like(tensor)
    if fault := misfit(best, wanted):
        raise SalunError(f"{path}: {fault}")
    for name, tensor in best.items():
        if not bool(tensor.isfinite().all()):
            raise SalunError(f"{path}: weight '{name}' holds values that are no numbers; did its training diverge?")
    return replace(found, weights={name: best[name].to(tensor.dtype) for name, tensor in wanted.items()})


def misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Say what keeps weights from fitting a model.

    Args:
        weights: by name.
        wanted: the model's own.

    Returns:
        What is wrong with the first weight that does not fit; None where all do.
    """
    for name, tensor in wanted.items():
        if name not in weights:
            return f"lacks the weight '{name}' of the model; it holds {_some(weights)}"
        if weights[name].shape != tensor.shape:
            shapes = f"is {tuple(weights[name].shape)}, the model's {tuple(tensor.shape)}"
            last = name in list(wanted)[-2:]  # weight or bias of the layer that gives the logits
            return f"weight '{name}' {shapes}{_classes_apart(weights[name], tensor) if last else ''}"
    unknown = [name for name in weights if name not in wanted]
    return f"holds the weight '{unknown[0]}', which the model has not" if unknown else None


def prefix_of(weights: Mapping[Any, Any]) -> str | None:
    """Find the prefix that another program put before the names of all weights.

    Args:
        weights: by name.

    Returns:
        The prefix, or None.
    """
    return next((prefix for prefix in _PREFIXES if weights and all(str(n).startswith(prefix) for n in weights)), None)


def _stripped(weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Take known prefixes off, one after the other; weights beside the model, as of a loss, have none and are left."""
    level, prefixes = [weights], (*_PREFIXES, *_common_prefix(weights))
    while level:
        yield from level
        level = [
            {name.removeprefix(prefix): tensor for name, tensor in each.items() if name.startswith(prefix)}
            for each in level
            for prefix in prefixes
            if any(name.startswith(prefix) for name in each)
        ]


def _common_prefix(weights: Mapping[str, Tensor]) -> list[str]:
    """Find the name of a module that holds all weights: a wrapper that another program put around the model."""
    modules = {name.partition(".")[0] for name in weights if "." in name}
    return [f"{modules.pop()}."] if len(modules) == 1 and all("." in name for name in weights) else []


def _fits(weights: Mapping[str, Tensor], name: str, wanted: Mapping[str, Tensor]) -> float:
    """Tell whether a weight is there, and whether its shape is right, which counts more."""
    return 0.0 if name not in weights else 1.0 if weights[name].shape == wanted[name].shape else 0.5


def _classes_apart(given: Tensor, wanted: Tensor) -> str:
    """Say that two shapes differ in the number of classes alone, if so."""
    if given.ndim == wanted.ndim and given.shape[1:] == wanted.shape[1:]:
        return f": a model of {given.shape[0]} classes, not {wanted.shape[0]}"
    return ""


def _some(weights: Mapping[str, Tensor]) -> str:
    """Name the first weights."""
    return ", ".join(f"'{name}'" for name in list(weights)[:4]) + (", ..." if len(weights) > 4 else "")
