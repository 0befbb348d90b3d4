from dataclasses import replace

import numpy as np
import pytest
import torch
from outputs import CLASS_WISE, compared, model

from salun.metrics import Evaluation, evaluate
from salun.training.evaluate import Outputs

APART = ("disagreement", "disagreement_test", "activation_distance", "confidence_distance", "confidence_difference")


def said(probabilities: list[list[float]]) -> Outputs:
    return Outputs(torch.tensor(probabilities).log(), torch.zeros(len(probabilities), dtype=torch.int64))


def pair(ours: list[list[float]], theirs: list[list[float]]) -> Evaluation:
    """Two models that say this of every set."""
    names = ("forget", "validation", "test", "forgotten_test")
    models = [replace(model(), **{name: said(values) for name in names}) for values in (ours, theirs)]
    return replace(models[0], retrained=models[1])


def test_definitions() -> None:
    found = evaluate(pair([[0.7, 0.3], [0.2, 0.8]], [[0.4, 0.6], [0.1, 0.9]]), (*APART, "completeness"))
    assert found == pytest.approx(
        {
            "disagreement": 0.5,
            "disagreement_test": 0.5,
            "completeness": 0.5,
            "activation_distance": np.sqrt(2) * (0.3 + 0.1) / 2,
            "confidence_distance": 0.2,
            "confidence_difference": 0.2,
        },
        rel=1e-6,
    )


def test_equal_distributions_may_differ_image_by_image() -> None:
    found = evaluate(pair([[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]]), APART)
    assert found["confidence_distance"] == pytest.approx(0, abs=1e-7)
    assert found["confidence_difference"] == pytest.approx(0.7)


def test_completeness_looks_at_all_held_out_images() -> None:
    subject = compared(sizes=CLASS_WISE)
    assert subject.retrained
    held_out = {name: getattr(subject.retrained, name) for name in ("validation", "test", "forgotten_test")}
    assert evaluate(replace(subject, **held_out), ("completeness",)) == {"completeness": 1}
    for name in held_out:
        others = {other: outputs for other, outputs in held_out.items() if other != name}
        assert evaluate(replace(subject, **others), ("completeness",))["completeness"] < 1
