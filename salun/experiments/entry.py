"""The keys of one experiment as a list gives them, and the experiment that they make."""

from dataclasses import replace
from typing import Annotated

from pydantic import ConfigDict, Field

from salun.data.corruption import Corruption
from salun.data.split import Choice
from salun.experiments.config import Experiment
from salun.experiments.plugins import known_model
from salun.experiments.requests import ForgetKeys, Labels, Requests, each_request, sorted_labels
from salun.models.architecture import default_model
from salun.training.recipe import Recipe
from salun.unlearning import find_method
from salun.unlearning.mask import Score

DEFAULT_METHOD = "rl"

DEFAULT_DATASET = "cifar10"

_CORRECTIVE = ("default", "ASR", "CA_found", "CA_undiscovered")

_Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Entry(ForgetKeys):
    """The keys of one experiment that all methods share; null means not given."""

    model_config = ConfigDict(defer_build=True)  # of the many methods' models those that a list uses are built

    checkpoint: str | None = Field(None, min_length=1, description="Path of the base model's checkpoint.")
    model: str | None = Field(
        None, min_length=1, description="timm name or resnet_tiny; with dataset, in place of a checkpoint."
    )
    dataset: str | None = Field(
        None,
        min_length=1,
        description="Data set of the base model, which is trained on first need; with checkpoint: where its folder is.",
    )
    recipe: Recipe | None = Field(None, description="How the base model is trained, and so the retrained one.")
    split_seed: _Seed = Field(0, description="Seed of the validation split of model + dataset.")
    base_seed: _Seed | None = Field(
        None, description="Seed of the base model's training; --nbase counts on from it. Not given: the recipe's."
    )
    subclass_to_forget: Labels | None = Field(
        None, description="Subclass, by number or name, or list of subclasses, to forget, of data that have them."
    )
    forget_choice: Choice = Field(
        "random",
        description="Which images the share is: random ones, those that the base model has memorised most or least, or "
        "the worst case, those that are hardest to forget.",
    )
    corrupt: Corruption | None = Field(
        None, description="Corrupt a share of the training images, of which the part that is found is to be forgotten."
    )
    requests: Requests | None = Field(
        None,
        description="What to forget one after another, each from the model of the one before, in place of one set.",
    )
    forget_seed: _Seed = Field(0, description="Seed of the share that is forgotten; --nforget counts on from it.")
    use_mask: bool = Field(False, description="Let only the salient weights move (SalUn).")
    mask_thr: float = Field(0.5, gt=0, le=1, description="Fraction of the weights that may move.")
    mask_score: Score = Field("sum", description="How weights are ranked.")
    mask_batches: int | None = Field(None, ge=1, description="Forget batches that the mask reads at most.")
    load_mask: str | None = Field(None, min_length=1, description="Path of a mask to use instead of computing one.")
    method: str = Field(DEFAULT_METHOD, description="Unlearning method.")
    prune: float | None = Field(
        None, gt=0, lt=1, description="Share of the weights that are pruned by magnitude, and stay zero, before it."
    )
    prune_epochs: int | None = Field(
        None, ge=0, description="Epochs of training after the pruning, before the method. Not given: the recipe's."
    )
    budget: int | None = Field(
        None, ge=1, description="Image passes that are not exceeded, forward and backward together, mask included."
    )
    metrics: list[str] = Field(
        [], description="Metrics to compute, or sets of them: default, attacks, gone, all; empty for the default ones."
    )
    seed: _Seed = Field(0, description="Seed of the first run; run i uses seed + i.")
    tag: str | None = Field(None, max_length=200, description="Name of the experiment in tables and logs.")


def resolve(entry: Entry, number: int) -> Experiment:
    """Turn a valid entry into an experiment, with every default filled in.

    Args:
        entry: all of its keys.
        number: of the experiment in its list, from 1.
    """
    corrupt = entry.corrupt
    request = replace(
        entry.request(entry.forget_seed),
        subclasses=sorted_labels(entry.subclass_to_forget),
        choice=entry.forget_choice,
        found=corrupt.found if corrupt else None,
    )
    mask = None
    if entry.use_mask or entry.load_mask:
        shape = {"keep": entry.mask_thr, "score": entry.mask_score, "batches": entry.mask_batches}
        mask = shape | {"file": entry.load_mask}
    dataset = entry.dataset if entry.checkpoint else entry.dataset or DEFAULT_DATASET
    method, left_out = find_method(entry.method), getattr(entry, "leave_out", None) or "corrupted"
    same = ("checkpoint", "recipe", "split_seed", "seed", "tag", "base_seed", "budget")
    return Experiment.model_validate(
        {key: getattr(entry, key) for key in same}
        | {
            "number": number,
            "method": method.name,
            "settings": {key: getattr(entry, key) for key in method.settings},
            "model": None if entry.checkpoint else known_model(entry.model or default_model(str(dataset))),
            "dataset": dataset,
            "metrics": entry.metrics or (_CORRECTIVE if corrupt else ()),
            "corruption": corrupt,
            "leave_out": left_out if corrupt and method.name == "retrain" else None,
            "forget": request if request.is_drawn else replace(request, seed=0),
            "requests": tuple(each.request(entry.forget_seed) for each in each_request(entry.requests)),
            "mask": mask,
            "prune": None if entry.prune is None else {"share": entry.prune, "epochs": entry.prune_epochs},
        }
    )
