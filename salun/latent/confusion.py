"""What a model says of the samples of each class."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

_Floats = NDArray[np.float64]


def prediction_shares(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> _Floats:
    """Count what the samples of each class are taken for.

    Args:
        logits: (N, C).
        labels: (N,) true classes, below `classes`.
        classes: C.

    Returns:
        (C, C): in row i what share of class i is predicted as each class; NaN where the class is empty.
    """
    return _by_class(np.eye(classes)[logits.argmax(1)], labels, classes)


def mean_confidence(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> _Floats:
    """Average the probabilities that the samples of each class are given: softmax of the logits.

    Args:
        logits: (N, C), however large.
        labels: (N,) true classes, below `classes`.
        classes: C.

    Returns:
        (C, C): in row i the mean probability of each class over class i; NaN where the class is empty.
    """
    return _by_class(softmax(logits.astype(np.float64), axis=1), labels, classes)


def _by_class(values: _Floats, labels: NDArray[np.int64], classes: int) -> _Floats:
    """Average rows by class."""
    means = np.full((classes, values.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = values[labels == label].mean(0)
    return means
