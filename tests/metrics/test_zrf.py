import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from fabricated import compared
from scipy.spatial.distance import jensenshannon

from salun.metrics import Evaluation, check_metrics, evaluate
from salun.metrics.zrf import jensen_shannon, zero_retrain_forgetting
from salun.training.evaluate import Outputs


def golden() -> tuple[torch.Tensor, torch.Tensor]:
    data = reference.arrays("bad_teacher_loss")
    return data["student_logits"], data["unlearn_teacher_logits"]


@pytest.mark.parametrize("way", [1, -1], ids=["as given", "swapped"])
def test_the_original_form_equals_the_original(way: int) -> None:
    wanted = reference.settings("bad_teacher_loss")["ZRF_swapped" if way < 0 else "ZRF_student_vs_unlearn_teacher"]
    assert zero_retrain_forgetting(*golden()[::way], variant="original") == pytest.approx(wanted, rel=1e-6)


def test_the_corrected_form_equals_the_corrected_figure() -> None:
    wanted = reference.settings("bad_teacher_loss")["one_minus_JSDiv_times_k"]
    assert zero_retrain_forgetting(*golden()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("variant", ["corrected", "original"])
def test_equal_predictions_have_1(variant: str) -> None:
    student, _ = golden()
    wanted = reference.settings("bad_teacher_loss")["ZRF_identical"]
    assert zero_retrain_forgetting(student, student, variant) == pytest.approx(wanted, abs=1e-12)


def test_the_metrics_are_both_forms_on_the_forget_set() -> None:
    student, teacher = golden()
    labels = torch.zeros(len(student), dtype=torch.int64)
    subject = replace(compared(), forget=Outputs(student, labels), random=Outputs(teacher, labels))
    wanted = reference.settings("bad_teacher_loss")
    assert evaluate(subject, ("ZRF", "ZRF_original")) == pytest.approx(
        {"ZRF": wanted["one_minus_JSDiv_times_k"], "ZRF_original": wanted["ZRF_student_vs_unlearn_teacher"]}, rel=1e-6
    )


def test_the_original_form_is_computed_only_where_it_is_named() -> None:
    assert "ZRF" in check_metrics(("all",))
    assert "ZRF_original" not in check_metrics(("all",))
    assert check_metrics(("ZRF_original",)) == ("ZRF_original",)


def test_divergence_is_jensens_and_shannons() -> None:
    first, second = golden()
    p, q = (logits.double().softmax(1).numpy() for logits in (first, second))
    wanted = jensenshannon(p, q, axis=1) ** 2
    np.testing.assert_allclose(jensen_shannon(first, second), wanted, rtol=1e-6, atol=1e-12)


def test_divergence_to_retrained_lies_between_none_and_ln_2() -> None:
    subject = compared()
    assert subject.retrained
    same = replace(subject, forget=subject.retrained.forget)
    assert evaluate(same, ("JS",)) == {"JS": pytest.approx(0, abs=1e-12)}
    assert 0 < evaluate(subject, ("JS",))["JS"] < math.log(2)
    sure, other = torch.eye(2).repeat(5, 1) * 200, torch.eye(2).flip(0).repeat(5, 1) * 200
    labels = torch.zeros(10, dtype=torch.int64)
    apart = Evaluation(**vars(subject) | {"forget": Outputs(sure, labels)})
    apart = replace(apart, retrained=replace(subject.retrained, forget=Outputs(other, labels)))
    assert evaluate(apart, ("JS",))["JS"] == pytest.approx(math.log(2))
