"""The cost of a method in images that go through a model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class PassCounter:
    """Counts image passes through the models that it watches, and through their copies.

    Attributes:
        forward: images that went forward through a model.
        backward: images whose gradient came back from a model's output.
        budget: forward and backward passes together that a training stays within; None for no limit.
        micro_batches: into how many parts batches had to be split, as the device lacked memory.
        enabled: whether passes are counted.
    """

    forward: int = 0
    backward: int = 0
    budget: int | None = None
    micro_batches: int = 1
    enabled: bool = True

    def __deepcopy__(self, memo: dict[int, object]) -> "PassCounter":
        """Stay one counter, so that the copy of a watched model is counted too."""
        return self

    @property
    def total(self) -> int:
        """Forward and backward passes together."""
        return self.forward + self.backward

    @property
    def counts(self) -> dict[str, int]:
        """What was counted so far, "forward" and "backward"."""
        return {"forward": self.forward, "backward": self.backward}

    @property
    def left(self) -> float:
        """Passes that the budget still allows: infinity without a budget, negative where it is exceeded."""
        return math.inf if self.budget is None else self.budget - self.total

    @property
    def exhausted(self) -> bool:
        """Whether the budget, if there is one, no longer allows one image to go forward and back."""
        return self.left < 2

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """Count what goes through a model until the block ends, and through copies made meanwhile."""
        hook = model.register_forward_hook(self._hook)
        try:
            yield
        finally:
            hook.remove()

    def count(self, model: nn.Module) -> nn.Module:
        """Count what goes through a model from now on, and give it back."""
        model.register_forward_hook(self._hook)
        return model

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing inside the block, such as the validation of a training."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Lift the budget inside the block, for a training that is done in full whatever it costs."""
        before, self.budget = self.budget, None
        try:
            yield
        finally:
            self.budget = before

    @contextmanager
    def reserving(self, passes: int) -> Iterator[None]:
        """Keep some passes of the budget, forward and backward together, for what comes after the block."""
        before = self.budget
        self.budget = None if before is None else before - passes
        try:
            yield
        finally:
            self.budget = before

    def add(self, images: int) -> None:
        """Count images that went forward and backward through a model out of sight of its hooks."""
        if self.enabled:
            self.forward += images
            self.backward += images

    def _hook(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Count one forward pass, and the backward pass that may follow it."""
        if not self.enabled:
            return
        images = _count_images(inputs[0])
        self.forward += images

        def came_back(gradient: Tensor) -> None:
            self.backward += images

        if output.requires_grad:
            output.register_hook(came_back)


def _count_images(x: Tensor) -> int:
    """Count the images of a batch, those included that `torch.func.vmap` holds behind a single one."""
    values = x
    while torch._C._functorch.is_functorch_wrapped_tensor(values):
        values = torch._C._functorch.get_unwrapped(values)
    return values.numel() // max(1, math.prod(x.shape[1:]))
