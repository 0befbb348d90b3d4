"""One step of training: forward pass, loss, backward pass, update."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from salun.data.images import Batch
from salun.device import autocast
from salun.training.cuda_graph import EAGER_STEPS, CudaGraphStep
from salun.training.runtime import Runtime

Loss = Callable[[Tensor, Batch], Tensor]

_log = logging.getLogger("salun")


class Step(NamedTuple):
    """One step of a training that has steps of several kinds.

    Attributes:
        batch: what the model sees.
        loss: of its logits and the batch; None for the training's own.
        forgets: whether the step is to forget: the second optimiser takes it, where there is one.
        cost: passes that each image of the batch costs, forward and backward together; more than the model's own two
            where the loss shows the batch to a teacher.
        extra: passes that the step costs besides, such as those of a second batch that the loss looks at.
    """

    batch: Batch
    loss: Loss | None = None
    forgets: bool = False
    cost: int = 2
    extra: int = 0

    @property
    def images(self) -> int:
        """How many images the batch has."""
        return len(self.batch.x)

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
        places = torch.arange(count, device=self.batch.x.device) * self.images // count
        return self._replace(batch=Batch(*(part[places] for part in self.batch)))


Stream = Callable[[int], Iterable[Batch | Step]]


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy of (B, C) logits under a batch's labels."""
    return F.cross_entropy(logits, batch.y)


