"""What a method gets (`Task`), how it is registered (`@method`), how it is run (`unlearn`)."""

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from salun.data.images import Images
from salun.device import Precision
from salun.docstrings import sections_of, summary_of
from salun.errors import SalunError, did_you_mean
from salun.saliency import Mask, only
from salun.training import Epoch, Loss, Recipe, Schedule, Stream, Watch, cross_entropy, fit, train, unwatched

Labels = Literal["any", "other", "remaining"]
Momentum = typing.Annotated[float, Field(ge=0, lt=1)]

__all__ = [
    "METHODS",
    "Labels",
    "Method",
    "Momentum",
    "NonNegativeFloat",
    "PositiveFloat",
    "PositiveInt",
    "Schedule",
    "Task",
    "find_method",
    "method",
    "unlearn",
]


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
        watch: is told of every step.
        curve: the epochs trained so far; `fit` and `retrain` add to it.
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
    watch: Watch = unwatched
    curve: Sequence[Epoch] = ()

    def fit(
        self,
        stream: Stream,
        *,
        epochs: int,
        lr: float,
        momentum: float,
        weight_decay: float,
        schedule: Schedule,
        grad_clip: float | None,
        loss: Loss = cross_entropy,
    ) -> None:
        """Train the model on a stream of batches with SGD.

        Args:
            stream: gives the batches of epoch 0, 1, ...
            epochs: passes over the stream.
            lr: learning rate at the start.
            momentum: of SGD.
            weight_decay: L2 penalty.
            schedule: of the learning rate.
            grad_clip: largest norm of the gradient; None for no limit.
            loss: of logits and batch.
        """
        curve, _ = fit(
            self.model,
            stream,
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            grad_clip=grad_clip,
            loss=loss,
            precision=self.precision,
            watch=self.watch,
        )
        self.curve = [*self.curve, *curve]

    def retrain(self) -> None:
        """Train fresh weights on the retain set by the base model's own recipe."""
        self.model.load_state_dict(self.fresh().state_dict())
        curve, _ = train(self.model, self.retain, self.validation, self.recipe, self.generator, self.watch)
        self.curve = [*self.curve, *curve]

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
        return torch.multinomial(allowed.to(generator.device), 1, generator=generator).flatten().to(allowed.device)


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: its function's name and its value in JSON.
        run: the function of a `Task` and keyword-only settings.
        settings: annotation and default of each setting.
        summary: first sentence of its docstring.
        source: of its docstring.
        maskable: whether a mask may hold weights while it runs.
        forgets: whether it is meant to forget a class at its default strength.
        keeps: whether it is meant to keep the accuracy on the rest.
    """

    name: str
    run: Callable[..., None]
    settings: dict[str, tuple[Any, Any]]
    summary: str
    source: str
    maskable: bool
    forgets: bool
    keeps: bool


METHODS: dict[str, Method] = {}


def method(*, maskable: bool = True, forgets: bool = True, keeps: bool = True) -> Callable[..., Callable[..., None]]:
    """Register an unlearning method; its signature is its schema.

    Args:
        maskable: whether a mask may hold weights while it runs.
        forgets: whether it is meant to forget a class at its default strength.
        keeps: whether it is meant to keep the accuracy on the rest.

    Returns:
        A decorator for a function of a `Task` and keyword-only settings with annotation and default.

    Raises:
        TypeError: a setting lacks annotation or default, or is not keyword-only.
    """

    def register(run: Callable[..., None]) -> Callable[..., None]:
        name = str(getattr(run, "__name__", ""))
        hints = typing.get_type_hints(run, include_extras=True)
        settings = {}
        for parameter in list(inspect.signature(run).parameters.values())[1:]:
            complete = parameter.name in hints and parameter.default is not parameter.empty
            if parameter.kind is not parameter.KEYWORD_ONLY or not complete:
                raise TypeError(f"{name}: setting '{parameter.name}' must be keyword-only, with annotation and default")
            settings[parameter.name] = (hints[parameter.name], parameter.default)
        source = sections_of(run).get("Source", "")
        METHODS[name] = Method(name, run, settings, summary_of(run), source, maskable, forgets, keeps)
        return run

    return register


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
    if name not in METHODS:
        raise SalunError(f"method '{name}': unknown{did_you_mean(name, METHODS)}")
    return METHODS[name]


def load_methods() -> None:
    """Import every file of `salun.methods`, which registers its method."""
    package = importlib.import_module("salun.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"salun.methods.{module.name}")


def unlearn(task: Task, name: str, settings: dict[str, Any] | None = None, mask: Mask | None = None) -> None:
    """Run a method on a task, under a mask where one is given.

    Args:
        task: its model is edited in place and left in evaluation mode.
        name: of the method.
        settings: the method's, where they differ from its defaults.
        mask: a boolean tensor a weight, True where it may move.

    Raises:
        SalunError: the method, a setting, or a mask on this method is refused.
    """
    chosen = find_method(name)
    for key in settings or {}:
        if key not in chosen.settings:
            raise SalunError(f"method '{name}': setting '{key}': unknown{did_you_mean(key, chosen.settings)}")
    if mask is None:
        chosen.run(task, **(settings or {}))
    elif not chosen.maskable:
        raise SalunError(f"method '{name}': takes no mask: {chosen.summary}")
    else:
        with only(task.model, mask):
            chosen.run(task, **(settings or {}))
    task.model.eval()
