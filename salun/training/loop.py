"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from salun.data.images import Batch, Batches, Images
from salun.errors import SalunError
from salun.training.evaluate import accuracy_of_all
from salun.training.optim import make_optimizer, make_schedule, step_schedules
from salun.training.progress import Epoch, Progress
from salun.training.recipe import Recipe, TrainingConfig
from salun.training.runtime import Runtime
from salun.training.state import StateWriter
from salun.training.step import Loss, Step, Stream, TrainStep, cross_entropy


def fit(
    model: nn.Module,
    stream: Stream,
    config: TrainingConfig,
    runtime: Runtime,
    *,
    loss: Loss = cross_entropy,
    extra_parameters: Iterable[nn.Parameter] = (),
    forgetting: TrainingConfig | None = None,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
) -> tuple[list[Epoch], torch.optim.Optimizer]:
    """Train a model in place; an epoch whose loss is no number is the last.

    Args:
        model: on its device; is left in training mode.
        stream: gives the steps of epoch 0, 1, ...; where a state is saved, it draws from that state's generator alone.
        config: optimiser, schedule, epochs and clipping; batches are as the stream gives them.
        runtime: precision, counter, callback and the like; the last step that fits the budget only in part is cut.
        loss: of logits and batch, where a step has none of its own.
        extra_parameters: weights outside the model that are trained with it.
        forgetting: optimiser and schedule of the steps that forget; None lets one take all.
        validate: gives the accuracy that chooses the epoch, of equal ones the later; None keeps the last.
        patience: epochs without a better one after which training stops; None for no end.

    Returns:
        The curve, one point an epoch, and the optimiser.

    Raises:
        SalunError: what an earlier process left cannot be taken up.
    """
    weights = [*(weight for weight in model.parameters() if weight.requires_grad), *extra_parameters]
    configs = [each for each in (config, forgetting) if each]
    optimizers = [make_optimizer(weights, each) for each in configs]
    pairs = zip(optimizers, configs, strict=True)
    schedules = [make_schedule(optimizer, each.schedule, config.epochs) for optimizer, each in pairs]
    course = _Course(TrainStep(model, optimizers, runtime, loss, config.grad_clip), schedules, runtime.state)
    course.take_up()
    for number in range(course.number, config.epochs):
        rate = optimizers[0].param_groups[0]["lr"]
        images, figures, seconds = course.run_epoch(stream, config.epochs)
        if images == 0:
            break
        trained = time.perf_counter()
        score = validate() if validate else None
        idle = time.perf_counter() - trained if validate else 0.0
        course.curve.append(Epoch(number + 1, *figures, score, rate, seconds, idle))
        runtime.callback(Progress(number + 1, config.epochs, images, seconds, course.curve[-1]))
        course.judge(score)
        if course.over or not math.isfinite(figures[0]):
            break
        step_schedules(schedules, -figures[0] if score is None else score)
        if validate and patience is not None and number - course.risen >= patience:
            break
        course.begin(number + 1)
    if course.best_weights is not None:
        model.load_state_dict(course.best_weights)
    return course.curve, optimizers[0]


