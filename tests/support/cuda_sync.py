"""What makes the host wait for a GPU, counted on a machine that has none."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result, or its shape, the host must know before it can go on; "lift_fresh" is what torch.tensor and
# an index by a Python list make on the host, to be copied to the device.
WAITING = {
    "_local_scalar_dense", "_unique", "_unique2", "allclose", "bincount", "equal", "is_nonzero", "lift_fresh",
    "linalg_inv_ex", "_linalg_eigh", "_linalg_svd", "linalg_pinv", "masked_select", "multinomial", "nonzero",
    "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
LEAVING = ("cpu", "tolist", "numpy", "__array__")


class HostReads(TorchDispatchMode):
    """Counts, by name, what on a GPU would make the host wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.within = 0

    @property
    def total(self) -> int:
        """All of them so far."""
        return self.found.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not self.within and (name in WAITING or (name in INDEXED and by_boolean(args))):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    def leaving(self, name: str) -> Callable[..., Any]:
        """Count calls of a tensor's method that takes it from the device, what it does itself left out."""
        original = getattr(Tensor, name)

        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self.within:
                self.found[name] += 1
            self.within += 1
            try:
                return original(tensor, *args, **kwargs)
            finally:
                self.within -= 1

        return counted


def by_boolean(args: Any) -> bool:
    indexes = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    fills = len(args) > 2 and args[2].numel() == 1  # becomes masked_fill, whose shape is known
    return indexes and not fills


@contextmanager
def host_reads() -> Iterator[HostReads]:
    """Count what happens in the block."""
    reads = HostReads()
    with ExitStack() as stack:
        for name in LEAVING:
            stack.enter_context(patch.object(Tensor, name, reads.leaving(name)))
        stack.enter_context(reads)
        yield reads
