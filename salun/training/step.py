"""One step of training: forward, backward, optimiser."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from salun.data.images import Batch, Portion
from salun.device import Precision, autocast
from salun.training.cost import PassCounter
from salun.training.cuda_graph import EAGER_STEPS, CudaGraphStep
from salun.training.distributed import Group

Loss = Callable[[Tensor, Batch], Tensor]

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


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy of a batch under its labels.

    Args:
        logits: (B, C) float32.
        batch: its `y` holds the labels.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits, batch.y)


@dataclass
class TrainStep:
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
    passes: PassCounter
    compiled: bool
    group: Group = field(default_factory=Group)

    def __post_init__(self) -> None:
        self.weights = [weight for group in self.optimizers[0].param_groups for weight in group["params"]]
        self.device = self.weights[0].device
        self.summed = torch.zeros(2, device=self.device)
        self.network = self.group.wrapped(self.model)
        self.recordable = self.device.type == "cuda" and self.loss is cross_entropy and self.group.size == 1
        self.captured: CudaGraphStep | None = None
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
            with self.passes.paused():
                self.captured = CudaGraphStep(lambda static: self.compute(Step(static)), batch, self.optimizers[0])
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
            before, micro_batches = (
                self.passes.counts,
                _parts_of(step.batch, self.passes.micro_batches if splits else 1),
            )
            try:
                return torch.stack([self.backward(step, part, len(step.batch.x)) for part in micro_batches]).sum(0)
            except torch.OutOfMemoryError:
                if not splits or len(micro_batches) == len(step.batch.x):
                    raise
            self.passes.forward, self.passes.backward = before["forward"], before["backward"]
            self.passes.micro_batches *= 2
            torch.cuda.empty_cache()
            log.warning(
                "out of memory on the device: batches go in %d parts, each normalised alone", self.passes.micro_batches
            )

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
        if not self.compiled or x.shape != self.shape or _has_inner_hooks(self.model):
            return cast(Tensor, self.network(x))
        if self.forward is None:
            self.forward = torch.compile(self.model.forward, dynamic=False)
        vars(self.model)["forward"] = self.forward
        try:
            return cast(Tensor, self.model(x))
        finally:
            del vars(self.model)["forward"]


def _parts_of(batch: Batch, micro_batches: int) -> list[Batch]:
    """Split a batch."""
    if micro_batches == 1:
        return [batch]
    return [Batch(*part) for part in zip(*(tensor.chunk(micro_batches) for tensor in batch), strict=True)]


def _has_inner_hooks(model: nn.Module) -> bool:
    """Tell whether something watches the layers of a model."""
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
