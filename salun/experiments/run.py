"""One run: base model, mask, method, outputs, metrics, record."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

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
)
from salun.experiments.base_model import checkpoint_config, fresh_model
from salun.experiments.config import Experiment, PruneRequest
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.evaluate import Measured, base_metrics, base_outputs, measure, outputs_of, with_references
from salun.experiments.outputs import digest_of
from salun.experiments.problem import ForgettingProblem, LoadedProblem, load_problem, mask_batch_size
from salun.experiments.record import (
    EARLIER,
    Record,
    drawn_seed,
    resolved_settings,
    revision,
    run_id,
    split_summary,
    versions,
)
from salun.io.tensors import tensors_digest
from salun.metrics import Evaluation, check_metrics
from salun.metrics.svc_mia import prepare_attacks
from salun.models.checkpoint import Checkpoint
from salun.registry import ADDED
from salun.training.cost import PassCounter
from salun.training.loop import train
from salun.training.progress import Callback, no_callback
from salun.training.runtime import Runtime
from salun.training.state import StateWriter
from salun.unlearning import Task, unlearn
from salun.unlearning.mask import Mask, masked_updates, saliency
from salun.unlearning.pruning import both, prune


@dataclass(frozen=True)
class RunResult:
    """What a run gives.

    Attributes:
        record: of the run; metrics that compare it with other runs are still missing.
        evaluation: the unlearned model's outputs, with the base model's.
        checkpoint: the unlearned model; None where it is not wanted.
    """

    record: Record
    evaluation: Evaluation
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class PreviousRun:
    """The run of the request before.

    Attributes:
        id: of its record.
        weights: of its model, which the next run starts from; None of retraining.
        seconds: wall time of it and those before it.
        passes: images that went "forward" and "backward" through models, likewise.
    """

    id: str
    weights: dict[str, Tensor] | None
    seconds: float
    passes: dict[str, int]


@dataclass(frozen=True)
class _PrunedModel:
    """A base model that was pruned and trained on."""

    weights: dict[str, Tensor]
    survivors: Mask
    seconds: float
    passes: dict[str, int]


@dataclass(frozen=True)
class UnlearningResult:
    """What a mask and a method leave behind.

    Attributes:
        task: with the model as it is now.
        mask: under which the method ran; None where it had none.
        seconds: wall time by part, without those of the validation set.
        passes: images that went "forward" and "backward", by part.
    """

    task: Task
    mask: Mask | None
    seconds: dict[str, float]
    passes: dict[str, dict[str, int]]

    @property
    def cost(self) -> tuple[float, int]:
        """Seconds and image passes of mask and method."""
        return self.seconds["mask"] + self.seconds["method"], self.task.passes.total


def run_once(
    experiment: Experiment,
    problem: ForgettingProblem,
    seed: int,
    cache: ModelCache,
    callback: Callback = no_callback,
    previous: PreviousRun | None = None,
) -> RunResult:
    """Run one experiment with one seed.

    Args:
        experiment: what to do.
        problem: what to do it to; its base model is trained.
        seed: of the mask's and the method's randomness.
        cache: keeps base models, problems and their outputs.
        callback: is told of every step.
        previous: of the request before; None of a first one.

    Returns:
        The record, the outputs, and the unlearned model.

    Raises:
        SalunError: the base model or the mask cannot be had.
    """
    device = cache.context.device
    loaded = load_problem(problem, cache)
    prepare_attacks(check_metrics(experiment.metrics), len(loaded.sets.retain), len(loaded.sets.test))
    before = base_outputs(loaded, cache)
    forget_peak_memory(device)
    done = unlearn_once(experiment, loaded, seed, cache, callback, previous.weights if previous else None)
    begun = clock(device)
    evaluation = with_references(outputs_of(done.task.model, loaded.sets, *done.cost), before)
    if previous is not None:
        done = replace(done, seconds=done.seconds | {EARLIER: previous.seconds})
        done = replace(done, passes=done.passes | {EARLIER: previous.passes})
        passes = sum(previous.passes.values())
        evaluation = replace(evaluation, earlier_seconds=previous.seconds, earlier_passes=passes)
    measured = measure(evaluation, experiment.metrics, done.task.diverged is not None)
    done = replace(done, seconds=done.seconds | {"evaluation": clock(device) - begun})
    record = _record_of(experiment, loaded, seed, done, measured, cache.context)
    record = replace(
        record, base_metrics=base_metrics(loaded, experiment.metrics, cache), outputs=digest_of(evaluation)
    )
    record = replace(record, parent=previous.id if previous else None)
    return RunResult(record, evaluation, _checkpoint_of(done, loaded, record))


def unlearn_once(
    experiment: Experiment,
    loaded: LoadedProblem,
    seed: int,
    cache: ModelCache,
    callback: Callback = no_callback,
    start: Mapping[str, Tensor] | None = None,
) -> UnlearningResult:
    """Prune where that is asked for, compute the mask and run the method; time and count each.

    Args:
        experiment: what to do.
        loaded: what to do it to.
        seed: of all randomness.
        cache: keeps pruned models.
        callback: is told of every step.
        start: weights in the place of the base model's.

    Returns:
        The task done, its mask, and what it took.
    """
    problem, base, context = loaded.problem, loaded.base, cache.context
    settings = resolved_settings(experiment, problem)
    number, seed = run_id(settings, seed), drawn_seed(settings, seed)
    model, device = placed(base.restore(), context.device), context.device
    precision = precision_for(problem.spec.known_recipe.precision, device, base.architecture.size)
    if start is not None:
        model.load_state_dict(start)
    pruned = None
    if experiment.prune is not None:
        pruned = _pruned_base(experiment.prune, loaded, cache, callback)
        model.load_state_dict(pruned.weights)
    mask_seed = derived_seed("random mask", problem.spec.identity, seed)
    with seeded_globally(seed, device):
        generator, passes = seeded(seed, device), PassCounter(budget=experiment.budget)
        begun = clock(device)
        with passes.counting(model):
            asked = _mask_of(experiment, loaded, model, seeded(mask_seed, device), precision)
        masked, mask_passes = clock(device), passes.counts
        state = context.state_file(number) if experiment.method == "retrain" else None
        writer = StateWriter(state, f"{number} in {precision} on {device.type}", generator) if state else None
        mask = both(asked, pruned.survivors if pruned else None)
        runtime = Runtime(precision, context.compiled, context.cuda_graphs, callback, passes, writer)
        task = _task_of(model, _with_retained(loaded, experiment), seed, generator, runtime)
        unlearn(task, experiment.method, experiment.settings, mask)
    method_seconds = clock(device) - masked - sum(point.evaluation_seconds for point in task.curve)
    method_seconds += writer.earlier if writer else 0.0
    seconds = {"mask": masked - begun if asked is not None else 0.0, "method": method_seconds}
    counted = {
        "mask": mask_passes,
        "method": {name: passes.counts[name] - mask_passes[name] for name in mask_passes},
    }
    if pruned is not None:
        seconds, counted = seconds | {"prune": pruned.seconds}, counted | {"prune": pruned.passes}
    return UnlearningResult(task, mask, seconds, counted)


def _with_retained(loaded: LoadedProblem, experiment: Experiment) -> LoadedProblem:
    """Leave all corrupted images out of what the gold standard is trained on."""
    sets, concerned = loaded.sets, loaded.sets.corrupted
    return replace(loaded, sets=replace(sets, retain=concerned.clean)) if concerned and experiment.is_gold else loaded


def _task_of(model: nn.Module, loaded: LoadedProblem, seed: int, generator: torch.Generator, runtime: Runtime) -> Task:
    """Hand a method its model and images; models that it asks for start from seeds of their own."""
    problem, base, sets = loaded.problem, loaded.base, loaded.sets
    recipe, device = problem.spec.known_recipe, generator.device

    def built(purpose: str, pretrained: bool) -> nn.Module:
        return fresh_model(base.architecture, pretrained, derived_seed(purpose, problem.spec.identity, seed), device)

    return Task(
        model=model,
        forget=sets.forget,
        retain=sets.retain,
        validation=sets.validation,
        classes=base.architecture.classes,
        forgotten=problem.split.classes,
        recipe=recipe,
        fresh=lambda: built("fresh weights", recipe.pretrained),
        untrained=lambda: built("random teacher", pretrained=False),
        generator=generator,
        runtime=runtime,
        absent=tuple(sorted({label for split in problem.split.earlier for label in split.classes})),
    )


def _mask_of(
    experiment: Experiment, loaded: LoadedProblem, model: nn.Module, generator: torch.Generator, precision: Precision
) -> Mask | None:
    """Compute or take the mask that an experiment asks for."""
    wanted = experiment.mask
    if wanted is None or loaded.problem.mask is not None:
        return None if wanted is None else loaded.problem.mask
    return saliency(
        model,
        loaded.sets.forget,
        wanted.keep,
        wanted.score,
        batch_size=mask_batch_size(experiment),
        max_batches=wanted.batches,
        generator=generator,
        precision=precision,
    )


def _pruned_base(request: PruneRequest, loaded: LoadedProblem, cache: ModelCache, callback: Callback) -> _PrunedModel:
    """Make a base model sparse, once for all runs that ask for it.

    The smallest weights are set to zero, and the others are trained on, on all training images, by the base model's
    recipe with its own seed.
    """
    base, sets, context = loaded.base, loaded.sets, cache.context

    def make() -> _PrunedModel:
        recipe, device = loaded.problem.spec.known_recipe, context.device
        epochs = recipe.epochs if request.epochs is None else request.epochs
        model, passes, idle = placed(base.restore(), device), PassCounter(), 0.0
        begun = clock(device)
        with seeded_globally(recipe.seed, device):
            survivors = prune(model, request.share)
            if epochs:
                shorter, generator = recipe.model_copy(update={"epochs": epochs}), seeded(recipe.seed, device)
                precision = precision_for(recipe.precision, device, base.architecture.size)
                with passes.counting(model), masked_updates(model, survivors) as hold:
                    runtime = Runtime(precision, context.compiled, context.cuda_graphs, callback, passes, hold=hold)
                    curve, _ = train(model, sets.train, sets.validation, shorter, generator, runtime)
                idle = sum(point.evaluation_seconds for point in curve)
        return _PrunedModel(model.state_dict(), survivors, clock(device) - begun - idle, passes.counts)

    return cache.get(("pruned", tensors_digest(base.weights), request), make)


def _record_of(
    experiment: Experiment,
    loaded: LoadedProblem,
    seed: int,
    done: UnlearningResult,
    measured: Measured,
    context: RunContext,
) -> Record:
    """Describe a run."""
    problem, task = loaded.problem, done.task
    settings = resolved_settings(experiment, problem)
    device, workers = context.device, context.workers
    return Record(
        id=run_id(settings, seed),
        settings=settings,
        seed=seed,
        tag=experiment.tag,
        metrics=measured.metrics,
        base_metrics={},
        curve=list(task.curve),
        seconds=done.seconds,
        peak_memory=peak_memory(device),
        device=device_name(device, task.runtime.precision, context.compiled, workers, task.passes.micro_batches),
        versions=versions() | ADDED,
        revision=revision(),
        split=split_summary(problem.split, loaded.sets) | {"recorded": "split" in loaded.base.config},
        diverged=measured.diverged,
        details=measured.details,
        passes=done.passes,
        certificate=task.certificate,
        diverged_epoch=(task.diverged or len(task.curve) or None) if measured.diverged else None,
    )


def _checkpoint_of(done: UnlearningResult, loaded: LoadedProblem, record: Record) -> Checkpoint:
    """Describe an unlearned model; images to forget are among those that it was not trained on."""
    problem, base = loaded.problem, loaded.base
    config = checkpoint_config(
        base.architecture.model, problem.dataset, problem.spec.recipe, loaded.preparation, problem.split
    )
    config["unlearned"] = {"id": record.id, "seed": record.seed, **record.settings}
    weights = {name: tensor.detach().cpu() for name, tensor in done.task.model.state_dict().items()}
    excluded = tuple(sorted({*base.excluded, *problem.split.removed.tolist()}))
    return replace(base, weights=weights, optimizer=None, config=config, excluded=excluded, mask=done.mask)
