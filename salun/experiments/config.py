"""One experiment of a list, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salun.data.split import ForgetRequest
from salun.training.recipe import Recipe
from salun.unlearning.mask import Score


@dataclass(frozen=True)
class MaskRequest:
    """Which mask an experiment uses.

    Attributes:
        keep: fraction of the weights that may move.
        score: how weights are ranked.
        batches: forget batches that are read at most; None for all.
        file: a mask to load instead.
    """

    keep: float
    score: Score
    batches: int | None = None
    file: Path | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return f"mask {self.file.name}"
        return f"mask {self.keep:g}" + ("" if self.score == "sum" else f" {self.score}")


@dataclass(frozen=True)
class PruneRequest:
    """How a model is made sparse before the method.

    Attributes:
        share: of the weights that are set to zero.
        epochs: of training after that; None for the recipe's.
    """

    share: float
    epochs: int | None = None


@dataclass(frozen=True)
class Experiment:
    """One validated entry of a list.

    Attributes:
        number: its place in the list, from 1.
        method: name of the method.
        settings: all of the method's settings, defaults included.
        checkpoint: the base model's file; None where model and dataset name it.
        model: timm's name; None with a checkpoint.
        dataset: the data set's name; None with a checkpoint.
        recipe: of the base model, where the entry gives one.
        split_seed: of the validation split of model and dataset.
        forget: what is to be forgotten.
        mask: None where all weights may move.
        metrics: names of metrics or of sets of them; empty for the default ones.
        seed: of the first run.
        tag: the user's name for it.
        base_seed: of the base model's training; None for its recipe's own.
        prune: how the model is made sparse before the method; None where it is not.
        budget: image passes that mask and training together stay within; None for no limit.
    """

    number: int
    method: str
    settings: dict[str, Any]
    checkpoint: Path | None
    model: str | None
    dataset: str | None
    recipe: Recipe | None
    split_seed: int
    forget: ForgetRequest
    mask: MaskRequest | None
    metrics: tuple[str, ...]
    seed: int
    tag: str | None
    base_seed: int | None = None
    prune: PruneRequest | None = None
    budget: int | None = None

    @property
    def base(self) -> str:
        """The base model, as a user reads it."""
        return str(self.checkpoint) if self.checkpoint else f"{self.model} on {self.dataset}"

    @property
    def title(self) -> str:
        """Method, mask and pruning, as a user reads them."""
        sparse = f"prune {self.prune.share:g} + " if self.prune else ""
        return sparse + self.method + (f" + {self.mask}" if self.mask else "")
