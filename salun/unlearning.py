"""What a method gets (`Task`), how it is registered (`@method`), how it is run (`unlearn`)."""

import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from torch import Tensor, nn

from salun.data.images import Batch, Images
from salun.device import Precision, autocast
from salun.docstrings import sections_of, summary_of
from salun.errors import SalunError, did_you_mean
from salun.passes import Passes
from salun.registry import claim, load_installed
from salun.resume import Saving
from salun.saliency import Hold, Mask, only
from salun.training import (
    Descent,
    Epoch,
    Loss,
    OptimizerName,
    Recipe,
    Schedule,
    Step,
    Stream,
    Watch,
    cross_entropy,
    fit,
    nothing,
    steady_norms,
    train,
    unwatched,
)

Labels = Literal["any", "other", "remaining"]
Momentum = typing.Annotated[float, Field(ge=0, lt=1)]
Share = typing.Annotated[float, Field(ge=0, le=1)]
Dual = bool | PositiveFloat
DUAL_LR = 1e-4
DUAL_DECAY = 0.05
WHOLE_CLASSES = "forgets whole classes only; give class_to_forget"
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

__all__ = [
    "METHODS",
    "Dual",
    "Labels",
    "Method",
    "Momentum",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OptimizerName",
    "PositiveFloat",
    "PositiveInt",
    "Schedule",
    "Share",
    "Step",
    "Task",
    "find_method",
    "method",
    "settled",
    "unlearn",
]


class Diverged(Exception):  # noqa: N818 - an outcome that is recorded, not an error
    """A training whose loss stopped being a number."""


NOT_HELD = Hold(nothing, nothing)


