"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from salun.data.images import Batch, Images
from salun.device import Precision, settle_precision
from salun.errors import SalunError
from salun.training.cost import PassCounter
from salun.training.distributed import SINGLE_PROCESS, Group
from salun.training.evaluate import accuracy_of_all
from salun.training.optim import OptimizerConfig, make_optimizer, make_schedule, step_schedules
from salun.training.progress import Callback, Epoch, EpochProgress, Progress, no_callback, nothing
from salun.training.recipe import OptimizerName, Recipe, Schedule
from salun.training.runtime import Runtime
from salun.training.state import StateWriter
from salun.training.step import Loss, Step, TrainStep, cross_entropy, log, still_norms

Stream = Callable[[int], Iterable[Batch | Step]]


def fit(
    model: nn.Module,
    stream: Stream,
    *,
    epochs: int,
    lr: float,
    optimizer: OptimizerName = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Schedule = "constant",
    grad_clip: float | None = None,
    loss: Loss = cross_entropy,
    precision: Precision = "float32",
    callback: Callback = no_callback,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    beside: Iterable[nn.Parameter] = (),
    forgetting: OptimizerConfig | None = None,
    freeze_norms: bool = False,
    clear_gradients: Callable[[], None] = nothing,
    passes: PassCounter | None = None,
    compiled: bool = False,
    saving: StateWriter | None = None,
    group: Group = SINGLE_PROCESS,
) -> tuple[list[Epoch], torch.optim.Optimizer]:
    """Train a model, in place; an epoch whose loss is no number is the last.

    Args:
        model: on its device; is left in training mode.
        stream: gives the batches of epoch 0, 1, ...
        epochs: passes over the stream.
        lr: learning rate at the start.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.
        weight_decay: L2 penalty.
        schedule: of the learning rate.
        grad_clip: largest norm of the gradient; None for no limit.
        loss: of logits and batch.
        precision: of the forward pass; weights and loss are float32.
        watch: is told of every step.
        validate: gives the validation accuracy; the weights of the best epoch are kept, of equal ones the later.
        patience: epochs without a better validation accuracy after which training stops.
        beside: weights outside the model that are trained with it.
        forgetting: a second optimiser, with momentum of its own, for the steps that forget; None lets one take all.
        freeze_norms: whether batch normalisation keeps to its running statistics, and leaves them as they are.
        clear_gradients: clears those of weights that a mask holds, before the others' are clipped.
        passes: counts the images, where it watches the model, and knows the budget: the last step that fits only in
            part is taken with fewer images.
        compiled: whether the model is compiled by `torch.compile`.
        saving: writes the training's state from time to time, and takes up what an earlier process left of it; the
            stream must draw from its generator alone.
        group: the processes that train this model together; of several, each gives its portions of the same steps.

    Returns:
        The curve, one point an epoch, and the optimiser.

    Raises:
        SalunError: what an earlier process left cannot be taken up.
    """
    weights = [*(weight for weight in model.parameters() if weight.requires_grad), *beside]
    own = OptimizerConfig(lr, optimizer, momentum, weight_decay)
    optimizers = [make_optimizer(weights, descent) for descent in (own, forgetting) if descent]
    updates = optimizers[0]
    schedules = [make_schedule(each, schedule, epochs) for each in optimizers]
    stepper = TrainStep(
        model=model,
        optimizers=optimizers,
        loss=loss,
        grad_clip=grad_clip,
        precision=settle_precision(precision, weights[0].device),
        clear_gradients=clear_gradients,
        passes=PassCounter() if passes is None else passes,
        compiled=compiled,
        group=group,
    )
    course = TrainingState(stepper, schedules, saving)
    course.take_up()
    for number in range(course.number, epochs):
        begun, rate = time.perf_counter() - course.seconds, updates.param_groups[0]["lr"]
        model.train()
        if freeze_norms:
            still_norms(model)
        images, mean_loss, share = run_epoch(course, stream, EpochProgress(number, epochs, begun, callback))
        if images == 0:
            break
        trained = time.perf_counter()
        validation = validate() if validate else None
        idle = time.perf_counter() - trained if validate else 0.0
        course.curve.append(Epoch(number + 1, mean_loss, share, validation, rate, trained - begun, idle))
        callback(Progress(number + 1, epochs, images, trained - begun, course.curve[-1]))
        course.judge(validation)
        if course.over or not math.isfinite(mean_loss):
            break
        step_schedules(schedules, validation if validation is not None else -mean_loss)
        if patience is not None and validation is not None and number - course.risen >= patience:
            break
        course.begin(number + 1)
    if course.best_weights is not None:
        model.load_state_dict(course.best_weights)
    return course.curve, updates


