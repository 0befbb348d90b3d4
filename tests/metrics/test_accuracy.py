import pytest
import torch

from salun.errors import SalunError
from salun.metrics import METRICS, Evaluation, evaluate
from salun.training import Outputs


def outputs(right: int, wrong: int) -> Outputs:
    logits = torch.zeros(right + wrong, 3)
    logits[:right, 1] = 1
    logits[right:, 2] = 1
    return Outputs(logits, torch.ones(right + wrong, dtype=torch.int64))


def evaluation(forgotten: Outputs) -> Evaluation:
    return Evaluation(outputs(1, 3), outputs(9, 1), outputs(3, 1), outputs(4, 1), forgotten, seconds=2.5)


def test_definitions() -> None:
    values = evaluate(evaluation(outputs(1, 1)), ("UA", "RA", "VA", "TA", "TUA", "RTE"))
    expected = {"UA": 0.75, "RA": 0.9, "VA": 0.75, "TA": 0.8, "TUA": 0.5, "RTE": 2.5}
    assert values == pytest.approx(expected, abs=1e-7)


def test_no_value_where_it_does_not_apply() -> None:
    assert evaluate(evaluation(outputs(0, 0)), ("TUA",)) == {"TUA": None}


def test_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SalunError, match=r"'TUAA'.*'TUA'"):
        evaluate(evaluation(outputs(1, 0)), ("TUAA",))


def test_every_metric_says_when_it_is_good() -> None:
    evaluate(evaluation(outputs(1, 1)), ("UA",))
    default = {"UA", "RA", "VA", "TA", "TUA", "MIA", "forest_acc", "forest_auc", "RTE"}
    assert {name for name, metric in METRICS.items() if metric.default} == default
    assert set(METRICS) == default | {"seed_forest_acc", "seed_forest_auc"}
    for metric in METRICS.values():
        assert metric.summary.endswith(".")
        assert metric.ideal
