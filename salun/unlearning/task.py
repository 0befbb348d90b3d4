"""What a method gets: the model, the images, and the means to train."""

import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.func import functional_call

from salun.data.images import Batch, Images
from salun.device import autocast
from salun.errors import SalunError
from salun.training.cost import PassCounter
from salun.training.loop import fit, train
from salun.training.progress import Epoch
from salun.training.recipe import Recipe, TrainingConfig
from salun.training.runtime import Runtime, WeightHold
from salun.training.step import Loss, Stream, cross_entropy, frozen_norms, steady_norms
from salun.unlearning.mask import Mask, masked_updates
from salun.unlearning.registry import UNDECLARED, chosen_for

Labels = Literal["any", "other", "remaining"]
Share = typing.Annotated[float, Field(ge=0, le=1)]
Dual = bool | PositiveFloat

_DUAL_LR = 1e-4
_DUAL_DECAY = 0.05
_DUAL_BETA = 0.9


class Diverged(Exception):  # noqa: N818 - an outcome that is recorded, not an error
    """A training whose loss stopped being a number."""


@dataclass
class Task:
    """What a method works on: a model to edit in place, and the images to forget and to retain.

    Attributes:
        model: the base model, on its device.
        validation: images that choose the epoch when a model is trained from scratch.
        classes: their number.
        forgotten: classes that are to be forgotten as a whole; empty for other forget sets.
        recipe: how the base model was trained.
        fresh: builds the base model's architecture with weights from before training.
        generator: the source of all randomness.
        runtime: precision, callback, counter of passes and the like.
        untrained: builds the architecture with random weights, where `fresh` starts from pretrained ones.
        curve: the epochs trained so far; `fit` and `retrain` add to it.
        diverged: the epoch in which the loss stopped being a number, from 1; None where it did not.
        absent: classes that earlier requests forgot as a whole.
        certificate: what a certified method guarantees, and by which noise; None of all other methods.
    """

    model: nn.Module
    forget: Images
    retain: Images
    validation: Images
    classes: int
    forgotten: tuple[int, ...]
    recipe: Recipe
    fresh: Callable[[], nn.Module]
    generator: torch.Generator
    runtime: Runtime = field(default_factory=Runtime)
    untrained: Callable[[], nn.Module] | None = None
    training: TrainingConfig = UNDECLARED
    curve: Sequence[Epoch] = ()
    diverged: int | None = None
    absent: tuple[int, ...] = ()
    certificate: dict[str, float] | None = None

    @property
    def passes(self) -> PassCounter:
        """What counts the images that go through the model and its copies, and holds the budget."""
        return self.runtime.passes

    def fit(
        self,
        stream: Stream,
        *,
        lr: float | None = None,
        epochs: int | None = None,
        loss: Loss = cross_entropy,
        extra_parameters: Iterable[nn.Parameter] = (),
        dual: Dual = False,
        forgetting: TrainingConfig | None = None,
        freeze_norms: bool = False,
    ) -> None:
        """Train the model on a stream of batches, as `training` says, within the budget: the last batch may be cut.

        Args:
            stream: gives the batches of epoch 0, 1, ..., or steps with a loss of their own; a loss that sends more than
                the batch through models is of a step that says what it costs.
            lr: learning rate at the start; None for that of `training`.
            epochs: passes over the stream; None for those of `training`.
            loss: of logits and batch, where a step has none of its own.
            extra_parameters: weights outside the model that are trained with it; no mask holds them.
            dual: DualOptim: AdamW with momentum of its own, weight decay 0.05 and learning rate `dual`, or 1e-4
                for True, takes the steps that forget.
            forgetting: optimiser, momentum, rate and schedule of the steps that forget, where they have their own.
            freeze_norms: whether batch normalisation keeps to its running statistics, and leaves them as they are.

        Raises:
            Diverged: the loss of an epoch is no number.

        Source:
            Zhong et al., "DualOptim: Enhancing Efficacy and Stability in Machine Unlearning with Dual Optimizers",
            NeurIPS 2025, https://arxiv.org/abs/2504.15827, algorithm 1.
        """
        self.runtime.hold.restore()
        config = replace(self.training, lr=lr or self.training.lr, epochs=epochs or self.training.epochs)
        rate = _DUAL_LR if dual is True else dual
        if rate:
            forgetting = replace(config, lr=rate, optimizer="adamw", momentum=_DUAL_BETA, weight_decay=_DUAL_DECAY)
        curve, _ = fit(
            self.model,
            frozen_norms(self.model, stream) if freeze_norms else stream,
            config,
            replace(self.runtime, state=None),
            loss=loss,
            extra_parameters=extra_parameters,
            forgetting=forgetting,
        )
        before = len(self.curve)
        self.curve = [*self.curve, *(replace(point, epoch=before + point.epoch) for point in curve)]
        if curve and not math.isfinite(curve[-1].loss):
            raise Diverged

    def retrain(self) -> None:
        """Train fresh weights on the retain set by the base model's own recipe, whatever the budget."""
        self.model.load_state_dict(self.fresh().state_dict())
        with self.passes.unlimited():
            curve, _ = train(self.model, self.retain, self.validation, self.recipe, self.generator, self.runtime)
        self.curve = [*self.curve, *curve]

    @contextmanager
    def part(
        self, *, model: nn.Module | None = None, forget: Images | None = None, retain: Images | None = None
    ) -> Iterator["Task"]:
        """Make a task of other images or another model; what it trains goes on with this one's curve and budget."""
        part = replace(
            self,
            model=self.model if model is None else model,
            forget=self.forget if forget is None else forget,
            retain=self.retain if retain is None else retain,
        )
        try:
            yield part
        finally:
            self.curve = part.curve

    def apply(self, name: str, settings: dict[str, Any]) -> None:
        """Run another method on this task, under the mask that holds; the model is left in evaluation mode.

        Args:
            name: of the method.
            settings: the method's, where they differ from its defaults.

        Raises:
            SalunError: the method, a setting, or the forget set is refused.
            Diverged: the loss of an epoch is no number.
        """
        chosen_for(self, name, settings).run(self, **settings)
        self.model.eval()

    def logits(self, x: Tensor, model: nn.Module | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run a model in the training's precision, for a loss of more than the step's own batch.

        Args:
            x: (B, C, H, W) model input.
            model: that is to run, such as a teacher; None for the task's own.
            weights: what it runs with in place of its own weights, by name; None for its own.

        Returns:
            (B, classes) float32, with their gradient.
        """
        model = self.model if model is None else model
        with autocast(self.runtime.precision, x.device), steady_norms(model, len(x) == 1):
            logits: Tensor = model(x) if weights is None else functional_call(model, dict(weights), (x,))
        return logits.float()

    def frozen(self) -> nn.Module:
        """Make a teacher of the model as it is now: a copy in evaluation mode whose weights take no gradient."""
        return deepcopy(self.model).eval().requires_grad_(False)

    def random_teacher(self) -> nn.Module:
        """Make a teacher that knows nothing: the architecture with random weights, frozen."""
        return self.passes.count((self.untrained or self.fresh)()).eval().requires_grad_(False)

    def batches(self, images: Images, size: int | None = None) -> Iterator[Batch]:
        """Go once through images, shuffled and augmented.

        Args:
            images: any.
            size: images a batch, of which the last may be smaller; None for the batch size of `training`.
        """
        return images.batches(size or self.training.batch_size, self.generator)

    def pairs(self, size: int | None = None) -> Iterator[tuple[Batch, Batch]]:
        """Go once through the retain images, beside as many batches of the forget images, again and again.

        Args:
            size: images a batch, of each; None for the batch size of `training`.

        Yields:
            A forget and a retain batch; each of the two is shuffled.
        """
        forget = self.forever(self.forget, size)
        for batch in self.batches(self.retain, size):
            yield next(forget), batch

    def forever(self, images: Images, size: int | None = None) -> Iterator[Batch]:
        """Go through images as `batches` does, again and again, shuffled anew each time."""
        while True:
            yield from self.batches(images, size)

    def random_labels(self, labels: Labels) -> Tensor:
        """Draw a label for every forget image.

        Args:
            labels: "any", uniform over all classes, the true one possible (the official code); "other", over the other
                classes; "remaining", over the other classes that are not forgotten, now or earlier (the notebook).

        Returns:
            (len(forget),) int64.
        """
        allowed = torch.ones(len(self.forget), self.classes, device=self.forget.device)
        if labels != "any":
            allowed.scatter_(1, self.forget.labels[:, None], 0)
        if labels == "remaining":
            allowed[:, [*self.forgotten, *self.absent]] = 0
        # What torch.multinomial draws, but for its checks, which wait for the device.
        times = torch.empty(allowed.shape, device=self.generator.device).exponential_(generator=self.generator)
        return (allowed / times.to(allowed.device)).argmax(1)


def unlearn(task: Task, name: str, settings: dict[str, Any] | None = None, mask: Mask | None = None) -> None:
    """Run a method on a task, under a mask where one is given.

    Args:
        task: its model is edited in place and left in evaluation mode; `task.diverged` says whether the loss
            stopped being a number, and `task.passes` what it cost.
        name: of the method.
        settings: the method's, where they differ from its defaults.
        mask: a boolean tensor a weight, True where it may move.

    Raises:
        SalunError: the method, a setting, the forget set, or a mask on this method is refused.
    """
    chosen = chosen_for(task, name, settings or {})
    if mask is not None and not chosen.maskable:
        raise SalunError(f"method '{name}': takes no mask: {chosen.summary}")
    with ExitStack() as stack:
        stack.enter_context(task.passes.counting(task.model))
        if mask is not None:
            task.runtime = replace(task.runtime, hold=stack.enter_context(masked_updates(task.model, mask)))
        try:
            chosen.run(task, **(settings or {}))
        except Diverged:
            task.diverged = len(task.curve)
    task.runtime = replace(task.runtime, hold=WeightHold())
    task.model.eval()