class _Course:
    """A training under way: all that decides how it goes on."""

    def __init__(self, stepper: TrainStep, schedules: list[LRScheduler], writer: StateWriter | None) -> None:
        self.stepper, self.schedules, self.writer = stepper, schedules, writer
        self.curve: list[Epoch] = []
        self.best, self.risen = -math.inf, 0
        self.best_weights: dict[str, Tensor] | None = None
        self.left: dict[str, Any] | None = None
        self.drawn: dict[str, Any] = {}
        self.over = False
        self.begin(0)

    def begin(self, number: int) -> None:
        """Begin an epoch."""
        self.number, self.taken, self.images, self.seconds = number, 0, 0, 0.0

    def run_epoch(self, stream: Stream, epochs: int) -> tuple[int, tuple[float, float], float]:
        """Take one optimiser step a batch, from where the course stands until the budget is spent.

        Returns images, mean loss with training accuracy, and seconds; the device is read once, at the end.
        """
        stepper, passes, begun = self.stepper, self.stepper.passes, time.perf_counter() - self.seconds
        stepper.model.train()
        for given in self._steps_left(stream):
            step = (given if isinstance(given, Step) else Step(given)).within(passes.left)
            if step is None:
                self.over = True
                break
            stepper.take(step)
            self.taken += 1
            self.images += step.images
            seconds = time.perf_counter() - begun
            if self.writer is not None and self.writer.is_due():
                self.writer.write(self._state(self.writer) | {"seconds": seconds})
            stepper.runtime.callback(Progress(self.number + 1, epochs, self.images, seconds))
        self.over |= passes.exhausted
        loss, share = (stepper.summed / max(self.images, 1)).tolist()
        return self.images, (loss, share), time.perf_counter() - begun

    def judge(self, score: float | None) -> None:
        """Keep the weights of the epoch that is over, if it is the best one so far."""
        if score is not None and score >= self.best:
            self.risen = self.number if score > self.best else self.risen
            self.best, self.best_weights = score, deepcopy(self.stepper.model.state_dict())

    def _steps_left(self, stream: Stream) -> Iterator[Batch | Step]:
        """Begin the epoch's steps, or go on where an earlier process left off."""
        self.stepper.begin()
        left, self.left = self.left, None
        if self.writer is None or left is None:
            self.drawn = self.writer.random_states() if self.writer else {}
            return iter(stream(self.number))
        self.writer.set_random_states(left["drawn"])
        steps = iter(stream(self.number))
        if isinstance(steps, Batches):
            steps.skip(self.taken)
        else:
            for _ in range(self.taken):
                next(steps, None)
        self.writer.set_random_states(left["chances"])
        self.stepper.summed.copy_(left["summed"])
        return steps

    def _state(self, writer: StateWriter) -> dict[str, Any]:
        """Gather what a process needs to go on from here: tensors and plain values."""
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
            "chances": writer.random_states(),
        }

    def take_up(self) -> None:
        """Take up what an earlier process left, if it did."""
        left = self.writer.read() if self.writer else None
        if self.writer is None or left is None:
            return
        try:
            self._restore(left)
            self.writer.set_random_states(left["chances"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self.writer.file.path
            raise SalunError(f"{path}: cannot be taken up; delete it, and the training starts anew") from error
        self.writer.report(self.number)

    def _restore(self, left: dict[str, Any]) -> None:
        """Put everything where an earlier process left it."""
        stepper, passes = self.stepper, self.stepper.passes
        stepper.model.load_state_dict(left["model"])
        for optimizer, state in zip(stepper.optimizers, left["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        for schedule, state in zip(self.schedules, left["schedules"], strict=True):
            schedule.load_state_dict(state)
        counts = (int(left["passes"][name]) for name in ("forward", "backward", "parts"))
        passes.forward, passes.backward, passes.micro_batches = counts
        self.curve = [Epoch(**point) for point in left["curve"]]
        self.best, self.risen, self.best_weights = left["best"]
        self.number, self.taken, self.images = left["place"]
        self.seconds, self.drawn = float(left["seconds"]), left["drawn"]
        self.left = {name: left[name] for name in ("drawn", "chances", "summed")}


def train(
    model: nn.Module, images: Images, validation: Images, recipe: Recipe, generator: torch.Generator, runtime: Runtime
) -> tuple[list[Epoch], dict[str, Any]]:
    """Train a fresh model by a recipe and keep the epoch that is best on validation.

    Args:
        model: on its device; is trained in place.
        images: what it learns.
        validation: chooses the epoch and steers the "plateau" schedule; its passes are not counted.
        recipe: all settings.
        generator: shuffles and augments; that of the runtime's state, where it has one.
        runtime: precision, counter, callback and the like; its precision holds, not the recipe's.

    Returns:
        The curve and the optimiser's state.

    Raises:
        SalunError: what an earlier process left cannot be taken up, or there are fewer images than processes.
    """
    group = runtime.group
    if len(images) < group.size:
        raise SalunError(f"{group.size} processes for {len(images)} training images: one would hold none; start fewer")

    def validated() -> float:
        with runtime.passes.paused():
            return accuracy_of_all(model, validation, runtime.precision, group)

    curve, optimizer = fit(
        model,
        lambda epoch: images.batches(recipe.batch_size, generator, group.own),
        recipe.training,
        runtime,
        validate=validated if len(validation) else None,
        patience=recipe.patience,
    )
    return curve, optimizer.state_dict()
