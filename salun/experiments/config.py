"""One experiment: what a list asks for, and what a record holds of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from salun.data.corruption import Corruption
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, resolved_request
from salun.errors import SalunError
from salun.training.recipe import Recipe
from salun.unlearning.mask import Score

# In the settings, and so the id, of runs with a budget: it once could be exceeded by the last step.
_BUDGET_RULE = "within"

_LEFT_OUT = {"corrupted": " without any corrupted image", "found": " without the found images"}

LeaveOut = Literal["corrupted", "found"]


class _MaskRequest(BaseModel):
    """Which mask an experiment uses.

    Attributes:
        keep: fraction of the weights that may move.
        score: how weights are ranked.
        batches: forget batches that are read at most; None for all.
        file: a mask to load instead.
    """

    model_config = ConfigDict(frozen=True)

    keep: float
    score: Score
    batches: int | None = None
    file: Path | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return f"mask {self.file.name}"
        return f"mask {self.keep:g}" + ("" if self.score == "sum" else f" {self.score}")


class PruneRequest(BaseModel):
    """How a model is made sparse before the method.

    Attributes:
        share: of the weights that are set to zero.
        epochs: of training after that; None for the recipe's.
    """

    model_config = ConfigDict(frozen=True)

    share: float
    epochs: int | None = None


class Experiment(BaseModel):
    """One validated entry of a list, every default filled in.

    Attributes:
        number: its place in the list, from 1.
        method: name of the method.
        settings: all of the method's settings.
        checkpoint: the base model's file; None where model and dataset name it.
        model: timm's name; None with a checkpoint.
        dataset: the data set's name; with a checkpoint, of its images as they lie now, or None.
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
        corruption: of the training images, and the part of it that is found; None of data as they lie on disk.
        leave_out: what retraining on corrupted data leaves out: every corrupted image, or those that were found.
        entry: place in the list of the entry that it was written as, from 1; None where that is `number`.
        variant: which of the values that this entry lists it has; empty where the entry is one experiment.
        requests: what is to be forgotten one after another; read from a record, what was forgotten before.
        step: which of the requests `forget` is, from 1; 0 where there are none, and of the entry as a whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    method: str
    settings: dict[str, Any]
    checkpoint: Path | None = None
    model: str | None = None
    dataset: str | None = None
    recipe: Recipe | None = None
    split_seed: int = 0
    forget: ForgetRequest
    mask: _MaskRequest | None = None
    metrics: tuple[str, ...] = ()
    seed: int = 0
    tag: str | None = None
    base_seed: int | None = None
    prune: PruneRequest | None = None
    budget: int | None = None
    corruption: Corruption | None = None
    leave_out: LeaveOut | None = None
    entry: int | None = None
    variant: str = ""

    @property
    def is_gold(self) -> bool:
        """Whether it is the retraining that everything else is compared with."""
        return self.method == "retrain" and self.leave_out != "found"

    @property
    def place(self) -> str:
        """Where a list has it, as the text of errors says."""
        return f"entry {self.entry or self.number}" + (f" ({self.variant})" if self.variant else "")

    requests: tuple[ForgetRequest, ...] = ()
    step: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Its entry and step, which tell it from the other experiments of a list."""
        return self.number, self.step

    @property
    def earlier(self) -> tuple[ForgetRequest, ...]:
        """The requests before this step."""
        return self.requests[: max(self.step - 1, 0)]

    @property
    def step_title(self) -> str:
        """Which request it is of how many, as a user reads it; empty where there are none."""
        of = f" of {len(self.requests)}" if len(self.requests) >= self.step else ""
        return f"request {self.step}{of}" if self.step else ""

    @property
    def forgetting(self) -> str:
        """What is to be forgotten, as a user reads it."""
        return ", then ".join(map(str, self.requests)) if self.requests and not self.step else str(self.forget)

    @property
    def base(self) -> str:
        """The base model, as a user reads it."""
        return str(self.checkpoint) if self.checkpoint else f"{self.model} on {self.dataset}"

    @property
    def title(self) -> str:
        """Method, mask and pruning, as a user reads them."""
        sparse = f"prune {self.prune.share:g} + " if self.prune else ""
        left_out = _LEFT_OUT[self.leave_out] if self.leave_out else ""
        return sparse + self.method + left_out + (f" + {self.mask}" if self.mask else "")

    def resolved(self, dataset: Dataset) -> Self:
        """Look up the classes of all its requests in the data.

        Args:
            dataset: of the base model.

        Raises:
            SalunError: the data have no such class or subclass.
        """
        forget, *requests = (resolved_request(request, dataset) for request in (self.forget, *self.requests))
        return self.model_copy(update={"forget": forget, "requests": tuple(requests)})

    def dump(self, base: dict[str, Any], fingerprints: Sequence[str], mask_digest: str | None) -> dict[str, Any]:
        """Give everything but the seed that decides a run's outcome, as records hold it.

        Args:
            base: description of the base model.
            fingerprints: of the forget sets of the requests before this step, and of its own.
            mask_digest: of a mask that was loaded from a file.

        Returns:
            Plain values; what `from_record` reads back.
        """
        *before, described = map(_described, (*self.earlier, self.forget), fingerprints)
        described = {"request": str(self.forget)} | described | ({"earlier": before} if before else {})
        mask = None if self.mask is None else self.mask.model_dump(mode="json")
        if mask and mask_digest is not None:
            mask["digest"] = mask_digest
        limits: dict[str, Any] = {} if self.prune is None else {"prune": self.prune.model_dump()}
        if self.budget is not None:
            limits |= {"budget": self.budget, "budget_rule": _BUDGET_RULE}
        if self.leave_out is not None:
            limits |= {"leave_out": self.leave_out}
        return {
            "base": base,
            "forget": described,
            "method": self.method,
            "settings": self.settings,
            "mask": mask,
            **limits,
        }

    @classmethod
    def from_record(cls, settings: dict[str, Any], number: int = 0, tag: str | None = None) -> Self:
        """Validate what a record holds of an experiment.

        Args:
            settings: as `dump` gave them.
            number: given to the experiment.
            tag: of the record.

        Returns:
            The experiment; what no record holds (paths, the metrics asked for, the first seed) has its default.

        Raises:
            SalunError: the settings are not such as this version writes.
        """
        try:
            *before, forget = map(_request_of, (*settings["forget"].get("earlier", ()), settings["forget"]))
            found = forget["found"]
            corrupted = None if found is None else settings["base"]["corrupt"] | {"found": found}
            return cls(
                number=number,
                tag=tag,
                forget=forget,
                corruption=corrupted,
                requests=tuple(before),
                step=len(before) + 1 if before else 0,
                **{key: settings[key] for key in ("method", "settings", "mask")},
                **{key: settings["base"][key] for key in ("model", "dataset")},
                **{key: settings.get(key) for key in ("prune", "budget", "leave_out")},
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise SalunError("its settings cannot be read") from error


def _described(request: ForgetRequest, fingerprint: str) -> dict[str, Any]:
    """Give what a record holds of a request; of what is not asked for, nothing."""
    described: dict[str, Any] = {"classes": list(request.classes), "share": request.share, "seed": request.seed}
    described |= {"fingerprint": fingerprint}
    described |= {"subclasses": list(request.subclasses)} if request.subclasses else {}
    described |= {"choice": request.choice} if request.choice != "random" else {}
    described |= {"stratified": True} if request.stratified else {}
    return described | ({} if request.found is None else {"found": request.found})


def _request_of(described: dict[str, Any]) -> dict[str, Any]:
    """Take from a record what a request is made of."""
    held = {key: described[key] for key in ("classes", "share", "seed")}
    defaults = {"subclasses": (), "choice": "random", "stratified": False, "found": None}
    return held | {key: described.get(key, default) for key, default in defaults.items()}
