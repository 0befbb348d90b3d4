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


@dataclass(frozen=True)
class Evaluation:
    """Outputs of one model, and of the models that it is compared with.

    Attributes:
        forget: outputs on the forget set.
        retain: on the retain set.
        validation: on the validation set, without the forgotten classes.
        test: on the test set, without the forgotten classes.
        forgotten_test: on the test images of the forgotten classes; empty for other forget sets.
        seconds: wall time of mask and method; None for a model that was not unlearned.
        passes: image passes of mask and method, forward and backward together; None where they were not counted.
        random: outputs on the forget set of a model with random weights.
        base: the model before unlearning.
        retrained: the model that was trained without the forget set.
    """

    forget: Outputs
    retain: Outputs
    validation: Outputs
    test: Outputs
    forgotten_test: Outputs
    seconds: float | None = None
    passes: int | None = None
    random: Outputs | None = None
    base: "Evaluation | None" = None
    retrained: "Evaluation | None" = None

    @property
    def sets(self) -> dict[str, Outputs]:
        """Outputs by the name of the set."""
        return {name: getattr(self, name) for name in SETS}

    def in_order(self) -> "Evaluation":
        """Sort every set by the images' indices, where they are known, so that no metric depends on the order."""
        ordered: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Outputs | Evaluation):
                ordered[field.name] = value.in_order()
        return replace(self, **ordered)


@dataclass(frozen=True)
class Runs:
    """Outputs of several unlearned and several retrained models, all of one forgetting problem.

    Attributes:
        unlearned: one evaluation a run.
        retrained: one a retrained model; without the model itself where the runs are retrainings.
    """

    unlearned: tuple[Evaluation, ...]
    retrained: tuple[Evaluation, ...]

    def in_order(self) -> "Runs":
        """Sort every set by the images' indices, where they are known.

        Returns:
            The same outputs.
        """
        return Runs(*(tuple(run.in_order() for run in runs) for runs in (self.unlearned, self.retrained)))


@dataclass(frozen=True)
class Models:
    """A model with its weights, those it is compared with, and the images.

    Attributes:
        model: the model that is measured, on its device; no metric changes it.
        base: the model before unlearning.
        retrained: the model that was trained without the forget set; None where there is none.
        forget: images to forget.
        retain: images to keep.
        recipe: how the base model was trained.
        seed: of whatever a metric draws.
    """

    model: nn.Module
    base: nn.Module
    retrained: nn.Module | None
    forget: Images
    retain: Images
    recipe: Recipe
    seed: int = 0


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
