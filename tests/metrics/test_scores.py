"""Attacks compute their features of the images alone that they look at."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from outputs import outputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from salun.metrics import Evaluation, evaluate
from salun.metrics.scores import (
    correctness,
    entropy,
    evenly_spaced,
    losses,
    margins,
    modified_entropy,
    probabilities,
    true_confidence,
)
from salun.training.evaluate import Outputs

CLASSES, MANY, FEW = 50, 4000, 60
FEATURES = [correctness, entropy, losses, margins, modified_entropy, probabilities, true_confidence]
ATTACKS = ("MIA", "MIA_correctness", "MIA_entropy", "MIA_m_entropy", "MIA_probability", "simple_MIA", "forest_acc")

drawn = partial(outputs, classes=CLASSES)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_of_some_images_is_that_of_all_cut(feature: Any) -> None:
    held, rows = drawn(MANY), np.linspace(0, MANY - 1, FEW).astype(int)
    every = feature(held)
    assert np.array_equal(feature(held.take(slice(FEW))), every[:FEW])
    assert np.array_equal(feature(evenly_spaced(held, FEW)), every[rows])


class Largest(TorchDispatchMode):
    """Keeps the bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


def test_attacks_hold_no_more_than_the_images_that_they_look_at() -> None:
    retain, test, forget = (Outputs(held.logits, held.labels) for held in map(drawn, (MANY, FEW, FEW)))
    subject = Evaluation(forget, retain, validation=test, test=test, forgotten_test=test)
    with Largest() as largest:
        found = evaluate(subject, ATTACKS)
    assert all(found[name] is not None for name in ATTACKS)
    assert 0 < largest.bytes <= 4 * FEW * CLASSES
