"""A device that this machine lacks: its tensors are computed on the processor, under the rules of the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from salun.data.images import Images

ELSEWHERE = torch.device("meta")
LACKING = (torch.float64, torch.complex128)  # types that MPS has not
# Operations that take tensors of two devices: copies, and indexing by what the host holds.
BETWEEN = {
    "_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_", "_local_scalar_dense",
}  # fmt: skip


class Elsewhere(Tensor):
    """A tensor that says that it is on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        shape = torch.empty_strided(held.size(), held.stride(), dtype=held.dtype, device="meta")
        made: Any = Tensor._make_subclass(cls, shape, False)  # type: ignore[attr-defined]
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Lets tensors be made on the device and moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Constants(TorchFunctionMode):
    """Lets constants be moved to the device: torch makes them there without their values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == ELSEWHERE:
            return func(*args, **kwargs | {"device": torch.device("cpu")}).to(ELSEWHERE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            placed = tuple(torch.tensor(part).to(ELSEWHERE) if isinstance(part, list) else part for part in index)
            args = (args[0], placed, *args[2:])
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].held.tolist()
        return func(*args, **kwargs)


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation where its tensors are, or refuse it as the device would."""
    name = func.overloadpacket.__name__
    given = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
    here = [part for part in given if not isinstance(part, Elsewhere) and part.dim() > 0]
    there = any(isinstance(part, Elsewhere) for part in given)
    if there and here and name not in BETWEEN:
        raise RuntimeError(f"{name}: tensors of the processor and of {ELSEWHERE}")
    asked = kwargs.get("device")
    moved = asked is not None and torch.device(asked).type == ELSEWHERE.type
    leaves = asked is not None and not moved
    if moved:
        kwargs = kwargs | {"device": torch.device("cpu")}
    unwrapped = tree_map(lambda part: part.held if isinstance(part, Elsewhere) else part, (args, kwargs))
    found = func(*unwrapped[0], **unwrapped[1])
    on_device = (there or moved) and not leaves
    if name == "copy_":
        on_device = isinstance(args[0], Elsewhere)
    if not on_device:
        return found
    made = tree_map(lambda part: wrapped(part, name), found)
    return return_and_correct_aliasing(func, args, kwargs, made) if there else made


def wrapped(part: Any, name: str) -> Any:
    if not isinstance(part, Tensor) or isinstance(part, Elsewhere):
        return part
    if part.dtype in LACKING:
        raise TypeError(f"{name}: {ELSEWHERE.type} has no {part.dtype}")
    return Elsewhere(part)


def moved(images: Images) -> Images:
    """The same images on the device."""
    pixels, rows, labels = (part.to(ELSEWHERE) for part in (images.pixels, images.rows, images.labels))
    return replace(images, pixels=pixels, rows=rows, labels=labels, device=ELSEWHERE)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Have the device in a block; what is drawn for it is drawn by the processor."""
    drawing = torch.Generator
    with patch.object(torch, "Generator", lambda device="cpu": drawing("cpu")), Constants(), Device():
        yield ELSEWHERE
