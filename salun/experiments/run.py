"""One run: base model, mask, method, outputs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.sets import Sets, make_sets, to_device
from salun.data.sources import load
from salun.data.split import ForgetRequest, Split, make_split, write_forget
from salun.data.transforms import Preparation
from salun.device import (
    Precision,
    clock,
    derived_seed,
    device_name,
    forget_peak_memory,
    peak_memory,
    placed,
    precision_for,
    seeded,
    seeded_globally,
    settle_threads,
)
from salun.errors import SalunError
from salun.experiments.base_model import (
    BaseModelSpec,
    architecture_for,
    check_belongs,
    describe,
    fresh_model,
    preparation_of,
    saved_spec,
    train_checkpoint,
    trained_spec,
)
from salun.experiments.config import Experiment, PruneRequest
from salun.experiments.evaluate import measure, outputs_of, with_references
from salun.experiments.outputs import digest_of
from salun.experiments.record import (
    _RANDOM_SEED,
    ForgettingProblem,
    Record,
    drawn_seed,
    resolved_settings,
    revision,
    run_id,
    split_summary,
    versions,
)
from salun.io.locks import CLAIMS, Claims
from salun.io.tensors import tensors_digest
from salun.metrics import Evaluation, Models
from salun.models.architecture import Architecture
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salun.registry import ADDED
from salun.training.cost import PassCounter
from salun.training.evaluate import predict
from salun.training.loop import train
from salun.training.progress import Callback, no_callback
from salun.training.recipe import default_recipe
from salun.training.runtime import Runtime
from salun.training.state import MINUTES, STATES, StateFile, StateWriter, forget_state
from salun.unlearning import Task, unlearn
from salun.unlearning.mask import Mask, check_mask, load_mask, masked_updates, saliency, save_mask
from salun.unlearning.pruning import both, prune


@dataclass(frozen=True)
class Result:
    """What a run gives.

    Attributes:
        record: of the run; metrics that compare it with other runs are still missing.
        checkpoint: the unlearned model.
        evaluation: its outputs, with the base model's.
    """

    record: Record
    checkpoint: Checkpoint
    evaluation: Evaluation


@dataclass(frozen=True)
class _Sparse:
    """A base model that was pruned and trained on.

    Attributes:
        weights: its state.
        survivors: which weights are not zero, and so may move.
        seconds: wall time that it took.
        passes: images that went "forward" and "backward" through it.
    """

    weights: dict[str, Tensor]
    survivors: Mask
    seconds: float
    passes: dict[str, int]


@dataclass(frozen=True)
class _Done:
    """What a mask and a method left behind.

    Attributes:
        task: with the model as it is now.
        mask: under which the method ran; None where it had none.
        seconds: wall time by part, without those that went into watching the validation set.
        passes: images that went "forward" and "backward", by part.
    """

    task: Task
    mask: Mask | None
    seconds: dict[str, float]
    passes: dict[str, dict[str, int]]


@dataclass
class Workbench:
    """What runs share: the device, the data sets and base models that are already loaded.

    Attributes:
        device: where everything runs.
        data_dir: where data sets lie.
        checkpoints: where base models are looked for and kept.
        on_base: is told of a base model that is about to be trained, and gives its watch.
        compiled: whether models are compiled for their steps.
        beside: how many processes run side by side on this machine.
        save_every: seconds from writing a training's state to the next time, of base and retrained models; 0 for never.
        skip_corrupt: whether images of a folder that cannot be decoded are left out.
    """

    device: torch.device
    data_dir: Path = Path("data")
    checkpoints: Path = Path("checkpoints")
    on_base: Callable[[BaseModelSpec], Callback] = lambda _: no_callback
    compiled: bool = False
    beside: int = 1
    save_every: float = 60 * MINUTES
    skip_corrupt: bool = False
    datasets: dict[str, Dataset] = field(default_factory=dict)
    origins: dict[tuple[object, ...], BaseModelSpec] = field(default_factory=dict)
    bases: dict[str, Checkpoint] = field(default_factory=dict)
    barren: dict[str, str] = field(default_factory=dict)
    before: dict[tuple[str, str], Evaluation] = field(default_factory=dict)
    built: dict[tuple[Architecture, bool], dict[str, nn.Parameter]] = field(default_factory=dict)
    pruned: dict[tuple[str, PruneRequest], _Sparse] = field(default_factory=dict)

    def dataset(self, name: str) -> Dataset:
        """Load a data set once and move it to the device.

        Args:
            name: as in an experiment.

        Returns:
            The data.

        Raises:
            SalunError: they cannot be had.
        """
        if name not in self.datasets:
            found = load(name, self.data_dir, skip_corrupt=self.skip_corrupt)
            self.datasets[name] = to_device(found, self.device)
        return self.datasets[name]

    def problem(self, experiment: Experiment) -> ForgettingProblem:
        """Load what an experiment works on and check that it fits together; nothing is trained.

        Args:
            experiment: a validated entry.

        Returns:
            The problem.

        Raises:
            SalunError: data, checkpoint, forget set or mask are refused.
        """
        spec = self.spec(experiment)
        dataset = self.dataset(spec.dataset)
        never = spec.checkpoint.excluded if spec.checkpoint else ()
        split = make_split(dataset, experiment.forget, spec.split_seed, torch.tensor(never, dtype=torch.int64))
        check_belongs(spec, dataset, split)
        _check_budget(experiment, len(split.forget))
        if experiment.method == "retrain" and spec.recipe is None:
            reason = "records no recipe to retrain by; give one under the key 'recipe'"
            raise SalunError(f"checkpoint: {spec.path}: {reason}")
        weights = self.weights_of(spec, dataset)
        file = experiment.mask.file if experiment.mask else None
        mask = load_mask(file) if file else None
        if mask is not None:
            check_mask(mask, weights)
        return ForgettingProblem(spec, dataset, split, mask)

    def spec(self, experiment: Experiment) -> BaseModelSpec:
        """Find the base model of an experiment, reading each checkpoint once.

        Args:
            experiment: names a checkpoint, or a model and a data set.

        Returns:
            The origin.

        Raises:
            SalunError: the checkpoint is refused.
        """
        recipe = experiment.recipe.model_dump_json() if experiment.recipe else None
        model = (experiment.checkpoint, experiment.model, experiment.dataset)
        key = (*model, recipe, experiment.split_seed, experiment.base_seed)
        if key not in self.origins:
            found = _find_origin(experiment, self.checkpoints)
            if found.checkpoint is not None and not found.checkpoint.is_finite:
                raise SalunError(f"{found.path}: weights that are no numbers: the model diverged")
            self.origins[key] = found
        return self.origins[key]

    def weights_of(self, spec: BaseModelSpec, dataset: Dataset) -> dict[str, nn.Parameter]:
        """Build a base model's architecture, once, to see that it can be built and what its weights are called.

        Args:
            origin: a checkpoint, or how one is to be trained.
            dataset: the data.

        Returns:
            Weights by name; their values are of no use.

        Raises:
            SalunError: the model cannot be built.
        """
        pretrained = spec.recipe is not None and spec.recipe.pretrained
        if spec.checkpoint is not None:
            architecture, pretrained = spec.checkpoint.architecture, False
        else:
            architecture, _ = architecture_for(spec.model, dataset, pretrained)
        if (architecture, pretrained) not in self.built:
            model = fresh_model(architecture, pretrained, 0, torch.device("cpu"))
            self.built[architecture, pretrained] = dict(model.to("meta").named_parameters())
        return self.built[architecture, pretrained]

    def base(self, problem: ForgettingProblem) -> Checkpoint:
        """Give the base model of a problem, training and keeping it on first need.

        Args:
            problem: its origin says how.

        Returns:
            The base model's checkpoint.

        Raises:
            SalunError: the model cannot be built, or the checkpoint not written.
        """
        spec = problem.spec
        if spec.identity not in self.bases:
            checkpoint = spec.checkpoint
            if checkpoint is None and spec.path.exists():
                checkpoint = saved_spec(spec.path).checkpoint
            if spec.identity in self.barren:
                raise SalunError(self.barren[spec.identity])
            try:
                self.bases[spec.identity] = checkpoint or self.train_base(problem)
            except SalunError as error:
                self.barren[spec.identity] = str(error)
                raise
        return self.bases[spec.identity]

    def train_base(self, problem: ForgettingProblem) -> Checkpoint:
        """Train a base model and keep it, unless another process does at this moment.

        Args:
            problem: its origin says how.

        Returns:
            The checkpoint, which may be the other process's.

        Raises:
            SalunError: the model cannot be built, or the checkpoint not written.
        """
        spec = problem.spec
        with Claims(spec.path.parent / CLAIMS) as claims, claims.holding(spec.path.name):
            if spec.path.exists():
                return load_checkpoint(spec.path)
            state = self.state_of(spec.path.stem)
            checkpoint, split, _ = train_checkpoint(
                spec.model,
                problem.dataset,
                spec.recipe or default_recipe(spec.dataset),
                ForgetRequest(),
                spec.split_seed,
                self.device,
                self.on_base(spec),
                self.compiled,
                state,
            )
            save_with_forget(spec.path, checkpoint, split)
            self.forget_state(spec.path.stem)
        return checkpoint

    def state_of(self, name: str) -> StateFile | None:
        """Say where the state of a training is kept.

        Args:
            name: of a base model's file without its ending, or a run's id.

        Returns:
            The place; None where no states are written.
        """
        return StateFile(self.checkpoints / STATES / f"{name}.pt", self.save_every) if self.save_every else None

    def forget_state(self, name: str) -> None:
        """Remove the state of a training that is over.

        Args:
            name: as `state_of` takes it.
        """
        forget_state(self.checkpoints / STATES / f"{name}.pt")

    def run(
        self, experiment: Experiment, problem: ForgettingProblem, seed: int, callback: Callback = no_callback
    ) -> Result:
        """Run one experiment with one seed.

        Args:
            experiment: what to do.
            problem: what to do it to.
            seed: of the mask's and the method's randomness.
            watch: is told of every step.

        Returns:
            The record, the unlearned model's checkpoint, and its outputs.

        Raises:
            SalunError: the base model or the mask cannot be had.
        """
        settle_threads(problem.dataset.size, self.beside)
        base = self.base(problem)
        preparation = preparation_of(base, problem.dataset, problem.split)
        sets = make_sets(problem.dataset, problem.split, preparation, self.device)
        before = self.evaluate_base(base, sets, problem)
        forget_peak_memory(self.device)
        done = self.unlearned(experiment, problem, base, sets, seed, callback)
        task = done.task
        begun = clock(self.device)
        precision, parts = task.runtime.precision, task.passes.micro_batches
        cost = (done.seconds["mask"] + done.seconds["method"], task.passes.total)
        evaluation = with_references(outputs_of(task.model, sets, *cost), before)
        measured = measure(evaluation, experiment.metrics, task.diverged is not None)
        seconds = done.seconds | {"evaluation": clock(self.device) - begun}
        settings = resolved_settings(experiment, problem)
        record = Record(
            id=run_id(settings, seed),
            settings=settings,
            seed=seed,
            tag=experiment.tag,
            metrics=measured.metrics,
            base_metrics=measure(before, experiment.metrics).metrics,
            curve=list(task.curve),
            seconds=seconds,
            peak_memory=peak_memory(self.device),
            device=device_name(self.device, precision, self.compiled, self.beside, parts),
            versions=versions() | ADDED,
            revision=revision(),
            split=split_summary(problem.split) | {"recorded": "split" in base.config},
            diverged=measured.diverged,
            details=measured.details,
            outputs=digest_of(evaluation),
            passes=done.passes,
            diverged_epoch=(task.diverged or len(task.curve) or None) if measured.diverged else None,
        )
        checkpoint = self.checkpoint(task.model, base, preparation, problem, record)
        return Result(record, replace(checkpoint, mask=done.mask), evaluation)

    def unlearned(
        self,
        experiment: Experiment,
        problem: ForgettingProblem,
        base: Checkpoint,
        sets: Sets,
        seed: int,
        callback: Callback,
    ) -> _Done:
        """Prune where that is asked for, compute the mask and run the method; time and count each.

        Args:
            experiment: what to do.
            problem: what to do it to.
            base: the model before.
            sets: the images.
            seed: of all randomness.
            watch: is told of every step.

        Returns:
            The task done, its mask, and what it took.
        """
        recipe = problem.spec.recipe or default_recipe(problem.spec.dataset)
        settings = resolved_settings(experiment, problem)
        number, seed = run_id(settings, seed), drawn_seed(settings, seed)
        model = placed(base.restore(), self.device)
        precision = precision_for(recipe.precision, self.device, base.architecture.size)
        sparse = None
        if experiment.prune is not None:
            sparse = self.sparse(experiment.prune, problem, base, sets, callback)
            model.load_state_dict(sparse.weights)
        identity, pretrained = problem.spec.identity, recipe.pretrained
        weights_seed, teacher_seed, mask_seed = (
            derived_seed(purpose, identity, seed) for purpose in ("fresh weights", "random teacher", "random mask")
        )
        with seeded_globally(seed, self.device):
            generator, passes = seeded(seed, self.device), PassCounter(budget=experiment.budget)
            begun = clock(self.device)
            with passes.counting(model):
                asked = self.mask(experiment, problem, model, sets, seeded(mask_seed, self.device), precision)
            masked, spent = clock(self.device), passes.counts
            state = self.state_of(number) if experiment.method == "retrain" else None
            where = f"{number} in {precision} on {self.device.type}"
            saving = StateWriter(state, where, generator) if state else None
            mask = both(asked, sparse.survivors if sparse else None)
            task = Task(
                model=model,
                forget=sets.forget,
                retain=sets.retain,
                validation=sets.validation,
                classes=base.architecture.classes,
                forgotten=problem.split.classes,
                recipe=recipe,
                fresh=lambda: fresh_model(base.architecture, pretrained, weights_seed, self.device),
                untrained=lambda: fresh_model(base.architecture, False, teacher_seed, self.device),
                generator=generator,
                runtime=Runtime(precision, self.compiled, callback=callback, passes=passes, state=saving),
            )
            unlearn(task, experiment.method, experiment.settings, mask)
        method_seconds = clock(self.device) - masked - sum(point.evaluation_seconds for point in task.curve)
        method_seconds += saving.earlier if saving else 0.0
        seconds = {"mask": masked - begun if asked is not None else 0.0, "method": method_seconds}
        counted = {"mask": spent, "method": {name: passes.counts[name] - spent[name] for name in spent}}
        if sparse is not None:
            seconds, counted = seconds | {"prune": sparse.seconds}, counted | {"prune": sparse.passes}
        return _Done(task, mask, seconds, counted)

    def sparse(
        self, request: PruneRequest, problem: ForgettingProblem, base: Checkpoint, sets: Sets, callback: Callback
    ) -> _Sparse:
        """Make a base model sparse, once for all runs that ask for it.

        The smallest weights are set to zero, and the others are trained on, on all training images, by the base
        model's recipe with its own seed.

        Args:
            request: how sparse.
            problem: holds the recipe.
            base: the model.
            sets: the images.
            watch: is told of every step.

        Returns:
            The sparse model.
        """
        key = (tensors_digest(base.weights), request)
        if key in self.pruned:
            return self.pruned[key]
        recipe = problem.spec.recipe or default_recipe(problem.spec.dataset)
        epochs = recipe.epochs if request.epochs is None else request.epochs
        model, passes, idle = placed(base.restore(), self.device), PassCounter(), 0.0
        begun = clock(self.device)
        with seeded_globally(recipe.seed, self.device):
            survivors = prune(model, request.share)
            if epochs:
                shorter, generator = recipe.model_copy(update={"epochs": epochs}), seeded(recipe.seed, self.device)
                with passes.counting(model), masked_updates(model, survivors) as hold:
                    precision = precision_for(recipe.precision, self.device, base.architecture.size)
                    runtime = Runtime(precision, self.compiled, callback=callback, passes=passes, hold=hold)
                    curve, _ = train(model, sets.train, sets.validation, shorter, generator, runtime)
                idle = sum(point.evaluation_seconds for point in curve)
        seconds = clock(self.device) - begun - idle
        self.pruned[key] = _Sparse(model.state_dict(), survivors, seconds, passes.counts)
        return self.pruned[key]

    def mask(
        self,
        experiment: Experiment,
        problem: ForgettingProblem,
        model: nn.Module,
        sets: Sets,
        generator: torch.Generator,
        precision: Precision,
    ) -> Mask | None:
        """Compute or take the mask that an experiment asks for.

        Args:
            experiment: which mask.
            problem: holds a loaded one.
            model: the base model on the device.
            sets: the images.
            generator: draws a random mask.
            precision: of the gradients' forward passes.

        Returns:
            The mask, or None.
        """
        wanted = experiment.mask
        if wanted is None:
            return None
        if problem.mask is not None:
            return problem.mask
        return saliency(
            model,
            sets.forget,
            wanted.keep,
            wanted.score,
            batch_size=_mask_batch_size(experiment),
            max_batches=wanted.batches,
            generator=generator,
            precision=precision,
        )

    def evaluate_base(self, base: Checkpoint, sets: Sets, problem: ForgettingProblem) -> Evaluation:
        """Compute the outputs of a problem's base model, and of a model with random weights, once.

        Args:
            base: the model before.
            sets: the images.
            problem: tells problems apart.

        Returns:
            The outputs; the base model stands as its own base.
        """
        key = (problem.spec.identity, problem.split.forget_fingerprint)
        if key not in self.before:
            found = outputs_of(placed(base.restore(), self.device), sets, None)
            random = fresh_model(base.architecture, False, _RANDOM_SEED, self.device)
            found = replace(found, random=predict(random, sets.forget))
            self.before[key] = replace(found, base=found)
        return self.before[key]

    def models(self, problem: ForgettingProblem, weights: Path | None, retrained: Path | None) -> Models:
        """Load the models of a run again, with their weights and images.

        Args:
            problem: of the run.
            weights: the run's checkpoint; None takes the base model in its place.
            retrained: the retrained model's checkpoint; None where it is not kept.

        Returns:
            What metrics on weights are computed from.

        Raises:
            SalunError: a checkpoint cannot be read.
        """
        base = self.base(problem)
        sets = make_sets(
            problem.dataset, problem.split, preparation_of(base, problem.dataset, problem.split), self.device
        )

        def loaded(path: Path | None) -> nn.Module:
            return placed((base if path is None else load_checkpoint(path)).restore(), self.device)

        return Models(
            model=loaded(weights),
            base=loaded(None),
            retrained=None if retrained is None else loaded(retrained),
            forget=sets.forget,
            retain=sets.retain,
            recipe=problem.spec.recipe or default_recipe(problem.spec.dataset),
        )

    def checkpoint(
        self, model: nn.Module, base: Checkpoint, preparation: Preparation, problem: ForgettingProblem, record: Record
    ) -> Checkpoint:
        """Describe an unlearned model as a checkpoint.

        Args:
            model: the model after.
            base: the model before.
            preparation: how its images are prepared.
            problem: what was unlearned.
            record: of the run.

        Returns:
            The checkpoint; images to forget are among those that it was not trained on.
        """
        config = describe(problem.dataset, problem.spec.recipe, preparation, problem.split, problem.spec.split_seed)
        config["unlearned"] = {"id": record.id, "seed": record.seed, **record.settings}
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        excluded = sorted({*base.excluded, *problem.split.listed.tolist()})
        return replace(base, weights=weights, optimizer=None, config=config, excluded=tuple(excluded))


def _find_origin(experiment: Experiment, folder: Path) -> BaseModelSpec:
    """Find the base model of an experiment."""
    if experiment.checkpoint is not None:
        spec = saved_spec(experiment.checkpoint, experiment.recipe)
        if experiment.recipe is not None and experiment.recipe != spec.recipe:
            raise SalunError(f"recipe: {experiment.checkpoint} records another recipe; leave the key out")
        return spec
    dataset, model, split_seed = str(experiment.dataset), str(experiment.model), experiment.split_seed
    spec = trained_spec(folder, model, dataset, experiment.recipe, split_seed, default_recipe(dataset))
    if experiment.base_seed is None or spec.recipe is None or spec.recipe.seed == experiment.base_seed:
        return spec
    recipe = spec.recipe.model_copy(update={"seed": experiment.base_seed})
    return trained_spec(folder, model, dataset, recipe, split_seed, recipe)


def _mask_batch_size(experiment: Experiment) -> int:
    """Tell how many images a gradient of the mask is of: as many as the method takes a step."""
    return int(experiment.settings.get("batch_size", 256))


def _check_budget(experiment: Experiment, forget: int) -> None:
    """Check that a budget has room for more than the mask."""
    mask, budget = experiment.mask, experiment.budget
    if mask is None or budget is None or mask.file is not None or mask.score == "random":
        return
    images = forget if mask.batches is None else min(forget, mask.batches * _mask_batch_size(experiment))
    if 2 * (images + 1) > budget:
        told = f"the mask alone takes {2 * images} image passes, forward and backward over {images} forget images"
        raise SalunError(f"budget: {budget}: {told}; give more, or fewer mask_batches")


def warnings_for(problem: ForgettingProblem) -> list[str]:
    """Say what a user might not expect of a base model or of the data.

    Args:
        problem: whose base model and data.

    Returns:
        Lines; none of an ordinary one.
    """
    spec, lines = problem.spec, problem.dataset.notices
    if spec.checkpoint is None:
        return lines
    if "split" not in spec.checkpoint.config:
        unsure = "VA, MIA and the forests may count images that it was trained on as unseen"
        lines.append(f"{spec.path}: records no split; that of seed {spec.split_seed} is taken, so {unsure}")
    if not spec.by_weights and spec.recipe != default_recipe(spec.dataset) and "-" not in spec.path.stem:
        lines.append(f"{spec.path}: was trained by a recipe of its own ({spec.recipe}), which retraining follows")
    return lines


def save_with_forget(path: Path, checkpoint: Checkpoint, split: Split) -> None:
    """Write a checkpoint, and beside it `..._forget.json`, its forget set, and its mask, if any, ending in `.mask`.

    Args:
        path: of the checkpoint.
        checkpoint: what to write.
        parts: its split.

    Raises:
        SalunError: the files cannot be written.
    """
    write_forget(path.with_name(f"{path.stem}_forget.json"), split.listed)
    if checkpoint.mask is not None:
        save_mask(path.with_suffix(".mask"), checkpoint.mask)
    save_checkpoint(path, checkpoint)
