"""Tug of war: how close accuracies come to the retrained model's, on all sets at once."""

import math
from collections.abc import Sequence

from salun.metrics import Evaluation, Value, metric
from salun.training.evaluate import accuracy

_SETS = ("forget", "retain", "test")


def tug_of_war(unlearned: Sequence[float], retrained: Sequence[float]) -> float:
    """Multiply what is left of 1 after each difference.

    Args:
        unlearned: fractions in [0, 1] of the unlearned model.
        retrained: the same fractions of the retrained model.

    Returns:
        The product of 1 - abs(u - r), in [0, 1]; 1 where they are equal.

    Source:
        Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024.
    """
    return math.prod(1 - abs(after - never) for after, never in zip(unlearned, retrained, strict=True))


@metric("ToW", unit="", direction="higher", ideal="1", against=("retrained",), needs=_SETS, default=True, derived=True)
def tug_of_war_of_accuracies(evaluation: Evaluation) -> Value:
    """Tug of war: product over forget, retain and test set of 1 - distance in accuracy to the retrained model.

    Formula:
        ToW = (1 - |f - f*|) (1 - |r - r*|) (1 - |t - t*|), with f, r, t the accuracies on forget, retain and test
        set, and a star for the retrained model's.

    Cannot see:
        What accuracies cannot: confidences, and which images are wrong. A gap on the forget set counts as much as
        one on the test set.

    Source:
        Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024.
    """
    assert evaluation.retrained
    return tug_of_war(*([accuracy(model.sets[name]) for name in _SETS] for model in (evaluation, evaluation.retrained)))
