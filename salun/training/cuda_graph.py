"""A step of a training as one CUDA graph: recorded once, then launched as a whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor
from torch.optim import Optimizer

from salun.data.images import Batch

EAGER_STEPS = 20


class CudaGraphStep:
    """A step that was recorded with the memory that it reads and writes; its batches are copied there.

    What the host does in a step, such as the choice of a loss, is not repeated; numbers that it hands over are those
    of the recording, but for the learning rate.
    """

    def __init__(self, take: Callable[[Batch], None], batch: Batch, optimizer: Optimizer) -> None:
        """Record a step; nothing is computed yet."""
        device = batch.x.device
        self.batch = Batch(*(part.clone() for part in batch))
        self.groups = optimizer.param_groups
        self.rates = [torch.tensor(float(group["lr"]), device=device) for group in self.groups]
        self.set = [group["lr"] for group in self.groups]
        # Left to itself, torch records on its current device, where a step on another one leaves no trace.
        with torch.cuda.device(device), _on_device(self.groups, self.rates):
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=_recording_stream(device), capture_error_mode="thread_local"):
                take(self.batch)

    def fits(self, batch: Batch) -> bool:
        """Tell whether a batch has the shapes and types of the recorded one."""
        pairs = zip(batch, self.batch, strict=True)
        return all((given.shape, given.dtype) == (own.shape, own.dtype) for given, own in pairs)

    def replay(self, batch: Batch) -> None:
        """Take the step with another batch that fits, at the optimiser's present learning rate."""
        for own, given in zip(self.batch, batch, strict=True):
            own.copy_(given, non_blocking=True)
        for place, group in enumerate(self.groups):
            if group["lr"] != self.set[place]:
                self.rates[place].fill_(group["lr"])
                self.set[place] = group["lr"]
        self.graph.replay()


@lru_cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Give the stream that steps are recorded on: one for all, as libraries keep memory for each."""
    return torch.cuda.Stream(device)


@contextmanager
def _on_device(groups: list[dict[str, object]], rates: list[Tensor]) -> Iterator[None]:
    """Let an optimiser read its learning rates, a scalar a group, from the device, where they can change later."""
    before = [dict(group) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = True
    try:
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group.update(values)
