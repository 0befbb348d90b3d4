"""The registry of methods, and how one is run."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, create_model

from salun.errors import SalunError, did_you_mean
from salun.registry import arguments_of, claim, load_installed, sections_of, summary_of
from salun.training.recipe import Recipe, TrainingConfig, plain_number

if TYPE_CHECKING:
    from salun.unlearning.task import Task

WHOLE_CLASSES = "forgets whole classes only; give class_to_forget"
_ONLY_CLASSES = "forgets whole classes only; the retain set still holds images of each class in the forget set"
_SALUN = "; SalUn is the method 'rl_split' under a saliency mask: mask= in Python, use_mask in a list"
UNDECLARED = TrainingConfig(weight_decay=0.0)
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_TRAINING = tuple(field.name for field in dataclasses.fields(TrainingConfig))
_Settings = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, repr=False)
class Method:
    """A registered method: what its docstring says of it, and what `method` was told.

    Attributes:
        run: the function of a `Task` and keyword-only settings, those of its training among them.
        settings: annotation and default of each setting.
        meanings: text on each setting.
        home: the module that it stands in.
    """

    name: str
    run: Callable[..., None]
    settings: _Settings
    meanings: dict[str, str]
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

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={default!r}" for key, (_, default) in self.settings.items())
        return f"{self.name}({settings}): {self.summary}"


METHODS: dict[str, Method] = {}


def method(
    *,
    training: TrainingConfig | None = None,
    maskable: bool = True,
    classwise: bool = False,
    forgets: bool = True,
    keeps: bool = True,
    alias: str | None = None,
) -> Callable[..., Callable[..., None]]:
    """Register an unlearning method; its training and its signature are its schema, its docstring its description.

    Sections that its docstring lacks are read from that of its module.

    Args:
        training: defaults of a method that trains, whose fields become settings; the optimiser only where it is not
            "sgd". The function reads the chosen values from `task.training`.
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

    def register(function: Callable[..., None]) -> Callable[..., None]:
        name = str(getattr(function, "__name__", ""))
        homes = {known: found.home for found in METHODS.values() for known in (found.name, found.alias) if known}
        for wanted in (name, alias):
            claim("method", wanted or name, function.__module__, homes)
        own = _signature_settings(name, function)
        settings = _documented_order({**_training_settings(training), **own}, function)
        _check_settings(name, settings)
        sections = sections_of(sys.modules.get(function.__module__, function)) | sections_of(function)
        run = _configured(function, settings, own)
        METHODS[name] = Method(
            name=name,
            run=run,
            settings=settings,
            meanings=arguments_of(TrainingConfig) | arguments_of(function),
            summary=summary_of(function),
            equation=sections.get("Equation", ""),
            deviations=sections.get("Deviations", ""),
            source=sections.get("Source", ""),
            maskable=maskable,
            classwise=classwise,
            forgets=forgets,
            keeps=keeps,
            alias=alias,
            home=function.__module__,
        )
        return run

    return register


def _signature_settings(name: str, function: Callable[..., None]) -> _Settings:
    """Read the settings that a method declares itself."""
    hints = typing.get_type_hints(function, include_extras=True)
    settings = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        complete = parameter.name in hints and parameter.default is not parameter.empty
        if parameter.kind is not parameter.KEYWORD_ONLY or not complete:
            raise TypeError(f"{name}: setting '{parameter.name}' must be keyword-only, with annotation and default")
        settings[parameter.name] = (hints[parameter.name], parameter.default)
    return settings


def _training_settings(training: TrainingConfig | None) -> _Settings:
    """Flatten the settings of a training."""
    if training is None:
        return {}
    hints = typing.get_type_hints(TrainingConfig, include_extras=True)
    names = [name for name in _TRAINING if name != "optimizer" or training.optimizer != "sgd"]
    return {name: (hints[name], getattr(training, name)) for name in names}


def _documented_order(settings: _Settings, function: Callable[..., None]) -> _Settings:
    """Order settings as the docstring does; one that it leaves out follows the one before it."""
    order = [name for name in arguments_of(function) if name in settings]
    before = ""
    for name in settings:
        if name not in order:
            order.insert(order.index(before) + 1 if before else 0, name)
        before = name
    return {name: settings[name] for name in order}


def _check_settings(name: str, settings: _Settings) -> None:
    """Check that values of a method's settings can be validated."""
    try:
        create_model(name, **cast(Any, settings))
    except PydanticUserError as error:
        raise TypeError(f"{name}: {error.message.partition('. ')[0]}") from error


def _configured(function: Callable[..., None], settings: _Settings, own: _Settings) -> Callable[..., None]:
    """Let a method find the settings of its training, whether it declares them itself or not, in its task."""

    @functools.wraps(function)
    def run(task: "Task", **given: Any) -> None:
        values = {name: default for name, (_, default) in settings.items()} | given
        before = task.training
        chosen = {name: values.pop(name) if name not in own else values[name] for name in _TRAINING if name in values}
        task.training = dataclasses.replace(UNDECLARED, **chosen)
        try:
            function(task, **values)
        finally:
            task.training = before

    return run


def find_method(name: str) -> Method:
    """Look a method up by name.

    Args:
        name: as in JSON.

    Returns:
        The method.

    Raises:
        SalunError: there is none of that name; the nearest is named.
    """
    if not isinstance(name, str):
        raise SalunError(f"method {name!r}: must be the name of a method, such as 'rl'")
    load_methods()
    aliases = {found.alias: found for found in METHODS.values() if found.alias}
    if name not in METHODS and name not in aliases:
        known = _SALUN if name.lower() == "salun" else did_you_mean(name, [*METHODS, *aliases])
        raise SalunError(f"method '{name}': unknown{known}")
    return METHODS.get(name) or aliases[name]


def load_methods() -> None:
    """Import every file of `salun.unlearning.methods`, which registers its method, and what installed packages add."""
    _import_own()
    load_installed("salun.methods")


@functools.lru_cache
def _import_own() -> None:
    """Import the package's files, once: every run of a list asks for its method."""
    package = importlib.import_module("salun.unlearning.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"salun.unlearning.methods.{module.name}")


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
    for key, (annotation, default) in _named_settings(name, given).settings.items():
        value = plain_number(given.get(key))
        try:
            checked = value is not None and TypeAdapter(annotation, config=_STRICT).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SalunError(f"method '{name}': setting '{key}': {value!r}: {reason[0].lower()}{reason[1:]}") from error
        complete[key] = default if value is None else checked
    return complete


def _named_settings(name: str, given: Iterable[str]) -> Method:
    """Look a method up that is to have certain settings."""
    chosen = find_method(name)
    for key in given:
        if key not in chosen.settings:
            known = did_you_mean(key, chosen.settings) if chosen.settings else "; it has no settings"
            if not chosen.settings and key in Recipe.model_fields:
                known = f"; it trains by a recipe: give recipe=salun.Recipe({key}=...)"
            raise SalunError(f"method '{name}': setting '{key}': unknown{known}")
    return chosen


def chosen_for(task: "Task", name: str, settings: dict[str, Any]) -> Method:
    """Look up a method that is to run on a task; refuse one that does not fit task or settings."""
    chosen = _named_settings(name, settings)
    if chosen.classwise and not task.forgotten:
        raise SalunError(f"method '{name}': {_ONLY_CLASSES}")
    return chosen
