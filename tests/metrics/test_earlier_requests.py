from dataclasses import replace

import pytest
from outputs import model, of_accuracy

from salun.metrics import evaluate

NAMES = ("UA_earlier", "UA_by_request", "RTE_total", "passes_total")


def test_earlier_forget_sets_count_by_their_images_and_cost_adds_up() -> None:
    given = {"earlier": (of_accuracy(1, 3), of_accuracy(6, 0)), "earlier_seconds": 4.0, "earlier_passes": 100}
    values = evaluate(replace(model(), **given), NAMES)
    assert values["UA_earlier"] == pytest.approx(0.3)
    assert values["UA_by_request"] == pytest.approx({"1": 0.75, "2": 0.0})
    assert (values["RTE_total"], values["passes_total"]) == (5.5, 4100)


def test_a_first_request_has_none_before_it_and_a_base_model_no_cost() -> None:
    assert evaluate(replace(model(), earlier=()), NAMES) == dict.fromkeys(NAMES)
    found = evaluate(replace(model(), seconds=None, passes=None), NAMES)
    assert found["UA_earlier"] is not None
    assert found["RTE_total"] is found["passes_total"] is None
