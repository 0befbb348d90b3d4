"""The only training loop, the only evaluation loop, and the recipe of a base model."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from salun.data.images import Batch, Images, Portion
from salun.device import Precision, autocast, settle_precision
from salun.distributed import ALONE, Group
from salun.errors import SalunError
from salun.graphs import EAGER_STEPS, Captured
from salun.passes import Passes
from salun.resume import Saving

Schedule = Literal["constant", "plateau", "multistep", "cosine"]
OptimizerName = Literal["sgd", "adam", "adamw"]
Loss = Callable[[Tensor, Batch], Tensor]

PLATEAU_PATIENCE = 5
EVALUATION_BATCH = 1024
EVALUATION_BYTES = 64 * 1024**2

log = logging.getLogger("salun")


class Step(NamedTuple):
    """One step of a training that has steps of several kinds.

    Attributes:
        batch: what the model sees.
        loss: of its logits and the batch; None for the training's own.
        forgets: whether the step is to forget: the second optimiser takes it, where there is one.
        portion: of the batch that this process sees; None where it sees all.
        cost: passes that each image of the batch costs, forward and backward together; more than the model's own two
            where the loss shows the batch to a teacher.
        extra: passes that the step costs besides, such as those of a second batch that the loss looks at.
    """

    batch: Batch
    loss: Loss | None = None
    forgets: bool = False
    portion: Portion | None = None
    cost: int = 2
    extra: int = 0

    @property
    def images(self) -> int:
        """How many images the batch has, those that other processes see included."""
        return len(self.batch.x) if self.portion is None else self.portion.whole

    def within(self, passes: float) -> "Step | None":
        """Cut the batch so that the step costs no more than what is left of a budget.

        Args:
            passes: what is left, forward and backward together.

        Returns:
            The step, of fewer images where it has to be; None where not even one image fits.
        """
        if self.images * self.cost + self.extra <= passes:
            return self
        count = int((passes - self.extra) // self.cost)
        if count < 1:
            return None
        # Evenly spaced, as some streams sort what is in a batch.
        places = torch.arange(count, device=self.batch.x.device) * len(self.batch.x) // count
        return self._replace(batch=Batch(*(part[places] for part in self.batch)))


Stream = Callable[[int], Iterable[Batch | Step]]


@dataclass(frozen=True)
class Outputs:
    """What a model says of a set of images.

    Attributes:
        logits: (N, C) float32 on the CPU.
        labels: (N,) int64 on the CPU.
        indices: (N,) int64, where each image stands in its part of the data set; None where that is unknown.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor | None = None

    def in_order(self) -> "Outputs":
        """Sort by the images' indices.

        Returns:
            The same outputs; as they are where no indices are known.
        """
        if self.indices is None:
            return self
        order = self.indices.argsort(stable=True)
        return Outputs(self.logits[order], self.labels[order], self.indices[order])


