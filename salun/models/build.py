"""Building a model from its architecture."""

import warnings
from contextlib import nullcontext
from copy import deepcopy
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from salun.errors import SalunError
from salun.models.architecture import TINY, Architecture, check_timm_model
from salun.models.own import MODELS, build_own
from salun.models.pretrained import load_pretrained
from salun.models.tiny import TinyResNet

_SMALL = 64
_PATCHED = ("vit_", "deit", "swin_", "swinv2_", "flexivit_", "cait_", "convit_")


def build(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """Build a model with fresh weights, or with timm's pretrained ones.

    Images of at most 64 pixels: a ResNet gets a 3x3 first convolution of stride 1 and no max-pool (He et al., 2016,
    section 4.2), a VGG the 512-wide head and only as many max-pools as the image can take. A model of fixed input size
    is built for the images' size, a vision transformer with a patch that leaves at least 8 x 8 of them.

    Args:
        architecture: what to build.
        pretrained: whether timm's weights are loaded; implies a native model, which is timm's own.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        SalunError: the name is unknown, the model cannot take such images, or its weights cannot be had.
    """
    name, size = architecture.model, architecture.size
    if name in MODELS and pretrained:
        raise SalunError(f"model '{name}': has no pretrained weights; leave --pretrained out")
    if name in MODELS:
        return build_own(architecture)
    check_timm_model(name)
    if pretrained:
        return load_pretrained(architecture)
    known, state = _known_options(architecture), torch.get_rng_state()
    for options in known or _input_options(architecture):
        torch.set_rng_state(state)  # so that the weights do not depend on what was tried before
        try:
            with warnings.catch_warnings(action="ignore"):
                model = _shaped(architecture, options)
                if not known:
                    _try_out(model, architecture)
        except Exception as error:  # timm's models refuse sizes and options with errors of every kind
            refusal = error
            continue
        known[:] = [options]
        return model.train()
    reason = str(refusal).splitlines()[0] if str(refusal) else type(refusal).__name__
    raise SalunError(f"model '{name}' cannot take images of {size} x {size} pixels: {reason}") from refusal


def untrained_copy(model: nn.Module) -> nn.Module:
    """Copy a model with fresh weights: every layer draws its own anew, from the global generator.

    Args:
        model: any; it is left as it is.

    Returns:
        The copy, in training mode, all of whose weights take a gradient.

    Raises:
        SalunError: a layer has weights and no `reset_parameters`.
    """
    copy = deepcopy(model)
    for name, layer in copy.named_modules():
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            where = f"the weights of layer '{name}'" if name else "its own weights"
            reason = f"{where} cannot be drawn anew without reset_parameters(); give fresh=, which builds a new model"
            raise SalunError(f"model {type(model).__name__}: {reason}")
    return copy.train().requires_grad_(True)


class _Undrawn(TorchFunctionMode):
    """Leaves weights as they are in memory instead of drawing them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def build_undrawn(architecture: Architecture) -> nn.Module:
    """Build a model that is about to be given its weights; the global generator stays as it is.

    Args:
        architecture: what to build.

    Returns:
        The model in training mode, its weights of any values.

    Raises:
        SalunError: as `build` does.
    """
    # The first model of an architecture is tried out with an image, for which it needs weights.
    with torch.random.fork_rng(devices=[]), _Undrawn() if _known_options(architecture) else nullcontext():
        return build(architecture)


@lru_cache
def _known_options(architecture: Architecture) -> list[dict[str, int]]:
    """Give the options for timm that were found to work, to be filled in, so that a model is tried out only once."""
    return []


def _shaped(architecture: Architecture, options: dict[str, int]) -> nn.Module:
    """Build a model and, unless it is native, fit it to small images."""
    model = _bare(architecture, options)
    if not architecture.native:
        _adapt(model, architecture)
    return model


def _try_out(model: nn.Module, architecture: Architecture) -> None:
    """See that a model, unless it is native, takes an image; what it raises is its own."""
    if architecture.native:
        return
    with torch.no_grad():
        logits = model.eval()(torch.zeros(1, architecture.channels, architecture.size, architecture.size))
    if not logits.isfinite().all():
        raise ValueError("its output is not finite")


def _bare(architecture: Architecture, options: dict[str, int]) -> nn.Module:
    """Build a model as timm does, or "resnet_tiny"."""
    if architecture.model == TINY:
        return TinyResNet(architecture.classes, architecture.channels)
    import timm  # only now: it takes more than a second, which other models do without

    given: dict[str, Any] = {"num_classes": architecture.classes, "in_chans": architecture.channels}
    return cast(nn.Module, timm.create_model(architecture.model, **given, **options))


def _input_options(architecture: Architecture) -> list[dict[str, int]]:
    """List the ways to tell a model the images' size, the best first; not every model of fixed size takes them."""
    name, size = architecture.model, architecture.size
    if name == TINY or architecture.native:
        return [{}]
    import timm

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
    if isinstance(model, TinyResNet):
        _keep_resolution(model, architecture.channels)
        return
    from timm.models import VGG, ResNet

    if isinstance(model, ResNet):
        _keep_resolution(model, architecture.channels)
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


def _keep_resolution(model: Any, channels: int) -> None:
    """Let the first layers of a residual network keep the images' size, in place."""
    if isinstance(model.conv1, nn.Conv2d):
        model.conv1 = nn.Conv2d(channels, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()


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
