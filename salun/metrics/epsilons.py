"""How surely models are told apart by an image: the epsilons and points of the NeurIPS 2023 unlearning challenge."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from salun.training.evaluate import Outputs

_Floats = NDArray[np.float64]
_Singles = NDArray[np.float32]
_Counts = NDArray[np.int64]

_DELTA = 1e-5
_LARGEST = 50.0
_PER_UNIT = 100
_BUFFER = 2.0
_NARROW = 0.01
_SMALLEST = 1e-45
_BIN = 0.5


def scaled_confidence(outputs: Outputs) -> _Floats:
    """Compute ln p_y - ln sum over c != y of p_c, each with 1e-45 added, in float64.

    Args:
        outputs: logits (N, C) and labels (N,).

    Returns:
        (N,) float64; about -103 and 103 at the ends.
    """
    p = outputs.logits.double().softmax(1).numpy()
    rows, labels = np.arange(len(p)), outputs.labels.numpy()
    own = p[rows, labels].copy()
    p[rows, labels] = 0
    return np.asarray(np.log(own + _SMALLEST) - np.log(p.sum(1) + _SMALLEST))


def _epsilon_table(positives: int, negatives: int) -> _Singles:
    """Compute the epsilon of every pair of error counts, in float32 as the challenge's code does."""
    fpr = (np.arange(negatives + 1, dtype=np.float32) / np.float32(negatives))[:, None]
    fnr = (np.arange(positives + 1, dtype=np.float32) / np.float32(positives))[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = np.log(1 - _DELTA - fpr) - np.log(fnr), np.log(1 - _DELTA - fnr) - np.log(fpr)
        table = np.maximum(np.fmax(*ways), np.float32(0))
    table[np.isnan(table)] = -np.inf
    table[0, :] = table[:, 0] = -np.inf
    table[0, 0] = np.inf
    return np.asarray(table, dtype=np.float32)


def _by_one_threshold(positives: _Floats, negatives: _Floats) -> tuple[_Counts, _Counts]:
    """Count the errors of calling an image's values positive from a threshold on."""
    start, stop = min(positives[0], negatives[0]), max(positives[-1], negatives[-1])
    steps = math.ceil((stop - start) * _PER_UNIT)
    # Float32, as in the challenge's code: the greatest threshold may so lie above or below the greatest value.
    thresholds = torch.linspace(float(start), float(stop), steps, dtype=torch.float32).numpy().astype(np.float64)
    below = [np.searchsorted(values, thresholds, side="left") for values in (negatives, positives)]
    return len(negatives) - below[0], below[1]


def _reached_numbers(grids: _Floats, values: _Floats) -> NDArray[np.bool_]:
    """Tell how many values can lie below a point of a grid."""
    rows = torch.from_numpy(values).expand(len(grids), -1).contiguous()
    # Where each grid first exceeds each value: from there on, one more value lies below.
    first = torch.searchsorted(torch.from_numpy(grids), rows, right=True).numpy()
    return np.asarray(np.diff(first, axis=1, prepend=0, append=grids.shape[1]) > 0)


def _by_two_thresholds(positives: _Floats, negatives: _Floats) -> tuple[_Counts, _Counts]:
    """Count the errors of calling an image's values positive between two thresholds."""
    width = positives[-1] - positives[0]
    start, stop = positives[0] + width - _BUFFER, positives[-1] + _BUFFER
    right = np.linspace(start, stop, math.ceil((stop - start) * _PER_UNIT))
    left = np.linspace(right - width - _BUFFER, right - width + _BUFFER, math.ceil(2 * _BUFFER * _PER_UNIT))
    values = np.concatenate([positives, negatives])
    order = values.argsort(kind="stable")
    reached = _reached_numbers(left.T.copy(), values[order])
    negatives_below = np.concatenate([[0], np.cumsum(order >= len(positives))])
    below = np.arange(len(values) + 1) - negatives_below, negatives_below
    inside = [
        np.maximum(np.searchsorted(kind, right, side="right")[:, None] - under, 0)[reached]
        for kind, under in zip((positives, negatives), below, strict=True)
    ]
    return inside[1], len(positives) - inside[0]


def _epsilon(positives: _Floats, negatives: _Floats, table: _Singles, swapped: _Singles) -> float:
    """Find how surely the best rule tells two kinds of model apart by their confidence in one image."""
    ranges = positives[-1] - positives[0], negatives[-1] - negatives[0]
    if max(ranges) > 0 and min(ranges) / max(ranges) < _NARROW:
        return _LARGEST
    found = [table[_by_one_threshold(positives, negatives)]]
    if ranges[0] >= ranges[1]:
        found.append(swapped[_by_two_thresholds(negatives, positives)])
    else:
        found.append(table[_by_two_thresholds(positives, negatives)])
    return float(np.clip(max(values.max(initial=-np.inf) for values in found), 0, _LARGEST))


def epsilons(unlearned: _Floats, retrained: _Floats) -> _Floats:
    """Find for each image how surely the best rule tells unlearned from retrained models by its confidence.

    Args:
        unlearned: (K, N) finite scaled confidences.
        retrained: (L, N) likewise.

    Returns:
        (N,) in [0, 50].

    Source:
        google-deepmind/unlearning_evaluation, `metric.py`; Triantafillou et al., "Are we making progress in
        unlearning? Findings from the first NeurIPS unlearning competition", arXiv 2406.09073.
    """
    tables = _epsilon_table(len(unlearned), len(retrained)), _epsilon_table(len(retrained), len(unlearned))
    after, never = (np.sort(values.astype(np.float64), axis=0).T.copy() for values in (unlearned, retrained))
    larger = np.median(retrained, axis=0) > np.median(unlearned, axis=0)
    return np.array(
        [
            _epsilon(theirs, ours, *tables[::-1]) if swap else _epsilon(ours, theirs, *tables)
            for ours, theirs, swap in zip(after, never, larger, strict=True)
        ],
        dtype=np.float64,
    )


def points(found: _Floats, models: int) -> _Floats:
    """Give each image its points: halved with every half unit of epsilon, none from the cap on.

    Args:
        found: (N,) epsilons.
        models: of each kind; the cap is the logarithm of one less, rounded up.

    Returns:
        (N,) in [0, 1].
    """
    cap = math.ceil(math.log(models - 1))
    return np.where(found < cap, 0.5 ** np.floor(found / _BIN), 0.0)