@dataclass(frozen=True)
class Epoch:
    """One point of a training curve.

    Attributes:
        epoch: from 1.
        loss: mean over the images, as optimised.
        accuracy: share of the images whose given label was predicted while training.
        validation: accuracy on the validation set, where one is watched.
        lr: learning rate of the epoch.
        seconds: wall time of the training steps.
        evaluation_seconds: wall time of the validation.
    """

    epoch: int
    loss: float
    accuracy: float
    validation: float | None
    lr: float
    seconds: float
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: from 1.
        epochs: planned.
        images: seen in this epoch.
        seconds: since the epoch began.
        done: the epoch's figures, once it is over.
    """

    epoch: int
    epochs: int
    images: int
    seconds: float
    done: Epoch | None = None


Watch = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """Watch nothing.

    Args:
        progress: is ignored.
    """


def nothing() -> None:
    """Do nothing."""


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


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy of a batch under its labels.

    Args:
        logits: (B, C) float32.
        batch: its `y` holds the labels.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits, batch.y)


def accuracy(outputs: Outputs) -> float:
    """Compute the share of images whose largest logit is at their label.

    Args:
        outputs: logits and labels.

    Returns:
        A fraction in [0, 1]; NaN of no images, and of logits that are no numbers.
    """
    if not bool(outputs.logits.isfinite().all()):
        return math.nan
    return float((outputs.logits.argmax(1) == outputs.labels).float().mean())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode.

    Args:
        model: whose parts are each in the mode again that they were in when the block ends.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict(
    model: nn.Module, images: Images, batch_size: int | None = None, precision: Precision = "float32"
) -> Outputs:
    """Evaluate a model on images: evaluation mode, no augmentation, in order.

    Args:
        model: is left in the mode that it was in, part by part.
        images: N images.
        batch_size: images at once; None takes as many as make a batch of 64 MiB, at most 1,024. Fewer where the
            device lacks memory.
        precision: of the forward passes.

    Returns:
        Logits, labels and indices of the N images.

    Raises:
        torch.OutOfMemoryError: the device has no room for a single image.
    """
    if batch_size is None and len(images):
        image = next(iter(images.batches(1))).x
        batch_size = max(1, min(EVALUATION_BATCH, EVALUATION_BYTES // (image.numel() * image.element_size())))
    size, logits = batch_size or 1, None
    while logits is None:
        try:
            with evaluating(model), autocast(precision, images.device):
                logits = [model(batch.x).float() for batch in images.batches(size)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        if logits is None:
            torch.cuda.empty_cache()
            size = size // 2
    if not logits:
        return Outputs(torch.empty(0, 0), images.labels.cpu(), images.rows.cpu())
    return Outputs(torch.cat(logits).cpu(), images.labels.cpu(), images.rows.cpu())


@dataclass(frozen=True)
class Descent:
    """How weights follow their gradient.

    Attributes:
        lr: learning rate.
        optimizer: "sgd", "adam" or "adamw".
        momentum: in [0, 1); of "adam" and "adamw" the first beta.
        weight_decay: L2 penalty; decoupled in "adamw".
    """

    lr: float
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4


def make_optimizer(weights: list[nn.Parameter], descent: Descent) -> torch.optim.Optimizer:
    """Build an optimiser.

    Args:
        weights: to be trained, all on one device.
        descent: which one.

    Returns:
        The optimiser, fused where the device has such a kernel.
    """
    fused = weights[0].device.type in ("cpu", "cuda")
    lr, momentum, decay = descent.lr, descent.momentum, descent.weight_decay
    if descent.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=momentum, weight_decay=decay, fused=fused)
    kind = torch.optim.Adam if descent.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=fused)


def make_schedule(optimizer: torch.optim.Optimizer, name: Schedule, epochs: int) -> LRScheduler:
    """Build a learning-rate schedule, stepped after each epoch.

    Args:
        optimizer: whose rate it sets.
        name: "constant"; "multistep", x 0.1 at a half and three quarters; "cosine", to zero;
            "plateau", x 0.1 after 5 epochs without improvement.
        epochs: planned length.

    Returns:
        The schedule.
    """
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=PLATEAU_PATIENCE)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, epochs)
    milestones = sorted({epochs // 2, 3 * epochs // 4} - {0}) if name == "multistep" else []
    return MultiStepLR(optimizer, milestones, gamma=0.1)


def step_schedules(schedules: list[LRScheduler], score: float) -> None:
    """Go on to the next epoch's learning rates.

    Args:
        schedules: one an optimiser; one that took no step in the epoch, as there was nothing to forget, goes on too.
        score: of the epoch that is over, higher where it is better; steers "plateau".
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for schedule in schedules:
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(score)
            else:
                schedule.step()


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
    watch: Watch = unwatched,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    beside: Iterable[nn.Parameter] = (),
    forgetting: Descent | None = None,
    freeze_norms: bool = False,
    clear_gradients: Callable[[], None] = nothing,
    passes: Passes | None = None,
    compiled: bool = False,
    saving: Saving | None = None,
    group: Group = ALONE,
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
    own = Descent(lr, optimizer, momentum, weight_decay)
    optimizers = [make_optimizer(weights, descent) for descent in (own, forgetting) if descent]
    updates = optimizers[0]
    schedules = [make_schedule(each, schedule, epochs) for each in optimizers]
    stepper = Stepper(
        model=model,
        optimizers=optimizers,
        loss=loss,
        grad_clip=grad_clip,
        precision=settle_precision(precision, weights[0].device),
        clear_gradients=clear_gradients,
        passes=Passes() if passes is None else passes,
        compiled=compiled,
        group=group,
    )
    course = Course(stepper, schedules, saving)
    course.take_up()
    for number in range(course.number, epochs):
        begun, rate = time.perf_counter() - course.seconds, updates.param_groups[0]["lr"]
        model.train()
        if freeze_norms:
            still_norms(model)
        images, mean_loss, share = run_epoch(course, stream, Pace(number, epochs, begun, watch))
        if images == 0:
            break
        trained = time.perf_counter()
        validation = validate() if validate else None
        idle = time.perf_counter() - trained if validate else 0.0
        course.curve.append(Epoch(number + 1, mean_loss, share, validation, rate, trained - begun, idle))
        watch(Progress(number + 1, epochs, images, trained - begun, course.curve[-1]))
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


