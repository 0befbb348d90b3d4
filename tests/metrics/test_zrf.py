from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from outputs import compared
from scipy.spatial.distance import jensenshannon

from salun.metrics import evaluate
from salun.training.evaluate import Outputs


def golden() -> tuple[torch.Tensor, torch.Tensor]:
    data = reference.arrays("bad_teacher_loss")
    return data["student_logits"], data["unlearn_teacher_logits"]


def scores(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, float]:
    labels = torch.zeros(len(student), dtype=torch.int64)
    subject = replace(compared(), forget=Outputs(student, labels), random=Outputs(teacher, labels))
    return evaluate(subject, ("ZRF", "ZRF_original"))


def test_both_forms_equal_the_original() -> None:
    student, teacher = golden()
    wanted = reference.settings("bad_teacher_loss")
    found, swapped = scores(student, teacher), scores(teacher, student)
    assert found["ZRF_original"] == pytest.approx(wanted["ZRF_student_vs_unlearn_teacher"], rel=1e-6)
    assert swapped["ZRF_original"] == pytest.approx(wanted["ZRF_swapped"], rel=1e-6)
    assert found["ZRF"] == pytest.approx(wanted["one_minus_JSDiv_times_k"], rel=1e-6)
    assert scores(student, student) == pytest.approx(
        dict.fromkeys(("ZRF", "ZRF_original"), wanted["ZRF_identical"]), abs=1e-12
    )


def test_divergence_is_jensens_and_shannons() -> None:
    p, q = (logits.double().softmax(1).numpy() for logits in golden())
    label = torch.zeros(1, dtype=torch.int64)
    found = []
    for pair in zip(*golden(), strict=True):
        one, other = (replace(compared(), forget=Outputs(logits[None], label)) for logits in pair)
        found.append(evaluate(replace(one, retrained=other), ("JS",))["JS"])
    np.testing.assert_allclose(found, jensenshannon(p, q, axis=1) ** 2, rtol=1e-6, atol=1e-12)


def told(rows: list[list[float]], labels: list[int]) -> Outputs:
    """Outputs of given probabilities."""
    return Outputs(torch.tensor(rows).log(), torch.tensor(labels))


def test_without_retraining_the_class_means_on_forget_and_unseen_images_are_compared() -> None:
    forget = told([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [1, 0]], [0, 0, 1, 2])
    test = told([[0.6, 0.4], [0.4, 0.6], [0.0, 1.0]], [0, 1, 1])
    subject = replace(compared(), forget=forget, base=replace(compared(), test=test))
    # Class 0: means (0.7, 0.3) and (0.6, 0.4); class 1: (0.2, 0.8) both times; no test image is of class 2.
    wanted = jensenshannon([0.7, 0.3], [0.6, 0.4]) ** 2 / 2
    assert evaluate(subject, ("RF_JSD",))["RF_JSD"] == pytest.approx(wanted, abs=1e-7)
    gone = replace(subject, base=replace(compared(), test=test, forgotten_test=told([[0.7, 0.3]], [0])))
    assert evaluate(gone, ("RF_JSD",))["RF_JSD"] == pytest.approx(0, abs=1e-7)
    none = replace(subject, base=replace(compared(), test=told([[1, 0]], [3])))
    assert evaluate(none, ("RF_JSD",)) == {"RF_JSD": None}
