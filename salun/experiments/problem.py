"""Forgetting problems: base model, data, and what is to be forgotten; checked, and then loaded for a run."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from salun.data.corruption import corrupt_dataset
from salun.data.dataset import Dataset
from salun.data.manifest import as_recorded
from salun.data.sets import Sets, make_sets
from salun.data.split import ForgetRequest, Split, digest, make_split
from salun.data.transforms import Preparation
from salun.device import placed
from salun.errors import SalunError, SalunErrors
from salun.experiments.base_model import (
    BaseModelSpec,
    architecture_for,
    check_belongs,
    find_spec,
    fresh_model,
    hinting_at_moves,
    preparation_of,
    weights_identity,
)
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.io.limits import read_plain
from salun.metrics import Models
from salun.models.checkpoint import Checkpoint, load_checkpoint
from salun.unlearning.mask import Mask, check_mask, load_mask

Group = tuple[str, str]


@dataclass(frozen=True)
class ForgettingProblem:
    """What an experiment works on, checked; its base model may still have to be trained.

    Attributes:
        spec: the base model.
        dataset: the data, on the device.
        split: of the data.
        mask: loaded from a file, where the experiment names one.
        is_chosen: whether the images to forget are known; else as many random ones stand in for those that the base
            model has still to choose.
    """

    spec: BaseModelSpec
    dataset: Dataset
    split: Split
    mask: Mask | None = None
    is_chosen: bool = True

    @property
    def group(self) -> Group:
        """Base model and forget set: what runs that may be compared with each other share."""
        return self.spec.identity, self.split.forget_fingerprint


@dataclass(frozen=True)
class LoadedProblem:
    """A problem with all that a run starts from.

    Attributes:
        problem: what is to be forgotten.
        base: the base model.
        preparation: how its images are prepared.
        sets: the images.
    """

    problem: ForgettingProblem
    base: Checkpoint
    preparation: Preparation
    sets: Sets


def check_problem(experiment: Experiment, cache: ModelCache) -> ForgettingProblem:
    """Read what an experiment works on and check that it fits together; nothing is trained.

    Args:
        experiment: a validated entry.
        cache: keeps data sets and base models.

    Returns:
        The problem.

    Raises:
        AbsentData: the data are absent and may not be fetched.
        SalunError: data, checkpoint, forget set or mask are refused.
    """
    spec = base_spec(experiment, cache)
    file = experiment.mask.file if experiment.mask else None
    mask = load_mask(file) if file else None
    dataset = dataset_of(spec, cache)
    request = experiment.forget
    split = _splits_of(experiment, spec, dataset, cache)[experiment.step - 1]
    check_belongs(spec, dataset, split)
    chosen = None
    if request.choice != "random" and (path := choice_path(spec, split, request, cache)) is not None:
        chosen = _read_choice(path, split)
    if chosen is not None:
        split = make_split(dataset, request, spec.split_seed, spec.excluded, chosen)
    _check_budget(experiment, len(split.forget))
    if experiment.method == "retrain" and spec.recipe is None:
        reason = "records no recipe to retrain by; give one under the key 'recipe'"
        raise SalunError(f"checkpoint: {spec.path}: {reason}")
    weights = _parameters_of(spec, dataset, cache)
    if mask is not None:
        check_mask(mask, weights)
    return ForgettingProblem(spec, dataset, split, mask, request.choice == "random" or chosen is not None)


def choice_path(spec: BaseModelSpec, split: Split, request: ForgetRequest, cache: ModelCache) -> Path | None:
    """Name the file that keeps which images a base model has chosen to be forgotten.

    Args:
        spec: the base model.
        split: of its data; the same images are chosen whatever is forgotten.
        request: with share and choice.
        cache: keeps base models.

    Returns:
        A path among the base models, with a digest of all that decides the choice; None before the model is trained.

    Raises:
        SalunError: the base model cannot be read.
    """
    if spec.checkpoint is None and not spec.path.exists():
        return None
    deciding = [base_checkpoint(spec, cache).fingerprint, digest(split.train), request.share, request.seed]
    key = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:8]
    return cache.context.checkpoints / f"{spec.path.stem}_{request.choice}{request.share:g}_{key}.json"


def _read_choice(path: Path, split: Split) -> Tensor | None:
    """Read which images were chosen; None where that is still to be done."""
    if not path.is_file():
        return None
    listed, known = read_plain(path), set(split.train.tolist())
    count = len(split.forget)
    listed = listed if isinstance(listed, list) and all(type(index) is int for index in listed) else []
    if not len(known.intersection(listed)) == len(listed) == count:
        raise SalunError(f"{path}: does not list {count} training images; delete it, and they are chosen anew")
    return torch.tensor(sorted(listed))


def _splits_of(experiment: Experiment, spec: BaseModelSpec, dataset: Dataset, cache: ModelCache) -> list[Split]:
    """Split the data for each request of an experiment, or for its only one."""
    if not experiment.requests:
        return [make_split(dataset, experiment.forget, spec.split_seed, spec.excluded)]

    def make() -> list[Split]:
        splits: list[Split] = []
        wrong = []
        for number, request in enumerate(experiment.requests, 1):
            try:
                before = splits[-1] if splits else None
                splits.append(make_split(dataset, request, spec.split_seed, spec.excluded, before=before))
            except SalunError as error:
                wrong.append(f"requests: request {number}: {error}")
        if wrong:
            raise SalunErrors(wrong)
        return splits

    return cache.get(("splits", spec.identity, spec.path, spec.moved_to, experiment.requests), make)


def dataset_of(spec: BaseModelSpec, cache: ModelCache) -> Dataset:
    """Load the data of a base model, as the manifest beside it records them.

    Args:
        spec: the base model.
        cache: keeps data sets.

    Returns:
        The data; images that were deleted since are marked, and those that it learns corrupted are so.

    Raises:
        SalunError: they cannot be had, or there are others now.
    """
    name, moved = spec.moved_to or spec.dataset, spec.moved_to is not None
    with hinting_at_moves(spec):
        clean = cache.dataset(name)
    corruption = spec.corruption
    if spec.path.exists():
        found = clean
        clean = cache.get(("recorded", spec.path, name), lambda: as_recorded(found, spec.path, moved=moved))
    if corruption is None:
        return clean
    key = ("corrupted", name, spec.path if clean.root else None, corruption.model_copy(update={"found": 1.0}))
    return cache.get((*key, spec.split_seed), lambda: corrupt_dataset(clean, corruption, spec.split_seed))


def base_spec(experiment: Experiment, cache: ModelCache) -> BaseModelSpec:
    """Find the base model of an experiment, reading each checkpoint once.

    Args:
        experiment: names a checkpoint, or a model and a data set.
        cache: keeps base models.

    Returns:
        The base model.

    Raises:
        SalunError: the checkpoint is refused.
    """
    corruption = experiment.corruption
    if corruption is not None:
        names = cache.dataset(str(experiment.dataset)).classes
        corruption = corruption.resolved(names, len(names), str(experiment.dataset))
        experiment = experiment.model_copy(update={"corruption": corruption})
    named = (experiment.checkpoint, experiment.model, experiment.dataset, experiment.recipe)
    key = ("spec", *named, experiment.split_seed, experiment.base_seed, corruption)
    return cache.get(key, lambda: find_spec(experiment, cache.context.checkpoints))


def _parameters_of(spec: BaseModelSpec, dataset: Dataset, cache: ModelCache) -> dict[str, nn.Parameter]:
    """Build a base model once, to see that it can be built; gives its weights by name, without values."""
    pretrained = spec.recipe is not None and spec.recipe.pretrained
    if spec.checkpoint is not None:
        architecture, pretrained = spec.checkpoint.architecture, False
    else:
        architecture, _ = architecture_for(spec.model, dataset, pretrained)

    def make() -> dict[str, nn.Parameter]:
        fetched = pretrained and (cache.context.download or not architecture.native)
        return dict(fresh_model(architecture, fetched, 0, torch.device("cpu")).to("meta").named_parameters())

    return cache.get(("parameters", architecture, pretrained), make)


def mask_batch_size(experiment: Experiment) -> int:
    """Tell how many images a gradient of the mask is of: as many as the method takes a step.

    Args:
        experiment: with its method's settings.
    """
    return int(experiment.settings.get("batch_size", 256))


def _check_budget(experiment: Experiment, forget: int) -> None:
    """Check that a budget has room for more than the mask."""
    mask, budget = experiment.mask, experiment.budget
    if mask is None or budget is None or mask.file is not None or mask.score == "random":
        return
    images = forget if mask.batches is None else min(forget, mask.batches * mask_batch_size(experiment))
    if 2 * (images + 1) > budget:
        told = f"the mask alone takes {2 * images} image passes, forward and backward over {images} forget images"
        raise SalunError(f"budget: {budget}: {told}; give more, or fewer mask_batches")


def base_checkpoint(spec: BaseModelSpec, cache: ModelCache) -> Checkpoint:
    """Give a base model, reading it once.

    Args:
        spec: the base model; it is trained.
        cache: keeps base models.

    Returns:
        Its checkpoint.

    Raises:
        SalunError: the file cannot be read.
    """

    def make() -> Checkpoint:
        found = spec.checkpoint or load_checkpoint(spec.path)
        if spec.by_weights and weights_identity(found) != spec.identity:
            raise SalunError(f"{spec.path}: the base model has changed since the command began")
        return found

    return cache.get(("base", spec.identity), make)


def load_problem(problem: ForgettingProblem, cache: ModelCache) -> LoadedProblem:
    """Load what a run starts from, once for all runs on the problem.

    Args:
        problem: its base model is trained.
        cache: keeps base models and problems.

    Returns:
        Base model and images.

    Raises:
        SalunError: the base model cannot be read.
    """

    def make() -> LoadedProblem:
        return load_with(base_checkpoint(problem.spec, cache), problem, cache)

    # Problems of one group differ in the masks that their experiments load, and may in the recipe.
    return replace(cache.get(("problem", *problem.group), make), problem=problem)


def load_with(base: Checkpoint, problem: ForgettingProblem, cache: ModelCache) -> LoadedProblem:
    """Load a problem for a base model that is at hand.

    Args:
        base: the base model.
        problem: data and split.
        cache: knows the device.

    Returns:
        Base model and images.

    Raises:
        SalunError: what the base model records of its images is not usable.
    """
    preparation = preparation_of(base, problem.dataset, problem.split)
    sets = make_sets(problem.dataset, problem.split, preparation, cache.context.device)
    if cache.context.tuning:
        sets = replace(sets, test=sets.validation, forgotten_test=sets.validation.take(torch.arange(0)))
    return LoadedProblem(problem, base, preparation, sets)


def load_models(problem: ForgettingProblem, weights: Path | None, retrained: Path | None, cache: ModelCache) -> Models:
    """Load the models of a run again, with their images.

    Args:
        problem: of the run.
        weights: the run's checkpoint; None takes the base model in its place.
        retrained: the retrained model's checkpoint; None where it is not kept.
        cache: keeps base models and problems.

    Returns:
        What metrics on weights are computed from.

    Raises:
        SalunError: a checkpoint cannot be read.
    """
    loaded = load_problem(problem, cache)

    def model(path: Path | None) -> nn.Module:
        checkpoint = loaded.base if path is None else load_checkpoint(path)
        return placed(checkpoint.restore(), cache.context.device)

    return Models(
        model=model(weights),
        base=model(None),
        retrained=None if retrained is None else model(retrained),
        forget=loaded.sets.forget,
        retain=loaded.sets.retain,
        recipe=problem.spec.known_recipe,
        test=loaded.sets.test,
        forgotten_test=loaded.sets.forgotten_test,
    )
