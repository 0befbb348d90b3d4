"""Information on the forget set in the layers of a model."""

import math
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from salun.data.images import Images
from salun.errors import SalunError
from salun.metrics import Models, Value, metric
from salun.metrics.evaluation import spread
from salun.models.features import classifiers, mark_head
from salun.models.layers import default_layers, outputs_at

_BATCH = 256
_FOLDS = 3
_STEPS = 1000
_SMALLEST = 0.01

_Floats = NDArray[np.float64]


@metric("IDI", "IDI_layers", unit=("", "table"), ideal="0", cost="weights", against=("base", "retrained"), gone=True)
def information_difference_index(models: Models) -> tuple[Value, dict[str, float | None] | None]:
    """Information difference index: how much the layers tell forget from retain images, from retrained to base model.

    Formula:
        IDI = sum over layers of [I(Z; Y) - I(Zr; Y)] / sum over layers of [I(Z0; Y) - I(Zr; Y)], with Y whether an
        image is to be forgotten, and Z, Zr, Z0 the outputs of the layer in the model, the retrained and the base model:
        the stem and the blocks, without the head, averaged over places. I(Z; Y) = ln 2 - the mean cross-entropy, at
        least 0, of a logistic regression of Y on Z, each scaled to variance 1, on the thirds that it was not fitted
        to. Forget images, at most 2,000, and as many retain images, evenly spaced in the order of their indices.

    Cannot see:
        Information that no linear function of the averages holds, or that few images show. Single images: where a
        random share is forgotten, base and retrained model differ by too little to divide by.

    Returns:
        0 as retrained, 1 as the base model, below 0 where more is lost than by retraining; and I(Z; Y) of each layer in
        nats. The index is None where base and retrained model differ by less than 0.01 nats a layer.

    Source:
        Jeon et al., "An Information Theoretic Evaluation Metric for Strong Unlearning", AAAI 2026, arXiv 2405.17878,
        whose estimate of I is InfoNCE with networks as critics; the bound by a classifier is that of Barber and
        Agakov, "The IM Algorithm", NeurIPS 2003.
    """
    forget, retain = spread(models.forget), spread(models.retain)
    count = min(len(forget), len(retain))
    if count < _FOLDS:
        return None, None
    places = torch.arange(count, device=forget.device)
    sets = [images.take(places * len(images) // count) for images in (forget, retain)]
    assert models.retrained is not None
    networks = [deepcopy(network).eval() for network in (models.model, models.base, models.retrained)]
    try:
        layers = _layers_of(networks[0], next(sets[0].batches(2)).x)
    except SalunError:
        return None, None
    told = [_information(network, layers, sets, models.seed) for network in networks]
    ours, before, never = (math.fsum(found.values()) for found in told)
    if not layers or not abs(before - never) >= _SMALLEST * len(layers):
        return None, dict(told[0])
    return (ours - never) / (before - never), dict(told[0])


def _layers_of(model: nn.Module, x: Tensor) -> list[str]:
    """List the layers of a model before its head."""
    if not classifiers(model):
        mark_head(model, x)
    modules = dict(model.named_modules())
    return [name for name in default_layers(model, x) if modules[name] not in classifiers(model)]


@torch.no_grad()
def _information(model: nn.Module, layers: list[str], sets: list[Images], seed: int) -> dict[str, float]:
    """Estimate what each layer tells of which of two sets an image is from, in nats."""
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    for images in sets:
        for batch in images.batches(_BATCH):
            for name, output in outputs_at(model, layers, batch.x)[0].items():
                parts[name].append(_averaged(output).cpu().double())
    y = np.repeat([0, 1], [len(images) for images in sets])
    return {name: _mutual_information(torch.cat(part).numpy(), y, seed) for name, part in parts.items()}


def _averaged(output: Tensor) -> Tensor:
    """Average a layer's output over places: (N, C, H, W) and (N, tokens, D) become (N, C) and (N, D)."""
    return output.flatten(2).mean(2) if output.ndim > 3 else output.mean(1) if output.ndim == 3 else output


def _mutual_information(x: _Floats, y: NDArray[np.int64], seed: int) -> float:
    """Bound from below what features tell of a balanced label; NaN of features that are no numbers."""
    from sklearn.linear_model import LogisticRegression  # only now, as scikit-learn takes long to import
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not np.isfinite(x).all():
        return math.nan
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    p = cross_val_predict(probe, x, y, cv=folds, method="predict_proba")
    return max(0.0, math.log(2) - float(log_loss(y, p)))
