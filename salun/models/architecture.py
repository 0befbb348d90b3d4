"""Architectures by name, shaped to small images."""

from collections.abc import Iterable
from dataclasses import dataclass

from salun.errors import SalunError, did_you_mean, nearest

TINY = "resnet_tiny"


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a model again.

    Attributes:
        model: a timm name, or "resnet_tiny".
        size: side of the images in pixels, as they reach the model.
        native: whether the model keeps timm's own shape for large images.
    """

    model: str
    classes: int
    channels: int = 3
    size: int = 32
    native: bool = False


def default_model(dataset: str) -> str:
    """Choose a model where the user names none.

    Args:
        dataset: the data set's name.

    Returns:
        "resnet_tiny" for the 8x8 digits, grouped or not, else "resnet18".
    """
    return TINY if dataset.partition(":")[0] in ("digits", "digits_grouped") else "resnet18"


def _hint(name: str, others: Iterable[str]) -> str:
    """Name the nearest model, or say where models come from: timm has far too many to list."""
    import timm  # here and below only on need: it takes more than a second

    near = nearest(name, [TINY, *others, *timm.list_models()])
    if near is not None:
        return f"; did you mean '{near}'?"
    return f"; give {TINY}, a model of timm, FILE.py:NAME, or --plugin FILE for one that a plugin registers"


def timm_name(name: str) -> str:
    """Take the prefix off a timm name as the hub spells it: "timm/resnet18", "hf_hub:timm/resnet18.a1_in1k"."""
    return name.removeprefix("hf_hub:").removeprefix("hf-hub:").removeprefix("timm/")


def check_timm_model(name: str, others: Iterable[str] = ()) -> None:
    """Check that a name is "resnet_tiny" or one of timm's.

    Args:
        name: of a model.
        others: names that may have been meant.

    Raises:
        SalunError: it is not, with the nearest name.
    """
    if name == TINY:
        return
    if ".py:" in name:
        trust = f"is built by a file's code, which runs only where it is named: --plugin {name}"
        raise SalunError(f"model '{name}': {trust}, with the file's path")
    import timm

    family, _, tag = name.partition(".")
    if not timm.is_model(family):
        raise SalunError(f"model '{name}': unknown{_hint(name, others)}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        hint = did_you_mean(name, [family, *timm.list_pretrained(f"{family}.*")])
        raise SalunError(f"model '{name}': unknown tag '{tag}'{hint}") from error
