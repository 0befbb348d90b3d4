"""Linear CKA between every two layers of models, each of which runs once on every batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from salun.data.images import even_sizes
from salun.latent.extraction import Model, Sample
from salun.metrics.hsic import SMALLEST_BATCH, Similarity, layer_grams
from salun.models.layers import check_layers, default_layers

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerComparison:
    """Checkpoints, their models on the device in evaluation mode, and the names of L layers that all of them have."""

    models: tuple[Model, ...]
    networks: tuple[nn.Module, ...]
    layers: list[str]
    device: torch.device

    @classmethod
    def of(
        cls, models: Sequence[Model], sample: Sample, device: torch.device, layers: Sequence[str] | None = None
    ) -> "LayerComparison":
        """Restore models of one architecture and settle which layers are compared.

        Args:
            models: the checkpoints.
            sample: images to try the layers on.
            device: where the models run.
            layers: names of modules; None for stem, blocks and head.

        Raises:
            SalunError: a checkpoint, the images or a layer are refused.
        """
        networks = tuple(model.restore(device).eval() for model in models)
        x = next(sample.images(models[0], device).batches(2)).x
        chosen = check_layers(networks[0], layers, x) if layers else default_layers(networks[0], x)
        return cls(tuple(models), networks, chosen, device)

    @torch.no_grad()
    def compare(self, sample: Sample, pairs: Sequence[tuple[int, int]], batch_size: int = 256) -> list[_Floats]:
        """Compare every layer of some models with every layer of others.

        Args:
            sample: N images.
            pairs: positions in `models`: which two are compared.
            batch_size: images a batch at most, at least 4; the images are divided evenly.

        Returns:
            (L, L) similarities of each pair, a row a layer of its first model; NaN of fewer than 4 images.

        Raises:
            SalunError: the images do not belong to a model.
        """
        if len(sample.indices) < SMALLEST_BATCH:
            return [np.full((len(self.layers), len(self.layers)), np.nan) for _ in pairs]
        sums = [Similarity() for _ in pairs]
        sizes = even_sizes(len(sample.indices), batch_size, SMALLEST_BATCH)
        views = [sample.images(model, self.device).batches(sizes) for model in self.models]
        for batches in zip(*views, strict=True):
            grams = [
                layer_grams(network, self.layers, batch.x)
                for network, batch in zip(self.networks, batches, strict=True)
            ]
            for total, (first, second) in zip(sums, pairs, strict=True):
                total.add(grams[first], grams[second])
        return [total.values() for total in sums]
