"""How a model is trained."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from salun.device import Precision

Schedule = Literal["constant", "plateau", "multistep", "cosine"]

OptimizerName = Literal["sgd", "adam", "adamw"]


class Recipe(BaseModel):
    """How a base model, and the model retrained without the forget set, are trained.

    The defaults are those of the SalUn paper's base model: 182 epochs of SGD, the learning rate
    divided by 10 at a half and three quarters of them (arXiv 2310.12508, section 5).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(182, ge=1)
    lr: float = Field(0.1, gt=0)
    batch_size: int = Field(256, ge=2)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    optimizer: OptimizerName = "sgd"
    schedule: Schedule = "multistep"
    patience: int | None = Field(None, ge=1)
    precision: Precision = "auto"
    seed: int = Field(0, ge=0, lt=2**31)
    pretrained: bool = False


def default_recipe(dataset: str) -> Recipe:
    """Choose a recipe where the user gives none.

    Args:
        dataset: the data set's name.

    Returns:
        The paper's recipe; for the small `digits` 10 epochs of a cosine schedule.
    """
    if dataset == "digits":
        return Recipe(epochs=10, lr=0.1, batch_size=64, schedule="cosine")
    return Recipe()
