"""Exact t-SNE with tensors, for a GPU."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EXAGGERATION = 12.0
_EXAGGERATED = 250
_STEPS = 500
_BISECTIONS = 60


def exact_tsne(
    points: NDArray[np.float32], dimensions: int, perplexity: float, seed: int, device: str
) -> NDArray[np.float64]:
    """Embed points by gradient descent on the exact Kullback-Leibler divergence.

    Starts from the principal components, with the learning rate N / exaggeration and momentum 0.5, then
    0.8, as the usual implementations do; no approximation of neighbours or of forces. Memory: 16 N^2 bytes.

    Args:
        points: (N, D), compared by Euclidean distance.
        dimensions: of the embedding.
        perplexity: effective number of neighbours.
        seed: of the start.
        device: where it is computed.

    Returns:
        (N, dimensions).

    Source:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008, equations 1 to 5; Belkina et
        al., Nature Communications 2019, for the learning rate.
    """
    x = torch.from_numpy(points).to(device)
    p = joint_probabilities(torch.cdist(x, x).square(), perplexity)
    centred = x - x.mean(0)
    generator = torch.Generator(device).manual_seed(seed)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    y = centred @ axes[:dimensions].T
    if y.shape[1] < dimensions:
        y = torch.cat([y, torch.zeros(len(y), dimensions - y.shape[1], device=device)], 1)
    y = y / y[:, 0].std().clamp_min(1e-12) * 1e-4
    y = y + 1e-6 * torch.randn(y.shape, generator=generator, device=device)
    rate = max(len(x) / _EXAGGERATION, 50.0)
    y = _descend(y, p * _EXAGGERATION, _EXAGGERATED, rate, 0.5)
    return _descend(y, p, _STEPS, rate, 0.8).double().cpu().numpy()


def joint_probabilities(squared: Tensor, perplexity: float) -> Tensor:
    """Find the bandwidth of each point by bisection, and make the neighbour probabilities symmetric.

    Args:
        squared: (N, N) squared distances.
        perplexity: of each row.

    Returns:
        (N, N), summing to 1, the diagonal 0.
    """
    count = len(squared)
    low = torch.zeros(count, 1, device=squared.device)
    high = torch.full_like(low, torch.inf)
    scale = torch.ones_like(low)
    nearest = squared.clone().fill_diagonal_(torch.inf).amin(1, keepdim=True)
    shifted = (squared - nearest).fill_diagonal_(torch.inf)
    for _ in range(_BISECTIONS):
        rows = torch.softmax(-shifted * scale, 1)
        entropy = -(rows * rows.clamp_min(1e-30).log()).sum(1, keepdim=True)
        narrow = entropy > np.log(perplexity)
        low, high = torch.where(narrow, scale, low), torch.where(narrow, high, scale)
        scale = torch.where(high.isinf(), scale * 2, (low + high) / 2)
    rows = torch.softmax(-shifted * scale, 1)
    return (rows + rows.T) / (2 * count)


def _descend(y: Tensor, p: Tensor, steps: int, rate: float, momentum: float) -> Tensor:
    """Take steps of gradient descent with gains for each coordinate."""
    speed, gains = torch.zeros_like(y), torch.ones_like(y)
    for _ in range(steps):
        near = 1 / (1 + torch.cdist(y, y).square())
        near.fill_diagonal_(0)
        pull = (p - near / near.sum()) * near
        gradient = 4 * (pull.sum(1, keepdim=True) * y - pull @ y)
        turned = gradient.sign() != speed.sign()
        gains = torch.where(turned, gains + 0.2, gains * 0.8).clamp_min(0.01)
        speed = momentum * speed - rate * gains * gradient
        y = y + speed
        y = y - y.mean(0)
    return y
