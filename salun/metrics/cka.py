"""Similarity of a model's layers to those of the base model and of the retrained one."""

import math
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from salun.data.images import Images, even_sizes
from salun.errors import SalunError
from salun.metrics import Models, Value, metric
from salun.metrics.evaluation import spread
from salun.metrics.hsic import SMALLEST_BATCH, Similarity, layer_grams
from salun.models.layers import default_layers

_BATCH = 256

_Layered = tuple[Value, dict[str, float | None] | None]


@metric("CKA_base", "CKA_base_layers", unit=("", "table"), cost="weights", against=("base",), revised="0.2.0")
def similarity_to_base(models: Models) -> _Layered:
    """Linear CKA between the model's layers and the base model's on the forget images: in the mean, layer by layer.

    Formula:
        For each of the stem, the blocks and the head: CKA = sum over the batches of HSIC(K, L) / sqrt(sum of
        HSIC(K, K) * sum of HSIC(L, L)), with HSIC the unbiased estimate and K, L the products of the layer's outputs
        for every two images, in the one model and in the other; the value is the mean over the layers. At most 2,000
        forget images, evenly spaced in the order of their indices, in batches of at most 256 whose sizes
        differ by 1 at most.

    Cannot see:
        What rotates or scales a layer's outputs as a whole; which layers differ (see `CKA_base_layers`); what the
        retain images give.

    Returns:
        The mean, at most 1, and the value of each layer by its name, None where its outputs are all alike.

    Source:
        Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equation 3; linear CKA by
        Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    return _similarity(models.model, models.base, models.forget)


@metric(
    "CKA_retrained", "CKA_retrained_layers", unit=("", "table"), direction="higher", ideal="1", cost="weights",
    against=("retrained",), revised="0.2.0",
)  # fmt: skip
def similarity_to_retrained(models: Models) -> _Layered:
    """Linear CKA between the model's layers and the retrained model's on the forget images: mean, layer by layer.

    Formula:
        As `CKA_base`, with the retrained model in the place of the base model.

    Cannot see:
        How near two retrained models of different seeds would be, which is less than 1: compare with that where
        there are several. Otherwise what `CKA_base` cannot.

    Returns:
        The mean, at most 1, good when high, and the value of each layer by its name.

    Source:
        As `CKA_base`.
    """
    assert models.retrained is not None
    return _similarity(models.model, models.retrained, models.forget)


@torch.no_grad()
def _similarity(model: nn.Module, other: nn.Module, images: Images) -> _Layered:
    """Compare the same layers of two models of one architecture."""
    if len(images) < SMALLEST_BATCH:
        return None, None
    images = spread(images)
    # Copies, because a model may hold parts in training and parts in evaluation mode, which must stay so.
    networks = [deepcopy(network).eval() for network in (model, other)]
    try:
        layers = default_layers(networks[0], next(images.batches(2)).x)
    except SalunError:
        return None, None
    total = Similarity()
    for batch in images.batches(even_sizes(len(images), _BATCH, SMALLEST_BATCH)):
        total.add(*(layer_grams(network, layers, batch.x) for network in networks))
    values = np.diag(total.values()).tolist()
    defined = [value for value in values if math.isfinite(value)]
    if not defined:
        return None, None
    by_layer = {layer: value if math.isfinite(value) else None for layer, value in zip(layers, values, strict=True)}
    return math.fsum(defined) / len(defined), by_layer
