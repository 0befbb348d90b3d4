"""Building a model from its architecture."""

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from salun.errors import SalunError
from salun.models.architecture import Architecture, check_model, input_options, known_options, shaped, try_out
from salun.models.pretrained import load_pretrained


def build(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """Build a model with fresh weights, or with timm's pretrained ones.

    Images of at most 64 pixels: a ResNet gets a 3x3 first convolution of stride 1 and no max-pool
    (He et al., 2016, section 4.2), a VGG the 512-wide head and only as many max-pools as the image
    can take. A model of fixed input size is built for the images' size, a vision transformer with a
    patch that leaves at least 8 x 8 of them. A native model is timm's own.

    Args:
        architecture: what to build.
        pretrained: whether timm's weights are loaded; implies a native model.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        SalunError: the name is unknown, the model cannot take such images, or its pretrained weights
            cannot be had.
    """
    name, size = architecture.model, architecture.size
    check_model(name)
    if pretrained:
        return load_pretrained(architecture)
    known, state = known_options(architecture), torch.get_rng_state()
    for options in known or input_options(architecture):
        torch.set_rng_state(state)  # so that the weights do not depend on what was tried before
        try:
            with warnings.catch_warnings(action="ignore"):
                model = shaped(architecture, options)
                if not known:
                    try_out(model, architecture)
        except Exception as error:  # timm's models refuse sizes and options with errors of every kind
            refusal = error
            continue
        known[:] = [options]
        return model.train()
    reason = str(refusal).splitlines()[0] if str(refusal) else type(refusal).__name__
    raise SalunError(f"model '{name}' cannot take images of {size} x {size} pixels: {reason}") from refusal


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
    with torch.random.fork_rng(devices=[]), _Undrawn() if known_options(architecture) else nullcontext():
        return build(architecture)
