"""Models of a user's own code: classes and functions of a plugin, or of a file that the user names."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from salun.errors import SalunError
from salun.models.architecture import TINY, Architecture, check_timm_model
from salun.models.features import mark_head
from salun.registry import ADDED, claim, file_of, reason

_PARAMETERS = {
    "classes": ("num_classes", "n_classes", "nclasses", "classes"),
    "channels": ("in_chans", "in_channels", "channels"),
    "size": ("img_size", "image_size", "size"),
}
_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class OwnModel:
    """A registered model.

    Attributes:
        build: a class or function that gives an untrained model.
        head: name of the layer that gives the logits; None finds it where it can.
        home: the module that registered it.
        file: where it was named as FILE.py:NAME; None of `@salun.model`.
    """

    build: Callable[..., nn.Module]
    head: str | None
    home: str
    file: Path | None = None


MODELS: dict[str, OwnModel] = {}


def model(name: str | None = None, *, head: str | None = None) -> Callable[[_Builder], _Builder]:
    """Register a model in a plugin, which `--model` and the key "model" then know by name.

    Args:
        name: of the model; None takes the function's or the class's own.
        head: name of the layer that gives the logits, where it is not the last linear layer.

    Returns:
        A decorator for a class or function that gives an untrained model. Of its parameters, num_classes, in_chans and
        img_size (or `_PARAMETERS`' other names for them) get the data set's values; all others need a default.

    Raises:
        SalunError: the name is taken.

    Examples:
        >>> @model("linear")
        ... def linear(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))
    """

    def register(build: _Builder) -> _Builder:
        wanted, home = name or str(getattr(build, "__name__", "")), build.__module__
        taken = {known: found.home for known, found in MODELS.items()} | {TINY: "salun.models.build"}
        claim("model", wanted, home, taken)
        MODELS[wanted] = OwnModel(build, head, home)
        return build

    return register


def check_model(name: str) -> None:
    """Check that a model is registered, "resnet_tiny" or one of timm's.

    Args:
        name: of a model.

    Raises:
        SalunError: it is not, with the nearest name.
    """
    if name in MODELS:
        return
    file, mark, attribute = name.rpartition(":")
    if name.endswith(".py"):
        raise SalunError(f"model '{name}': name the class or function too, as in {name}:NAME")
    if mark and Path(f"{file}.py").is_file():
        raise SalunError(f"model '{name}': unknown; did you mean '{file}.py:{attribute}'?")
    check_timm_model(name, MODELS)


def code_of(name: str) -> str | None:
    """Identify the code of a registered model.

    Args:
        name: of a model.

    Returns:
        SHA-256 of the file that it stands in; None where it is of timm or of an installed package.
    """
    return ADDED.get(f"plugin {Path(file_of(MODELS[name].home)).name}") if name in MODELS else None


def build_own(architecture: Architecture) -> nn.Module:
    """Build a model of a user's own code for a data set.

    Args:
        architecture: of a registered model.

    Returns:
        The model on the CPU, in training mode, its head marked where it is found.

    Raises:
        SalunError: it cannot be built, or does not map the images to logits.
    """
    own, name = MODELS[architecture.model], architecture.model
    try:
        network = own.build(**_arguments(own.build, architecture))
    except Exception as error:  # a user's code may raise anything
        raise SalunError(f"model '{name}': cannot be built: {reason(error)}") from error
    if not isinstance(network, nn.Module):
        raise SalunError(f"model '{name}': gives a {type(network).__name__}; must give a torch.nn.Module")
    x = torch.zeros(2, architecture.channels, architecture.size, architecture.size)
    shape, logits = f"{architecture.channels} x {architecture.size} x {architecture.size}", None
    try:
        with torch.no_grad():
            logits = network.eval()(x)
    except Exception as error:  # likewise
        raise SalunError(f"model '{name}': cannot take images of {shape} pixels: {reason(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, architecture.classes):
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        expected = f"logits of shape (2, {architecture.classes})"
        raise SalunError(f"model '{name}': gives {given} for 2 images; must give {expected}")
    mark_head(network, x, own.head)
    return network.train()


def _arguments(build: Callable[..., Any], architecture: Architecture) -> dict[str, int]:
    """Choose the arguments that a class or function wants of what is known of the data."""
    known = {name: getattr(architecture, key) for key, names in _PARAMETERS.items() for name in names}
    wanted = inspect.signature(build).parameters
    return {name: known[name] for name in wanted if name in known}
