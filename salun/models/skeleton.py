"""Models built without memory for their weights, to be filled from a file."""

import warnings
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from salun.models.architecture import Architecture, input_options, known_options, shaped, try_out
from salun.models.build import build

_DRAWS = (Tensor.normal_, Tensor.uniform_)

# What may be asked of weights without memory: the rest is worked out by Python code, which sympy is imported for.
_HARMLESS = {"__get__", "dim", "size", "is_contiguous", "zero_", "fill_"}


def unfilled(architecture: Architecture, shapes: dict[str, torch.Size]) -> nn.Module:
    """Build a model that is about to be given its weights, drawing none where that can be saved.

    Args:
        architecture: what to build.
        shapes: of the weights' state.

    Returns:
        The model in training mode, with weights of any values, or without memory for them ("meta").

    Raises:
        SalunError: as `build` does.
    """
    empty = _skeleton(architecture)
    if empty is not None and shapes_of(empty.state_dict()) == shapes:
        return _copy_of(empty)
    with torch.random.fork_rng(devices=[]):
        return build(architecture)


def fill(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model weights, and memory for them where it has none.

    Args:
        model: is changed in place.
        weights: its whole state; it is copied.

    Raises:
        RuntimeError: they do not fit.
    """
    state = model.state_dict()
    assign = any(tensor.is_meta for tensor in state.values())
    if assign:
        weights = {name: torch.empty(x.shape, dtype=x.dtype).copy_(weights[name]) for name, x in state.items()}
    model.load_state_dict(weights, assign=assign)


def _copy_of(empty: nn.Module) -> nn.Module:
    """Copy a model without memory for its state."""
    return deepcopy(empty, {id(tensor): tensor for tensor in empty.state_dict(keep_vars=True).values()})


@lru_cache
def _skeleton(architecture: Architecture) -> nn.Module | None:
    """Build a model without memory for its state, once, to be copied and filled."""
    model = _skeleton_by_shapes(architecture)
    if model is not None:
        return model
    with suppress(Exception), torch.random.fork_rng(devices=[]):  # whatever it is, `build` will say so again
        model = build(architecture)
        state = model.state_dict(keep_vars=True)
        if not _tied(state):
            model.load_state_dict({name: tensor.to("meta") for name, tensor in state.items()}, assign=True)
            return _copy_of(model)
    return None


def _skeleton_by_shapes(architecture: Architecture) -> nn.Module | None:
    """Build a model without memory and without chance, and see that it takes an image."""
    try:
        options, *_ = known_options(architecture) or input_options(architecture)
        with torch.device("meta"), _Shapes(), warnings.catch_warnings(action="ignore"):
            model = shaped(architecture, options)
        state = model.state_dict(keep_vars=True)
        reached: dict[int, Any] = {id(tensor): tensor for tensor in state.values()}
        filled = deepcopy(model, reached)
        if len(state) < sum(isinstance(found, Tensor) for found in reached.values()) or _tied(state):
            return None
        filled.load_state_dict({name: torch.zeros(x.shape, dtype=x.dtype) for name, x in state.items()}, assign=True)
        try_out(filled, architecture)
    except Exception:  # of any kind, the model's own; `build` will find the same or better options
        return None
    known_options(architecture)[:] = [options]
    return model.train()


def _tied(state: dict[str, Tensor]) -> bool:
    """Tell whether a model has some of its weights under several names."""
    return len(set(map(id, state.values()))) < len(state)


class _Shapes(TorchFunctionMode):
    """While a model is built without memory: draws no weights, and refuses what would compute with them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what a function asks for, as torch asks it of its modes."""
        given = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        if func.__name__ not in _HARMLESS and any(isinstance(x, Tensor) and x.is_meta for x in args):
            raise ValueError(f"computes with its weights: {func.__name__}")
        return func(*args, **given)


def shapes_of(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """List the shapes of a state.

    Args:
        state: named tensors.

    Returns:
        Shapes by name.
    """
    return {name: tensor.shape for name, tensor in state.items()}