@dataclass(frozen=True)
class Pace:
    """Which epoch is running, since when, and who watches."""

    number: int
    epochs: int
    begun: float
    watch: Watch

    def tell(self, images: int) -> None:
        """Report a step.

        Args:
            images: seen so far in this epoch.
        """
        self.watch(Progress(self.number + 1, self.epochs, images, time.perf_counter() - self.begun))


def run_epoch(course: "Course", stream: Stream, pace: Pace) -> tuple[int, float, float]:
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
    course.over |= stepper.passes.spent
    mean_loss, share = (stepper.summed / max(course.images, 1)).tolist()
    return course.images, mean_loss, share


class Course:
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

    def __init__(self, stepper: "Stepper", schedules: list[LRScheduler], saving: Saving | None) -> None:
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

    def state(self, saving: Saving) -> dict[str, Any]:
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
            "passes": {**stepper.passes.counts, "parts": stepper.passes.parts},
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
            passes.forward, passes.backward, passes.parts = (
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


@dataclass
class Stepper:
    """Takes the steps of a training: forward pass, loss, backward pass, update.

    On CUDA, steps of the training's own loss, cross-entropy, and of one shape are recorded as a graph once some such
    were taken, so that their optimiser has its state, and launched as a whole from then on; all others are taken one
    operation after another.

    Attributes:
        model: is trained in place, in the mode that it is in.
        optimizers: of the same weights; the last takes the steps that forget, the first all others.
        loss: of logits and batch, where a step has none of its own.
        grad_clip: largest norm of the gradient; None for no limit.
        precision: of the forward pass.
        clear_gradients: clears those that a mask holds.
        passes: counts the images of the model's passes.
        compiled: whether the model is compiled.
        group: the processes that train it together; of several, each takes its portion of a step, unrecorded.
        summed: loss and right predictions of the epoch's images, on the device.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    loss: Loss
    grad_clip: float | None
    precision: Precision
    clear_gradients: Callable[[], None]
    passes: Passes
    compiled: bool
    group: Group = field(default_factory=Group)

    def __post_init__(self) -> None:
        self.weights = [weight for group in self.optimizers[0].param_groups for weight in group["params"]]
        self.device = self.weights[0].device
        self.summed = torch.zeros(2, device=self.device)
        self.network = self.group.wrapped(self.model)
        self.recordable = self.device.type == "cuda" and self.loss is cross_entropy and self.group.size == 1
        self.captured: Captured | None = None
        self.forward: Callable[[Tensor], Tensor] | None = None
        self.shape: torch.Size | None = None
        self.state: object = None
        self.alike = 0

    def begin(self) -> None:
        """Start an epoch; what was recorded of a model in another state is forgotten."""
        self.summed.zero_()
        places = [(weight.data_ptr(), weight.requires_grad) for weight in self.weights]
        state = (places, [module.training for module in self.model.modules()])
        if state != self.state:
            self.captured, self.alike, self.state = None, 0, state

    def take(self, step: Step) -> None:
        """Take a step.

        Args:
            step: what it sees, and by which loss.
        """
        plain = self.recordable and step.loss is None and not step.forgets
        if self.shape is None or len(step.batch.x) > self.shape[0]:
            self.shape, self.captured, self.alike = step.batch.x.shape, None, 0
        if plain and self.captured is None and self.alike >= EAGER_STEPS and step.batch.x.shape == self.shape:
            self.record(step.batch)
        if plain and self.captured is not None and self.captured.fits(step.batch):
            self.captured.replay(step.batch)
            self.passes.add(len(step.batch.x))
            return
        self.alike += plain and step.batch.x.shape == self.shape
        self.compute(step)

    def record(self, batch: Batch) -> None:
        """Record a step with a batch of that shape, unless the model or its layers do what cannot be recorded.

        Args:
            batch: any of the shape.
        """
        try:
            with self.passes.aside():
                self.captured = Captured(lambda static: self.compute(Step(static)), batch, self.optimizers[0])
        except RuntimeError:
            self.recordable = False
            torch.cuda.synchronize(self.device)

    def compute(self, step: Step) -> None:
        """Compute a step, one operation after another.

        Args:
            step: what it sees, and by which loss.
        """
        updates = self.optimizers[-1 if step.forgets else 0]
        sums = self.gradients(step, updates)
        if self.grad_clip is not None:
            self.clear_gradients()
            nn.utils.clip_grad_norm_(self.weights, self.grad_clip)
        updates.step()
        with torch.no_grad():
            self.summed += self.group.pooled(sums, step.portion)

    def gradients(self, step: Step, updates: torch.optim.Optimizer) -> Tensor:
        """Compute a step's gradients; where the device lacks memory, in parts whose gradients add up.

        A loss that is no mean over images, and processes that train together, cannot be split.

        Args:
            step: what it sees, and by which loss.
            updates: the optimiser that will take it.

        Returns:
            (2,) loss, as often as there are images, and right predictions.

        Raises:
            torch.OutOfMemoryError: even the smallest part is too large.
        """
        splits = step.loss is None and self.loss is cross_entropy and self.group.size == 1
        while True:
            updates.zero_grad(set_to_none=True)
            before, parts = self.passes.counts, parts_of(step.batch, self.passes.parts if splits else 1)
            try:
                return torch.stack([self.backward(step, part, len(step.batch.x)) for part in parts]).sum(0)
            except torch.OutOfMemoryError:
                if not splits or len(parts) == len(step.batch.x):
                    raise
            self.passes.forward, self.passes.backward = before["forward"], before["backward"]
            self.passes.parts *= 2
            torch.cuda.empty_cache()
            log.warning("out of memory on the device: batches go in %d parts, each normalised alone", self.passes.parts)

    def backward(self, step: Step, part: Batch, images: int) -> Tensor:
        """Send images through the model, and their gradient back.

        Args:
            step: knows the loss.
            part: of its batch.
            images: of the whole batch.

        Returns:
            (2,) loss, as often as the part has images, and right predictions.
        """
        normed = steady_norms(self.model, step.images == 1 or len(part.x) == 1 < images)
        with autocast(self.precision, self.device), normed, self.group.norms(step.portion):
            logits = self.logits(part.x)
        value = (step.loss or self.loss)(logits.float(), part)
        weighed = self.group.weighed(value, step.portion)
        (weighed if len(part.x) == images else weighed * (len(part.x) / images)).backward()
        with torch.no_grad():
            right = (logits.argmax(1) == part.y).sum()
            return torch.stack([value.detach() * len(part.x), right.float()])

    def logits(self, x: Tensor) -> Tensor:
        """Run the model, compiled where that is asked for and the batch is of the shape that it was compiled for.

        The model's own hooks see the pass as ever. Its layers' hooks would not; a model with such is not compiled.

        Args:
            x: (B, C, H, W) model input.

        Returns:
            (B, classes).
        """
        if not self.compiled or x.shape != self.shape or has_inner_hooks(self.model):
            return cast(Tensor, self.network(x))
        if self.forward is None:
            self.forward = torch.compile(self.model.forward, dynamic=False)
        vars(self.model)["forward"] = self.forward
        try:
            return cast(Tensor, self.model(x))
        finally:
            del vars(self.model)["forward"]


def parts_of(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch.

    Args:
        batch: of B images.
        parts: how many at most; more than B count as B.

    Returns:
        The parts, none of them empty.
    """
    if parts == 1:
        return [batch]
    return [Batch(*part) for part in zip(*(tensor.chunk(parts) for tensor in batch), strict=True)]


def has_inner_hooks(model: nn.Module) -> bool:
    """Tell whether something watches the layers of a model.

    Args:
        model: whose layers; the model itself does not count.

    Returns:
        Whether one of them has a hook on its forward pass.
    """
    layers = (layer for layer in model.modules() if layer is not model)
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def still_norms(model: nn.Module) -> list[nn.Module]:
    """Let batch normalisation use its running statistics, and leave them as they are, until the model trains again.

    Args:
        model: whose layers.

    Returns:
        The layers that were in training mode.
    """
    norms: list[nn.Module] = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for layer in norms:
        layer.eval()
    return norms


@contextmanager
def steady_norms(model: nn.Module, single: bool) -> Iterator[None]:
    """Let batch normalisation use its running statistics for a batch of one image, which has none of its own.

    Args:
        model: in any mode.
        single: whether the batch is of one image; else nothing changes.

    Yields:
        Nothing.
    """
    norms = still_norms(model) if single else []
    try:
        yield
    finally:
        for layer in norms:
            layer.train()


def steps_of(images: Images, size: int, generator: torch.Generator, group: Group) -> Iterator[Batch | Step]:
    """Go once through the images, shuffled and augmented.

    Args:
        images: of which each process of the group holds a share.
        size: images a batch, of all processes together.
        generator: shuffles and augments; the same one in each process.
        group: the processes.

    Yields:
        Batches; of several processes, this one's portions of them.
    """
    if group.size == 1:
        yield from images.batches(size, generator)
        return
    for batch, portion in images.portions(size, generator, group.rank, group.size):
        yield Step(batch, portion=portion)


def accuracy_of_all(model: nn.Module, images: Images, precision: Precision, group: Group) -> float:
    """Compute a model's accuracy on images of which each process holds a share.

    Args:
        model: the same in each process.
        images: all of them.
        precision: of the forward passes.
        group: the processes.

    Returns:
        As `accuracy`, the same bits in each process.
    """
    if group.size == 1:
        return accuracy(predict(model, images, precision=precision))
    outputs = predict(model, images.take(images.held(group.rank, group.size)), precision=precision)
    own = len(outputs.labels)
    right = float((outputs.logits.argmax(1) == outputs.labels).sum()) if own else 0.0
    broken = float(not bool(outputs.logits.isfinite().all()))
    counts = group.total(torch.tensor([right, own, broken]))
    return math.nan if counts[2] else float(counts[0] / counts[1])


def train(
    model: nn.Module,
    images: Images,
    validation: Images,
    recipe: Recipe,
    generator: torch.Generator,
    watch: Watch = unwatched,
    *,
    passes: Passes | None = None,
    precision: Precision | None = None,
    compiled: bool = False,
    saving: Saving | None = None,
    group: Group = ALONE,
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
    counted = Passes() if passes is None else passes
    precision = precision or recipe.precision

    def validated() -> float:
        with counted.aside():
            return accuracy_of_all(model, validation, precision, group)

    curve, optimizer = fit(
        model,
        lambda epoch: steps_of(images, recipe.batch_size, generator, group),
        epochs=recipe.epochs,
        lr=recipe.lr,
        optimizer=recipe.optimizer,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        schedule=recipe.schedule,
        precision=precision,
        watch=watch,
        validate=validated if len(validation) else None,
        patience=recipe.patience,
        passes=counted,
        compiled=compiled,
        saving=saving,
        group=group,
    )
    return curve, optimizer.state_dict()
