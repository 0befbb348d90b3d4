"""Unlearning of the reference network without chance: images in stored order, and what its losses are."""

from typing import Any

import pytest
import torch
from reference import SmallNetwork, tensors
from torch import Tensor

from salun.data.images import Images
from salun.training.recipe import Recipe
from salun.training.step import Step, cross_entropy
from salun.unlearning import Task


class InOrder(Images):
    """Images that always come in stored order and plain."""

    def batches(self, size: int, generator: torch.Generator | None = None) -> Any:
        return super().batches(size)


def in_order(inputs: Tensor, labels: Tensor) -> InOrder:
    return InOrder(inputs, torch.arange(len(inputs)), labels, torch.device("cpu"), lambda pixels, generator: pixels)


def reference_task(state: dict[str, Tensor], forget: Images, retain: Images) -> Task:
    return Task(
        model=SmallNetwork(state),
        forget=forget,
        retain=retain,
        validation=retain,
        classes=len(state["fc.bias"]),
        forgotten=(),
        recipe=Recipe(),
        fresh=lambda: SmallNetwork(state),
        generator=torch.Generator().manual_seed(0),
    )


def small_task(forget: int, retain: int) -> Task:
    """Make a task of the reference network and images of chance."""
    state, generator = tensors("boundary_shrink_model"), torch.Generator().manual_seed(0)
    inputs = torch.rand(forget + retain, 3, 8, 8, generator=generator)
    labels = torch.randint(0, len(state["fc.bias"]), (len(inputs),), generator=generator)
    split = (slice(0, forget), slice(forget, None))
    return reference_task(state, *(in_order(inputs[part], labels[part]) for part in split))


def record_losses(task: Task, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Let a task train as ever, and note each step's loss and the cross-entropy of its batch."""
    seen: list[tuple[float, float]] = []
    fit = task.fit

    def noting(stream: Any, *, loss: Any = cross_entropy, **rest: Any) -> None:
        def noted(epoch: int) -> Any:
            for given in stream(epoch):
                step = given if isinstance(given, Step) else Step(given)
                own = step.loss or loss

                def note(logits: Tensor, batch: Any, own: Any = own) -> Tensor:
                    value = own(logits, batch)
                    seen.append((float(value.detach()), float(cross_entropy(logits.detach(), batch))))
                    return value

                yield step._replace(loss=note)

        fit(noted, loss=loss, **rest)

    monkeypatch.setattr(task, "fit", noting)
    return seen
