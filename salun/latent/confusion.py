"""What a model says of the samples of each class."""

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


def prediction_shares(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> _Floats:
    """Count what the samples of each class are taken for.

    Args:
        logits: (N, C).
        labels: (N,) true classes, below `classes`.
        classes: C.

    Returns:
        (C, C): in row i the share of the samples of class i that are predicted as each class, of sum 1; NaN where the
        class is empty.
    """
    return _by_class(np.eye(classes)[logits.argmax(1)], labels, classes)


def mean_confidence(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> _Floats:
    """Average the probabilities that the samples of each class are given: softmax of the logits.

    Args:
        logits: (N, C), of any size: the largest of a row is taken off before the exponential.
        labels: (N,) true classes, below `classes`.
        classes: C.

    Returns:
        (C, C): in row i the mean probability of each class over the samples of class i, of sum 1; NaN where the class
        is empty.
    """
    scores = logits.astype(np.float64)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return _by_class(powers / powers.sum(1, keepdims=True), labels, classes)


def _by_class(values: _Floats, labels: NDArray[np.int64], classes: int) -> _Floats:
    """Average rows by class."""
    means = np.full((classes, values.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = values[labels == label].mean(0)
    return means
