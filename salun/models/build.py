"""Building a model from its architecture."""

import warnings

import torch
from torch import nn

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
