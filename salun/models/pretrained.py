"""Pretrained weights of timm."""

import urllib.error
from typing import cast
from urllib.request import Request, urlopen

from torch import nn

from salun.errors import SalunError
from salun.models.architecture import TINY, Architecture

_HUB_TIMEOUT = 10.0
_BUSY = (408, 429, 500, 502, 503, 504)


def load_pretrained(architecture: Architecture) -> nn.Module:
    """Build a model with timm's pretrained weights and a new head.

    Args:
        architecture: a native one.

    Returns:
        The model.

    Raises:
        SalunError: there are no such weights, or they cannot be fetched.
    """
    name = architecture.model
    if name == TINY:
        raise SalunError(f"model '{TINY}': has no pretrained weights; leave --pretrained out")
    try:
        import timm  # here and below only on need: it takes more than a second

        _reach_weights(name)
        model = timm.create_model(
            name, pretrained=True, num_classes=architecture.classes, in_chans=architecture.channels
        )
        return cast(nn.Module, model)
    except Exception as error:  # the hub's client and the decoders of files raise errors of every kind
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        remedy = "without --pretrained the model starts from fresh weights"
        raise SalunError(f"model '{name}': pretrained weights cannot be had ({reason}); {remedy}") from error


def _reach_weights(name: str) -> None:
    """Make sure that pretrained weights are here, or that the host that holds them answers."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or constants.HF_HUB_OFFLINE:
        return
    file = config.hf_hub_filename or "model.safetensors"
    if isinstance(try_to_load_from_cache(config.hf_hub_id, file), str):
        return
    request = Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the client's own setting
    try:
        urlopen(request, timeout=_HUB_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code in _BUSY:
            raise


def pretrained_size(name: str) -> int:
    """Tell the input size of a model's pretrained weights.

    Args:
        name: a timm name.

    Returns:
        Side in pixels.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else 224
