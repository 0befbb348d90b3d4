"""What metrics are functions of: one model's outputs, several models' outputs, or models themselves."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from salun.data.images import Images
from salun.training.evaluate import Outputs
from salun.training.recipe import Recipe

_MOST = 2000
SETS = ("forget", "retain", "validation", "test", "forgotten_test")
CORRUPTED_SETS = ("found", "undiscovered", "triggered")


@dataclass(frozen=True)
class Evaluation:
    """Outputs of one model, and of the models that it is compared with."""

    forget: Outputs  # outputs on the forget set
    retain: Outputs  # on the retain set
    validation: Outputs  # on the validation set, without the forgotten classes
    test: Outputs  # on the test set, without the forgotten classes
    forgotten_test: Outputs  # on the test images of the forgotten classes; empty for other forget sets
    seconds: float | None = None  # wall time of mask and method; None for a model that was not unlearned
    passes: int | None = None  # image passes of mask and method, both ways; None where they were not counted
    random: Outputs | None = None  # outputs on the forget set of a model with random weights
    base: "Evaluation | None" = None  # the model before unlearning
    retrained: "Evaluation | None" = None  # the model that was trained without the forget set
    found: Outputs | None = None  # on corrupted training images that were found, which are the forget set; true labels
    undiscovered: Outputs | None = None  # on corrupted images of the retain set, with their true labels
    triggered: Outputs | None = None  # on test images of other classes with the trigger, its target as label
    earlier: tuple[Outputs, ...] = ()  # outputs on the forget set of each request before this one, the first first
    earlier_seconds: float = 0.0  # wall time of mask and method of those requests, all together
    earlier_passes: int = 0  # image passes that they took

    @property
    def sets(self) -> dict[str, Outputs]:
        """Outputs by the name of the set, those on corrupted images where there are any."""
        held = {name: getattr(self, name) for name in (*SETS, *CORRUPTED_SETS)}
        return {name: outputs for name, outputs in held.items() if outputs is not None}

    def in_order(self) -> "Evaluation":
        """Sort every set by the images' indices, where they are known, so that no metric depends on the order."""
        ordered: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Outputs | Evaluation):
                ordered[field.name] = value.in_order()
        ordered["earlier"] = tuple(outputs.in_order() for outputs in self.earlier)
        return replace(self, **ordered)


@dataclass(frozen=True)
class Runs:
    """Outputs of several unlearned and several retrained models, all of one forgetting problem."""

    unlearned: tuple[Evaluation, ...]  # one evaluation a run
    retrained: tuple[Evaluation, ...]  # one a retrained model; without the model itself where the runs are retrainings

    def in_order(self) -> "Runs":
        """Sort every set by the images' indices, where they are known."""
        return Runs(*(tuple(run.in_order() for run in runs) for runs in (self.unlearned, self.retrained)))


@dataclass(frozen=True)
class Models:
    """A model with its weights, those it is compared with, and the images."""

    model: nn.Module  # the model that is measured, on its device; no metric changes it
    base: nn.Module  # the model before unlearning
    retrained: nn.Module | None  # the model that was trained without the forget set; None where there is none
    forget: Images  # images to forget
    retain: Images  # images to keep
    recipe: Recipe  # how the base model was trained
    seed: int = 0  # of whatever a metric draws
    test: Images | None = None  # test images, without the forgotten classes; None where there are none
    forgotten_test: Images | None = None  # test images of the forgotten classes; none for other forget sets

    @property
    def unseen(self) -> Images | None:
        """Images like the forgotten that no model was trained on; None or empty where there are none."""
        return self.forgotten_test if self.forgotten_test is not None and len(self.forgotten_test) else self.test


Subject = Evaluation | Runs | Models


def spread(images: Images) -> Images:
    """Take evenly spaced images in the order of their indices, which limits what a metric of weights costs.

    Args:
        images: N of them, in any order.

    Returns:
        All of them, or 2,000.
    """
    order = images.rows.argsort(stable=True)
    count = min(len(order), _MOST)
    return images.take(order[torch.arange(count, device=order.device) * len(order) // count])
