"""The Hilbert-Schmidt independence criterion of layers' outputs, and linear CKA made of it, batch by batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from salun.models.layers import outputs_at

_Floats = NDArray[np.float64]

SMALLEST_BATCH = 4


def _centred_grams(outputs: Iterable[Tensor]) -> Tensor:
    """Compute the Gram matrix of each layer's output, centred without bias, in float64 where the device has it."""
    grams = []
    for output in outputs:
        flat = (output if output.device.type in ("cpu", "cuda") else output.cpu()).flatten(1).double()
        flat = flat - flat.mean(0)
        gram = flat @ flat.T
        gram.fill_diagonal_(0)
        count, rows = len(gram), gram.sum(0)
        gram -= (rows[:, None] + rows) / (count - 2)
        gram += rows.sum() / ((count - 1) * (count - 2))
        grams.append(gram.fill_diagonal_(0))
    return torch.stack(grams)


def layer_grams(network: nn.Module, layers: Sequence[str], x: Tensor) -> Tensor:
    """Run a model once and compute the Gram matrices of its layers, centred without bias.

    Args:
        network: any model.
        layers: names of L modules.
        x: (n, C, H, W), n at least 4.

    Returns:
        (L, n, n) float64.
    """
    outputs, _ = outputs_at(network, layers, x)
    return _centred_grams(outputs[layer] for layer in layers)


def _unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Compute the unbiased estimate of HSIC between every two layers, (L, M), which may be negative."""
    count = first.shape[1]
    return first.flatten(1) @ second.flatten(1).T / (count * (count - 3))


@dataclass
class Similarity:
    """CKA between every layer of one model and every layer of another, over the batches seen so far."""

    cross: _Floats | float = 0.0  # (L, M) sum over the batches of HSIC between the layers of the two models
    first: _Floats | float = 0.0  # (L,) the same of each layer of the first model with itself
    second: _Floats | float = 0.0  # (M,) likewise of the second

    def add(self, first: Tensor, second: Tensor) -> None:
        """Take a batch into account; every batch counts alike, so that they should be of one size.

        Args:
            first: (L, n, n), as `layer_grams` gives them.
            second: (M, n, n), of the same images.
        """
        self.cross = self.cross + _unbiased_hsic(first, second).cpu().numpy()
        self.first = self.first + np.diag(_unbiased_hsic(first, first).cpu().numpy())
        self.second = self.second + np.diag(_unbiased_hsic(second, second).cpu().numpy())

    def values(self) -> _Floats:
        """Divide the sums.

        Returns:
            (L, M), 1 of a layer with itself; unrelated layers may be below 0; NaN where outputs are all alike.

        Source:
            Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equation 3.
        """
        own = np.sqrt(np.multiply.outer(self.first, self.second))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(own > 0, self.cross / own, np.nan), dtype=np.float64)
