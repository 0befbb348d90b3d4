"""Architectures by name, shaped to small images."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vgg import VGG
from torch import nn

from salun.errors import SalunError, did_you_mean

TINY = "resnet_tiny"
_SMALL = 64
_PATCHED = ("vit_", "deit", "swin_", "swinv2_", "flexivit_", "cait_", "convit_")


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a model again.

    Attributes:
        model: a timm name, or "resnet_tiny".
        classes: number of classes.
        channels: colour channels of the images.
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
        "resnet_tiny" for the 8x8 digits, else "resnet18".
    """
    return TINY if dataset == "digits" else "resnet18"


def check_model(name: str) -> None:
    """Check that a model name is known.

    Args:
        name: a timm name, or "resnet_tiny".

    Raises:
        SalunError: it is not, with the nearest name.
    """
    if name == TINY:
        return
    family, _, tag = name.partition(".")
    if not timm.is_model(family):
        raise SalunError(f"model '{name}': unknown{did_you_mean(name, [TINY, *timm.list_models()])}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        hint = did_you_mean(name, [family, *timm.list_pretrained(f"{family}.*")])
        raise SalunError(f"model '{name}': unknown tag '{tag}'{hint}") from error


@lru_cache
def known_options(architecture: Architecture) -> list[dict[str, int]]:
    """Remember how timm is told the images' size, so that a model is tried out only once.

    Args:
        architecture: of the model.

    Returns:
        A list to be kept up to date: the options that were found to work, or none yet.
    """
    return []


def shaped(architecture: Architecture, options: dict[str, int]) -> nn.Module:
    """Build a model and, unless it is native, fit it to small images.

    Args:
        architecture: what to build.
        options: further ones for timm.

    Returns:
        The model.
    """
    model = _bare(architecture, options)
    if not architecture.native:
        _adapt(model, architecture)
    return model


def try_out(model: nn.Module, architecture: Architecture) -> None:
    """See that a model, unless it is native, takes an image.

    Args:
        model: is put in evaluation mode.
        architecture: of the images.

    Raises:
        Exception: of any kind, the model's own: it does not.
    """
    if architecture.native:
        return
    with torch.no_grad():
        logits = model.eval()(torch.zeros(1, architecture.channels, architecture.size, architecture.size))
    if not logits.isfinite().all():
        raise ValueError("its output is not finite")


def _bare(architecture: Architecture, options: dict[str, int]) -> nn.Module:
    """Build a model as timm does; "resnet_tiny" is timm's class, four stages of widths 16, 32, 64 and 128."""
    given: dict[str, Any] = {"num_classes": architecture.classes, "in_chans": architecture.channels}
    if architecture.model == TINY:
        return cast(nn.Module, ResNet(BasicBlock, (2, 2, 2, 2), channels=(16, 32, 64, 128), **given))
    return cast(nn.Module, timm.create_model(architecture.model, **given, **options))


def input_options(architecture: Architecture) -> list[dict[str, int]]:
    """List the ways to tell a model the images' size, the best first.

    Args:
        architecture: a known model.

    Returns:
        Options for timm. Not every model of fixed input size takes them: the last are none.
    """
    name, size = architecture.model, architecture.size
    if name == TINY or architecture.native:
        return [{}]
    config = timm.get_pretrained_cfg(name)
    patched = "patch" in name or name.startswith(_PATCHED)
    if not patched and (config is None or not config.fixed_input_size):
        return [{}]
    patch = _patch_option(name, size) if patched else {}
    return [{"img_size": size, **patch}, *([{"img_size": size}] if patch else []), {}]


def _adapt(model: nn.Module, architecture: Architecture) -> None:
    """Fit a convolutional model to small images, in place."""
    if architecture.size > _SMALL:
        return
    if isinstance(model, ResNet):
        stem = model.conv1
        if isinstance(stem, nn.Conv2d):
            model.conv1 = nn.Conv2d(architecture.channels, stem.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        else:
            stem[0].stride = (1, 1)
        model.maxpool = nn.Identity()
    if isinstance(model, VGG):
        pools = [place for place, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
        for place in pools[architecture.size.bit_length() - 1 :]:
            model.features[place] = nn.Identity()
        model.pre_logits = nn.Identity()
        model.head_hidden_size = model.num_features
        model.head.num_features = model.head.in_features = model.num_features
        model.head.fc = nn.Linear(model.num_features, architecture.classes)
        nn.init.normal_(model.head.fc.weight, 0, 0.01)
        nn.init.zeros_(model.head.fc.bias)


def _patch_option(name: str, size: int) -> dict[str, int]:
    """Choose a transformer's patch for small images."""
    native = 16
    if name.startswith(("swin_", "swinv2_")):
        native = 4
    elif "patch" in name:
        native = int(name.partition("patch")[2].partition("_")[0])
    limit = max(1, size // 8)
    if native <= limit and size % native == 0:
        return {}
    return {"patch_size": max(side for side in range(1, min(native, limit) + 1) if size % side == 0)}