def run_epoch(course: "TrainingState", stream: Stream, pace: EpochProgress) -> tuple[int, float, float]:
    """Take one optimiser step a batch, from where the course stands until the budget is spent.

    Args:
        course: of the training.
        stream: gives the steps of an epoch.
        pace: is told of every step.

    Returns:
        Images seen, mean loss and training accuracy; the device is read once, at the end.
    """
    stepper = course.stepper
    for given in course.steps_left(stream):
        step = (given if isinstance(given, Step) else Step(given)).within(stepper.passes.left)
        if step is None:
            course.over = True
            break
        stepper.take(step)
        course.tell(step.images, time.perf_counter() - pace.begun)
        pace.tell(course.images)
    course.over |= stepper.passes.exhausted
    mean_loss, share = (stepper.summed / max(course.images, 1)).tolist()
    return course.images, mean_loss, share


class TrainingState:
    """A training under way: all that decides how it goes on.

    Attributes:
        stepper: takes the steps.
        schedules: one an optimiser.
        saving: writes and finds the state; None where nobody wants it.
        curve: the epochs that are over.
        best: highest validation accuracy so far.
        risen: the epoch, from 0, in which it rose last.
        best_weights: of the best epoch; None before there is one.
        number: of the epoch under way, from 0.
        taken: steps taken in it.
        images: seen in it.
        seconds: that earlier processes spent on it.
        left: what an earlier process left of it; None once it is taken up.
        drawn: where all generators stood when it began.
        over: whether the budget allows no further step.
    """

    def __init__(self, stepper: "TrainStep", schedules: list[LRScheduler], saving: StateWriter | None) -> None:
        self.stepper, self.schedules, self.saving = stepper, schedules, saving
        self.curve: list[Epoch] = []
        self.best, self.risen = -math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        self.left: dict[str, Any] | None = None
        self.drawn: dict[str, Any] = {}
        self.over = False
        self.begin(0)

    def begin(self, number: int) -> None:
        """Begin an epoch.

        Args:
            number: from 0.
        """
        self.number, self.taken, self.images, self.seconds = number, 0, 0, 0.0

    def judge(self, validation: float | None) -> None:
        """Keep the weights of the epoch that is over, if it is the best one so far.

        Args:
            validation: accuracy; None where nobody looked.
        """
        if validation is not None and validation >= self.best:
            self.risen = self.number if validation > self.best else self.risen
            self.best, self.best_weights = validation, deepcopy(self.stepper.model.state_dict())

    def steps_left(self, stream: Stream) -> Iterator[Batch | Step]:
        """Begin the epoch's steps, or go on where an earlier process left off.

        Args:
            stream: gives the steps of an epoch, the same ones where the generators stand as they stood.

        Returns:
            The steps that are to be taken.
        """
        self.stepper.begin()
        left, self.left = self.left, None
        if self.saving is None:
            return iter(stream(self.number))
        if left is None:
            self.drawn = self.saving.chances()
            return iter(stream(self.number))
        self.saving.set_chances(left["drawn"])
        steps = iter(stream(self.number))
        for _ in range(self.taken):
            next(steps, None)
        self.saving.set_chances(left["chances"])
        self.stepper.summed.copy_(left["summed"])
        return steps

    def tell(self, images: int, seconds: float) -> None:
        """Count a step, and write the state where that is due.

        Args:
            images: of the step.
            seconds: since the epoch began.
        """
        self.taken += 1
        self.images += images
        if self.saving is not None and self.saving.is_due():
            self.saving.write(self.state(self.saving) | {"seconds": seconds})

    def state(self, saving: StateWriter) -> dict[str, Any]:
        """Gather what a process needs to go on from here.

        Args:
            saving: knows the generators.

        Returns:
            Tensors and plain values.
        """
        stepper = self.stepper
        return {
            "model": stepper.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in stepper.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "summed": stepper.summed,
            "passes": {**stepper.passes.counts, "parts": stepper.passes.micro_batches},
            "curve": [vars(point) for point in self.curve],
            "best": (self.best, self.risen, self.best_weights),
            "place": (self.number, self.taken, self.images),
            "drawn": self.drawn,
            "chances": saving.chances(),
        }

    def take_up(self) -> None:
        """Take up what an earlier process left, if it did.

        Raises:
            SalunError: it does not fit the model, or lacks something.
        """
        left = self.saving.read() if self.saving else None
        if self.saving is None or left is None:
            return
        stepper = self.stepper
        try:
            stepper.model.load_state_dict(left["model"])
            for optimizer, state in zip(stepper.optimizers, left["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            for schedule, state in zip(self.schedules, left["schedules"], strict=True):
                schedule.load_state_dict(state)
            passes = stepper.passes
            passes.forward, passes.backward, passes.micro_batches = (
                int(left["passes"][name]) for name in ("forward", "backward", "parts")
            )
            self.curve = [Epoch(**point) for point in left["curve"]]
            self.best, self.risen, self.best_weights = left["best"]
            self.number, self.taken, self.images = left["place"]
            self.seconds, self.drawn = float(left["seconds"]), left["drawn"]
            self.left = {name: left[name] for name in ("drawn", "chances", "summed")}
            self.saving.set_chances(left["chances"])
            if self.saving.place.mine:
                log.warning("%s: going on in epoch %d", self.saving.place.path, self.number + 1)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self.saving.place.path
            raise SalunError(f"{path}: cannot be taken up; delete it, and the training starts anew") from error


def _steps_of(images: Images, size: int, generator: torch.Generator, group: Group) -> Iterator[Batch | Step]:
    """Go once through the images, shuffled and augmented."""
    if group.size == 1:
        yield from images.batches(size, generator)
        return
    for batch, portion in images.portions(size, generator, group.rank, group.size):
        yield Step(batch, portion=portion)


def train(
    model: nn.Module,
    images: Images,
    validation: Images,
    recipe: Recipe,
    generator: torch.Generator,
    runtime: Runtime | None = None,
) -> tuple[list[Epoch], dict[str, Any]]:
    """Train a fresh model by a recipe and keep the epoch that is best on validation.

    Args:
        model: on its device; is trained in place.
        images: what it learns.
        validation: chooses the epoch and steers the "plateau" schedule.
        recipe: all settings.
        generator: shuffles and augments.
        watch: is told of every step.
        passes: counts the images, where it watches the model, without those of the validation set.
        precision: of the forward pass, on the validation set too; None for the recipe's.
        compiled: whether the model is compiled.
        saving: writes the training's state from time to time; has the same generator.
        group: the processes that train the model together, each with the whole sets, of which it holds a share.

    Returns:
        The curve and the optimiser's state.

    Raises:
        SalunError: what an earlier process left cannot be taken up.
    """
    runtime = runtime or Runtime()
    callback, passes, precision, compiled = runtime.callback, runtime.passes, runtime.precision, runtime.compiled
    saving, group = runtime.state, runtime.group
    counted = passes

    def validated() -> float:
        with counted.paused():
            return accuracy_of_all(model, validation, precision, group)

    curve, optimizer = fit(
        model,
        lambda epoch: _steps_of(images, recipe.batch_size, generator, group),
        epochs=recipe.epochs,
        lr=recipe.lr,
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        schedule=recipe.schedule,
        precision=precision,
        callback=callback,
        validate=validated if len(validation) else None,
        patience=recipe.patience,
        passes=counted,
        compiled=compiled,
        saving=saving,
        group=group,
    )
    return curve, optimizer.state_dict()
