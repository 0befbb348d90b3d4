"""Outputs side by side: several models on the same images, sets put together, sets of the same classes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from salun.errors import SalunError
from salun.metrics.evaluation import Evaluation
from salun.training.evaluate import Outputs

_Floats = NDArray[np.float64]


def check_same_images(name: str, first: Outputs, *others: Outputs) -> None:
    """Check that rows of several models' outputs belong to the same images.

    Args:
        name: of the set.
        first: outputs of one model.
        others: of the other models.

    Raises:
        SalunError: numbers, indices or labels differ.
    """
    for other in others:
        if len(other.labels) != len(first.labels):
            raise SalunError(
                f"outputs on the {name} set: {len(first.labels)} images of one model and {len(other.labels)} of the "
                "other; both must be evaluated on the same images"
            )
        known = first.indices is not None and other.indices is not None
        same = torch.equal(first.indices, other.indices) if known else True  # type: ignore[arg-type]
        if not same or not torch.equal(first.labels, other.labels):
            raise SalunError(
                f"outputs on the {name} set: the rows of the two models are of different images; "
                "both must be evaluated on the same images"
            )


def together(*parts: Outputs) -> Outputs:
    """Put sets together.

    Args:
        parts: outputs of one model; empty ones are left out.

    Returns:
        Their logits and labels in that order; indices only where all parts know them.
    """
    held = [part for part in parts if len(part.labels)]
    if not held:
        return parts[0]
    indices = [part.indices for part in held if part.indices is not None]
    return Outputs(
        torch.cat([part.logits for part in held]),
        torch.cat([part.labels for part in held]),
        torch.cat(indices) if len(indices) == len(held) else None,
    )


def unseen(evaluation: Evaluation) -> Outputs:
    """Choose the images that an attack takes for ones like the forgotten that were never trained on.

    Args:
        evaluation: a model's outputs.

    Returns:
        The test images of the forgotten classes, where an attack would else tell classes apart, or the test set.
    """
    return evaluation.forgotten_test if len(evaluation.forgotten_test.labels) else evaluation.test


def on_forget(runs: Sequence[Evaluation], measure: Callable[[Outputs], NDArray[np.floating]]) -> _Floats:
    """Measure the forget images in several models.

    Args:
        runs: the models' outputs.
        measure: gives one number an image.

    Returns:
        (models, N) float64.
    """
    return np.stack([np.asarray(measure(run.forget), dtype=np.float64) for run in runs])


def enough(unlearned: Sequence[Evaluation], retrained: Sequence[Evaluation], fewest: int) -> bool:
    """Tell whether there are enough models with a forget set to compare the two kinds.

    Args:
        unlearned: unlearned models' outputs.
        retrained: retrained models' outputs.
        fewest: models of each kind.

    Returns:
        Whether there are.

    Raises:
        SalunError: the models' forget images differ.
    """
    if min(len(unlearned), len(retrained)) < fewest:
        return False
    first, *others = (run.forget for run in (*unlearned, *retrained))
    check_same_images("forget", first, *others)
    return len(first.labels) > 0