@dataclass
class Task:
    """What a method works on: a model to edit in place, and the images to forget and to retain.

    Attributes:
        model: the base model, on its device.
        forget: images to forget.
        retain: images to keep.
        validation: chooses the epoch when a model is trained from scratch.
        classes: number of classes.
        forgotten: classes that are to be forgotten as a whole; empty for other forget sets.
        recipe: how the base model was trained.
        fresh: builds the base model's architecture with weights from before training.
        generator: the source of all randomness.
        precision: of forward passes.
        compiled: whether the model is compiled for its steps.
        watch: is told of every step.
        curve: the epochs trained so far; `fit` and `retrain` add to it.
        passes: counts the images that go through the model and its copies, and holds the budget.
        diverged: the epoch in which the loss stopped being a number, from 1; None where it did not.
        untrained: builds the architecture with random weights, where `fresh` starts from pretrained ones.
        saving: writes the state of a retraining from time to time.
        hold: puts back what a mask holds, before a training begins on weights that a method has edited, and clears
            its gradients before they are clipped.
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
    precision: Precision = "float32"
    compiled: bool = False
    watch: Watch = unwatched
    curve: Sequence[Epoch] = ()
    passes: Passes = field(default_factory=Passes)
    diverged: int | None = None
    untrained: Callable[[], nn.Module] | None = None
    saving: Saving | None = None
    hold: Hold = NOT_HELD

    def fit(
        self,
        stream: Stream,
        *,
        epochs: int,
        lr: float,
        optimizer: OptimizerName = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
        grad_clip: float | None = None,
        loss: Loss = cross_entropy,
        beside: Iterable[nn.Parameter] = (),
        dual: Dual = False,
        freeze_norms: bool = False,
    ) -> None:
        """Train the model on a stream of batches, within the budget: the last batch that fits only in part is cut.

        Args:
            stream: gives the batches of epoch 0, 1, ..., or steps with a loss of their own; a loss that sends more than
                the batch through models is of a step that says what it costs.
            epochs: passes over the stream.
            lr: learning rate at the start.
            optimizer: "sgd", "adam" or "adamw".
            momentum: of SGD; the first beta of Adam.
            weight_decay: L2 penalty; decoupled in "adamw".
            schedule: of the learning rate.
            grad_clip: largest norm of the gradient; None for no limit.
            loss: of logits and batch, where a step has none of its own.
            beside: weights outside the model that are trained with it; no mask holds them.
            dual: DualOptim: AdamW with momentum of its own, weight decay 0.05 and learning rate `dual`, or 1e-4
                for True, takes the steps that forget.
            freeze_norms: whether batch normalisation keeps to its running statistics, and leaves them as they are.

        Raises:
            Diverged: the loss of an epoch is no number.

        Source:
            Zhong et al., "DualOptim: Enhancing Efficacy and Stability in Machine Unlearning with Dual Optimizers",
            NeurIPS 2025, https://arxiv.org/abs/2504.15827, algorithm 1.
        """
        self.hold.put_back()
        rate = DUAL_LR if dual is True else dual
        curve, _ = fit(
            self.model,
            stream,
            epochs=epochs,
            lr=lr,
            optimizer=optimizer,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            grad_clip=grad_clip,
            loss=loss,
            precision=self.precision,
            watch=self.watch,
            beside=beside,
            forgetting=Descent(rate, "adamw", 0.9, DUAL_DECAY) if rate else None,
            freeze_norms=freeze_norms,
            clear_gradients=self.hold.clear_gradients,
            passes=self.passes,
            compiled=self.compiled,
        )
        before = len(self.curve)
        self.curve = [*self.curve, *(replace(point, epoch=before + point.epoch) for point in curve)]
        if curve and not math.isfinite(curve[-1].loss):
            raise Diverged

    def retrain(self) -> None:
        """Train fresh weights on the retain set by the base model's own recipe, whatever the budget."""
        self.model.load_state_dict(self.fresh().state_dict())
        with self.passes.unlimited():
            curve, _ = train(
                self.model,
                self.retain,
                self.validation,
                self.recipe,
                self.generator,
                self.watch,
                passes=self.passes,
                precision=self.precision,
                compiled=self.compiled,
                saving=self.saving,
            )
        self.curve = [*self.curve, *curve]

    @contextmanager
    def part(
        self, *, model: nn.Module | None = None, forget: Images | None = None, retain: Images | None = None
    ) -> Iterator["Task"]:
        """Make a task of some of the images, or of another model; all else, budget and randomness too, is this one's.

        Args:
            model: to edit; None for this task's.
            forget: images to forget; None for this task's.
            retain: images to keep; None for this task's.

        Yields:
            The task; what it trains goes on with this one's curve.
        """
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

    def logits(self, x: Tensor, model: nn.Module | None = None) -> Tensor:
        """Run the model on a batch in the training's precision, for a loss of more than the step's own batch.

        Args:
            x: (B, C, H, W) model input.
            model: another one that is to run so, such as a teacher; None for the task's own.

        Returns:
            (B, classes) float32, with their gradient.
        """
        model = self.model if model is None else model
        with autocast(self.precision, x.device), steady_norms(model, len(x) == 1):
            logits: Tensor = model(x)
        return logits.float()

    def frozen(self) -> nn.Module:
        """Make a teacher of the model as it is now.

        Returns:
            A copy in evaluation mode whose weights take no gradient.
        """
        return deepcopy(self.model).eval().requires_grad_(False)

    def random_teacher(self) -> nn.Module:
        """Make a teacher that knows nothing.

        Returns:
            The architecture with random weights, frozen.
        """
        return self.passes.watch((self.untrained or self.fresh)()).eval().requires_grad_(False)

    def pairs(self, batch_size: int) -> Iterator[tuple[Batch, Batch]]:
        """Go once through the retain images, beside as many batches of the forget images, again and again.

        Args:
            batch_size: images a batch, of each.

        Yields:
            A forget and a retain batch; each of the two is shuffled.
        """
        forget = self.forever(self.forget, batch_size)
        for batch in self.retain.batches(batch_size, self.generator):
            yield next(forget), batch

    def forever(self, images: Images, batch_size: int) -> Iterator[Batch]:
        """Go through images again and again, shuffled anew each time.

        Args:
            images: any.
            batch_size: images a batch; the last of each round may be smaller.

        Yields:
            One batch after another, without end.
        """
        while True:
            yield from images.batches(batch_size, self.generator)

    def random_labels(self, labels: Labels) -> Tensor:
        """Draw a label for every forget image.

        Args:
            labels: "any", uniform over all classes, the true one possible (the official code);
                "other", uniform over the other classes; "remaining", uniform over the other classes
                that are not forgotten (the notebook).

        Returns:
            (len(forget),) int64.
        """
        allowed = torch.ones(len(self.forget), self.classes, device=self.forget.device)
        if labels != "any":
            allowed.scatter_(1, self.forget.labels[:, None], 0)
        if labels == "remaining" and self.forgotten:
            allowed[:, list(self.forgotten)] = 0
        generator = self.generator
        # What torch.multinomial draws, but for its checks, which wait for the device.
        times = torch.empty(allowed.shape, device=generator.device).exponential_(generator=generator)
        return (allowed / times.to(allowed.device)).argmax(1)


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: its function's name and its value in JSON.
        run: the function of a `Task` and keyword-only settings.
        settings: annotation and default of each setting.
        summary: first sentence of its docstring.
        equation: of its docstring.
        deviations: from the source, of its docstring.
        source: of its docstring.
        maskable: whether a mask may hold weights while it runs.
        classwise: whether it can only forget whole classes.
        forgets: whether it is meant to forget a class at the strength that the authors chose.
        keeps: whether it is meant to keep the accuracy on the rest.
        alias: another name that JSON may give it.
        home: the module that it stands in.
    """

    name: str
    run: Callable[..., None]
    settings: dict[str, tuple[Any, Any]]
    summary: str
    equation: str
    deviations: str
    source: str
    maskable: bool
    classwise: bool
    forgets: bool
    keeps: bool
    alias: str | None
    home: str


METHODS: dict[str, Method] = {}


def method(
    *,
    maskable: bool = True,
    classwise: bool = False,
    forgets: bool = True,
    keeps: bool = True,
    alias: str | None = None,
) -> Callable[..., Callable[..., None]]:
    """Register an unlearning method; its signature is its schema.

    Args:
        maskable: whether a mask may hold weights while it runs.
        classwise: whether it can only forget whole classes.
        forgets: whether it is meant to forget a class at the strength that the authors chose.
        keeps: whether it is meant to keep the accuracy on the rest.
        alias: another name that JSON may give it, where its own cannot be a function's.

    Returns:
        A decorator for a function of a `Task` and keyword-only settings with annotation and default.

    Raises:
        TypeError: a setting lacks annotation or default, is not keyword-only, or is of a type without values in JSON.
        SalunError: the name is taken.
    """

    def register(run: Callable[..., None]) -> Callable[..., None]:
        name = str(getattr(run, "__name__", ""))
        homes = {known: found.home for found in METHODS.values() for known in (found.name, found.alias) if known}
        for wanted in (name, alias):
            claim("method", wanted or name, run.__module__, homes)
        hints = typing.get_type_hints(run, include_extras=True)
        settings = {}
        for parameter in list(inspect.signature(run).parameters.values())[1:]:
            complete = parameter.name in hints and parameter.default is not parameter.empty
            if parameter.kind is not parameter.KEYWORD_ONLY or not complete:
                raise TypeError(f"{name}: setting '{parameter.name}' must be keyword-only, with annotation and default")
            settings[parameter.name] = (hints[parameter.name], parameter.default)
        check_settings(name, settings)
        sections = sections_of(run)
        METHODS[name] = Method(
            name=name,
            run=run,
            settings=settings,
            summary=summary_of(run),
            equation=sections.get("Equation", ""),
            deviations=sections.get("Deviations", ""),
            source=sections.get("Source", ""),
            maskable=maskable,
            classwise=classwise,
            forgets=forgets,
            keeps=keeps,
            alias=alias,
            home=run.__module__,
        )
        return run

    return register


def check_settings(name: str, settings: dict[str, tuple[Any, Any]]) -> None:
    """Check that values of a method's settings can be validated.

    Args:
        name: of the method.
        settings: annotation and default of each.

    Raises:
        TypeError: they cannot.
    """
    try:
        create_model(name, **cast(Any, settings))
    except PydanticUserError as error:
        raise TypeError(f"{name}: {error.message.partition('. ')[0]}") from error


def find_method(name: str) -> Method:
    """Look a method up by name.

    Args:
        name: as in JSON.

    Returns:
        The method.

    Raises:
        SalunError: there is none of that name; the nearest is named.
    """
    load_methods()
    aliases = {found.alias: found for found in METHODS.values() if found.alias}
    if name not in METHODS and name not in aliases:
        raise SalunError(f"method '{name}': unknown{did_you_mean(name, [*METHODS, *aliases])}")
    return METHODS.get(name) or aliases[name]


def load_methods() -> None:
    """Import every file of `salun.methods`, which registers its method, and what installed packages add."""
    package = importlib.import_module("salun.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"salun.methods.{module.name}")
    load_installed("salun.methods")


def settled(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Check a method's settings and fill in the rest of them.

    Args:
        name: of the method.
        given: settings as JSON gives them; null means not given.

    Returns:
        All of the method's settings.

    Raises:
        SalunError: there is no such method or setting, or a value is not accepted.
    """
    complete = {}
    for key, (annotation, default) in named_settings(name, given).settings.items():
        value = given.get(key)
        try:
            checked = value is not None and TypeAdapter(annotation, config=STRICT).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SalunError(f"method '{name}': setting '{key}': {value!r}: {reason[0].lower()}{reason[1:]}") from error
        complete[key] = default if value is None else checked
    return complete


