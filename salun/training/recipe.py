"""How a model is trained."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from salun.device import Precision

Schedule = Literal["constant", "plateau", "multistep", "cosine"]
OptimizerName = Literal["sgd", "adam", "adamw"]
Momentum = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Around:
    """Beside a setting in a signature: `salun-tune` tries default / factor to default * factor, logarithmically.

    Args:
        factor: above 1.
    """

    factor: float


@dataclass(frozen=True)
class Range:
    """Beside a setting in a signature: `salun-tune` tries values from low to high.

    Args:
        low: the smallest.
        high: the largest.
        log: whether on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """The settings that every training has; a method states only the defaults that differ.

    Args:
        lr: learning rate.
        epochs: passes over the images.
        batch_size: images a step.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.
    """

    lr: Annotated[PositiveFloat, Around(30)] = 0.01
    epochs: Annotated[PositiveInt, Around(3)] = 10
    batch_size: PositiveInt = 256
    optimizer: OptimizerName = "sgd"
    momentum: Momentum = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    grad_clip: PositiveFloat | None = None
    schedule: Schedule = "constant"


def plain_number(value: Any) -> Any:
    """Turn a number of numpy into one of Python; other values stay as they are."""
    return value.item() if isinstance(value, np.generic) else value


class Recipe(BaseModel):
    """How a base model, and the model retrained without the forget set, are trained.

    The defaults are those of the SalUn paper's base model: 182 epochs of SGD, the learning rate
    divided by 10 at a half and three quarters of them (arXiv 2310.12508, section 5).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(182, ge=1)
    lr: PositiveFloat = 0.1
    batch_size: int = Field(256, ge=2)
    momentum: Momentum = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    optimizer: OptimizerName = "sgd"
    schedule: Schedule = "multistep"
    patience: int | None = Field(None, ge=1)
    precision: Precision = "auto"
    seed: int = Field(0, ge=0, lt=2**31)
    pretrained: bool = False

    _plain = field_validator("*", mode="before")(plain_number)

    @property
    def training(self) -> TrainingConfig:
        """The settings that it shares with the trainings of methods."""
        own = self.model_dump(exclude={"patience", "precision", "seed", "pretrained"})
        return TrainingConfig(**own)


def default_recipe(dataset: str) -> Recipe:
    """Choose a recipe where the user gives none.

    Args:
        dataset: the data set's name.

    Returns:
        The paper's recipe; for the small `digits`, grouped or not, 10 epochs of a cosine schedule.
    """
    if dataset.partition(":")[0] in ("digits", "digits_grouped"):
        return Recipe(epochs=10, lr=0.1, batch_size=64, schedule="cosine")
    return Recipe()