class TrainStep:
    """Takes the steps of a training.

    Steps of the training's own loss, cross-entropy, and of one shape can be recorded as a CUDA graph, once enough were
    taken for their optimiser to have its state; all others are taken one operation after another.

    Attributes:
        model: is trained in place, in the mode that it is in.
        optimizers: of the same weights; the last takes the steps that forget, the first all others.
        summed: loss and right predictions of the epoch's images, on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        runtime: Runtime,
        loss: Loss = cross_entropy,
        grad_clip: float | None = None,
    ) -> None:
        self.model, self.optimizers, self.runtime, self.passes = model, optimizers, runtime, runtime.passes
        self._loss, self._grad_clip = loss, grad_clip
        self._weights = [weight for group in optimizers[0].param_groups for weight in group["params"]]
        self._device = self._weights[0].device
        self.summed = torch.zeros(2, device=self._device)
        self._network = runtime.group.wrapped(model)
        self._plain = loss is cross_entropy and runtime.group.size == 1
        self.recordable = runtime.cuda_graphs and self._device.type == "cuda" and self._plain
        self._captured: CudaGraphStep | None = None
        self._recording = False
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._shape: torch.Size | None = None
        self._state: object = None
        self._alike = 0

    def begin(self) -> None:
        """Start an epoch; what was recorded of a model in another state is forgotten."""
        self.summed.zero_()
        places = [(weight.data_ptr(), weight.requires_grad) for weight in self._weights]
        state = (places, [module.training for module in self.model.modules()])
        if state != self._state:
            self._captured, self._alike, self._state = None, 0, state

    def take(self, step: Step) -> None:
        """Take a step: forward pass, loss, backward pass, update."""
        plain = self.recordable and step.loss is None and (not step.forgets or len(self.optimizers) == 1)
        if self._shape is None or step.images > self._shape[0]:
            self._shape, self._captured, self._alike = step.batch.x.shape, None, 0
        if plain and self._captured is None and self._alike >= EAGER_STEPS and step.batch.x.shape == self._shape:
            self._record(step.batch)
        if plain and self._captured is not None and self._captured.fits(step.batch):
            self._captured.replay(step.batch)
            self.passes.add(step.images)
            return
        self._alike += plain and step.batch.x.shape == self._shape
        self._compute(step)

    def _record(self, batch: Batch) -> None:
        """Record a step with a batch of that shape, unless it cannot be recorded or there is no room for its memory."""
        self._recording = True
        try:
            with self.passes.paused():
                self._captured = CudaGraphStep(lambda static: self._compute(Step(static)), batch, self.optimizers[0])
        except RuntimeError:
            self.recordable = False
            torch.cuda.synchronize(self._device)
        finally:
            self._recording = False

    def _compute(self, step: Step) -> None:
        """Compute a step, one operation after another."""
        optimizer = self.optimizers[-1 if step.forgets else 0]
        sums = self._gradients(step, optimizer)
        if self._grad_clip is not None:
            self.runtime.hold.clear_gradients()
            nn.utils.clip_grad_norm_(self._weights, self._grad_clip)
        optimizer.step()
        self.runtime.hold.restore()
        with torch.no_grad():
            self.summed += self.runtime.group.total(sums)

    def _gradients(self, step: Step, optimizer: torch.optim.Optimizer) -> Tensor:
        """Compute a step's gradients, and sums of losses and right predictions: (2,).

        Where the device lacks memory, a batch goes in parts whose gradients add up. A loss that is no mean over images
        cannot be split, nor can steps of processes that train together, nor one that is recorded, which has memory of
        its own beside the others'.
        """
        splits = step.loss is None and self._plain and not self._recording
        batch, counted = self.runtime.group.portion(step.batch)
        while True:
            optimizer.zero_grad(set_to_none=True)
            before, parts = self.passes.counts, _parts_of(batch, self.passes.micro_batches if splits else 1)
            try:
                return torch.stack([self._backward(step, part, counted) for part in parts]).sum(0)
            except torch.OutOfMemoryError:
                if not splits or len(parts) == len(batch.x):
                    raise
            self.passes.forward, self.passes.backward = before["forward"], before["backward"]
            self.passes.micro_batches *= 2
            torch.cuda.empty_cache()
            _log.warning(
                "out of memory on the device: batches go in %d parts, each normalised alone", self.passes.micro_batches
            )

    def _backward(self, step: Step, part: Batch, counted: bool) -> Tensor:
        """Send images through the model, and their gradient back; those that are not counted have none."""
        group, images = self.runtime.group, len(part.x) * counted
        single = step.images < 2 * group.size or len(part.x) == 1 < step.images
        with autocast(self.runtime.precision, self._device), steady_norms(self.model, single):
            logits = self._logits(part.x)
        value = (step.loss or self._loss)(logits.float(), part)
        scale = group.size * images / step.images  # processes average their gradients, parts add theirs up
        (value if scale == 1 else value * scale).backward()
        with torch.no_grad():
            right = (logits.argmax(1) == part.y).sum()
            return torch.stack([value.detach() * images, right.float() * counted])

    def _logits(self, x: Tensor) -> Tensor:
        """Run the model, compiled where that is asked for and the batch has the shape that it was compiled for.

        The model's own hooks see the pass as ever. Its layers' hooks would not; a model with such is not compiled.
        """
        if not self.runtime.compiled or x.shape != self._shape or _has_inner_hooks(self.model):
            return cast(Tensor, self._network(x))
        if self._compiled is None:
            self._compiled = torch.compile(self.model.forward, dynamic=False)
        vars(self.model)["forward"] = self._compiled
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


def _freeze_norms(model: nn.Module) -> list[nn.Module]:
    """Let batch normalisation use its running statistics and leave them; give the layers that were in training."""
    norms: list[nn.Module] = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for layer in norms:
        layer.eval()
    return norms


def frozen_norms(model: nn.Module, stream: Stream) -> Stream:
    """Let batch normalisation keep to its running statistics, and leave them, in a training on a stream."""

    def steps(epoch: int) -> Iterator[Batch | Step]:
        _freeze_norms(model)
        yield from stream(epoch)

    return steps


@contextmanager
def steady_norms(model: nn.Module, single: bool) -> Iterator[None]:
    """Let batch normalisation use its running statistics for a single image, which has none of its own."""
    norms = _freeze_norms(model) if single else []
    try:
        yield
    finally:
        for layer in norms:
            layer.train()