def named_settings(name: str, given: Iterable[str]) -> Method:
    """Look a method up that is to have certain settings.

    Args:
        name: of the method.
        given: names of settings.

    Returns:
        The method.

    Raises:
        SalunError: there is no such method or setting.
    """
    chosen = find_method(name)
    for key in given:
        if key not in chosen.settings:
            raise SalunError(f"method '{name}': setting '{key}': unknown{did_you_mean(key, chosen.settings)}")
    return chosen


def chosen_for(task: Task, name: str, settings: dict[str, Any]) -> Method:
    """Look up a method that is to run on a task.

    Args:
        task: what it is to work on.
        name: of the method.
        settings: where they differ from its defaults.

    Returns:
        The method.

    Raises:
        SalunError: the method, a setting, or the forget set is refused.
    """
    chosen = named_settings(name, settings)
    if chosen.classwise and not task.forgotten:
        raise SalunError(f"method '{name}': {WHOLE_CLASSES}")
    return chosen


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
        stack.enter_context(task.passes.watching(task.model))
        if mask is not None:
            task.hold = stack.enter_context(only(task.model, mask))
        try:
            chosen.run(task, **(settings or {}))
        except Diverged:
            task.diverged = len(task.curve)
    task.hold = NOT_HELD
    task.model.eval()
