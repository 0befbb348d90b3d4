"""Features: drawn ones that look like a classifier's, and those that a model computes."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.latent.features import Features, Source
from salun.metrics.hsic import layer_grams
from salun.models.features import embed


def make_features(
    count: int = 120, width: int = 16, classes: int = 4, seed: int = 0, forget: int | None = None, **source: Any
) -> Features:
    """Draw features; the samples and their labels are the same for every seed, the clouds are not."""
    labels = np.random.default_rng(7).integers(0, classes, count)
    labels[:classes] = np.arange(classes)[:count]
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 4, (classes, width))
    features = np.maximum(centres[labels] + random.normal(size=(count, width)), 0).astype(np.float32)
    described = Source(checkpoint=f"m{seed}.pt", title=f"model {seed}", model="m", dataset="d")
    marks = {} if forget is None else {"role": "unlearned", "forget": f"class {forget}", "forget_key": f"key{forget}"}
    return Features(
        features=features,
        labels=labels.astype(np.int64),
        indices=np.arange(count, dtype=np.int64),
        logits=(features @ centres.T).astype(np.float32),
        forgotten=labels == forget if forget is not None else np.zeros(count, dtype=bool),
        classes=tuple(f"class {label}" for label in range(classes)),
        prototypes=centres.astype(np.float32),
        source=replace(described, **(marks | source)),
    )


@torch.no_grad()
def features_of(model: nn.Module, images: Images) -> Tensor:
    """(N, D) float32, in evaluation mode; the model is left in the mode that it was in."""
    training = model.training
    model.eval()
    features = embed(model, images.view(images.pixels[images.rows], None))
    model.train(training)
    return features


def grams(*features: Tensor) -> Tensor:
    """The centred Gram matrices of features, as of layers that give them."""
    return torch.cat([layer_grams(nn.Sequential(nn.Identity()), ["0"], part) for part in features])
