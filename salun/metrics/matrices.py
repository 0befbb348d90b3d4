"""What a model makes of each class: shares of predictions and mean confidences, class by class."""

import numpy as np
from numpy.typing import NDArray

from salun.metrics import Detail, Evaluation, metric
from salun.metrics.fqs import Distributions, distributions
from salun.metrics.matching import together


def _on_held_out(evaluation: Evaluation) -> tuple[Distributions, NDArray[np.bool_]] | None:
    """Count and average what a model says of the test images of all classes."""
    images = together(evaluation.test, evaluation.forgotten_test)
    if not len(images.labels):
        return None
    labels = images.labels.numpy()
    present = np.bincount(labels, minlength=images.logits.shape[1]) > 0
    return distributions(images.logits.numpy(), labels), present


@metric("prediction_matrix", unit="table")
def prediction_matrix(evaluation: Evaluation) -> Detail | None:
    """Share of the test images of each class that is predicted as each class.

    Formula:
        M[g][p] = share of the images of class g whose largest logit is that of class p; a row a true class. The
        images are the test set and the test images of the forgotten classes.

    Cannot see:
        Confidence, and the images that were trained on.

    Source:
        The notebook of the seed documents (ryusudol/Model-Structure-Impact-on-Unlearning, `utils.py`).
    """
    held_out = _on_held_out(evaluation)
    if held_out is None:
        return None
    found, present = held_out
    shares: list[list[float | None]] = np.where(present[:, None], found.labels, np.nan).tolist()
    return shares


@metric("confidence_matrix", unit="table")
def confidence_matrix(evaluation: Evaluation) -> Detail | None:
    """Mean probability of each class over the test images of each class.

    Formula:
        M[g][c] = mean of p_c over the images of class g; a row a true class. The images are the test set and the
        test images of the forgotten classes.

    Cannot see:
        Spread: a few sure images and many doubtful ones may have the same mean.

    Source:
        The activation and confusion pages of gnueaj/Machine-Unlearning-Comparator.
    """
    held_out = _on_held_out(evaluation)
    if held_out is None:
        return None
    means: list[list[float | None]] = held_out[0].mean.tolist()
    return means
