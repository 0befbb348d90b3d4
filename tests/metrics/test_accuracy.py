from dataclasses import replace

import pytest
import torch
from hostile import refuses
from outputs import compared, of_accuracy

from salun.metrics import GAP_METRICS, METRICS, Evaluation, check_metrics, evaluate, load_metrics
from salun.training.evaluate import Outputs


def evaluation(forgotten: Outputs) -> Evaluation:
    return Evaluation(
        of_accuracy(1, 3), of_accuracy(9, 1), of_accuracy(3, 1), of_accuracy(4, 1), forgotten, seconds=2.5
    )


def test_definitions() -> None:
    values = evaluate(evaluation(of_accuracy(1, 1)), ("UA", "RA", "VA", "TA", "TUA", "RTE"))
    expected = {"UA": 0.75, "RA": 0.9, "VA": 0.75, "TA": 0.8, "TUA": 0.5, "RTE": 2.5}
    assert values == pytest.approx(expected, abs=1e-7)


def test_unknown_metric_is_refused_with_the_nearest_name() -> None:
    refuses(r"'TUAA'.*'TUA'", lambda: evaluate(evaluation(of_accuracy(1, 0)), ("TUAA",)))
    refuses(r"'attack': unknown.*'attacks'", lambda: check_metrics(("attack",)))


def test_default_metrics_are_cheap_and_those_that_a_table_needs() -> None:
    load_metrics()
    default = {name: found for name, found in METRICS.items() if found.default}
    assert set(default) == {"UA", "RA", "VA", "TA", "TUA", "MIA", "RTE", "passes", "FQS", "JS", "ToW"}
    assert set(GAP_METRICS) < set(default)
    assert [name for name, found in default.items() if found.cost != "free"] == ["MIA"]


def test_sets_of_metrics() -> None:
    attacks = set(check_metrics(("attacks",)))
    assert {"MIA", "MIA_entropy", "forest_acc", "simple_MIA", "RMIA_auc"} < attacks
    assert {METRICS[name].cost for name in attacks} == {"attack"}
    gone = set(check_metrics(("gone",)))
    assert {"probe_forget", "IDI", "relearn_time", "relearn_few", "barrier_base", "RF_JSD", "Apollo_under"} < gone
    assert gone == {name for name, found in METRICS.items() if found.gone}
    everything = set(check_metrics(("all",)))
    assert attacks | gone | set(check_metrics(("default",))) < everything
    assert set(METRICS) - everything == {name for name in METRICS if name.endswith("_original")}
    assert check_metrics(("UA", "attacks", "UA"))[0] == "UA"
    assert check_metrics(("ZRF_original",)) == ("ZRF_original",)


def test_corrected_accuracy_is_that_on_the_classes_that_the_forget_labels_name() -> None:
    forget = Outputs(torch.eye(4)[[0, 1]], torch.tensor([0, 1]))
    # Right of classes 0 and 1: two of three; of class 2, none.
    test = Outputs(torch.eye(4)[[0, 1, 0, 3, 3]], torch.tensor([0, 1, 1, 2, 2]))
    subject = replace(compared(), forget=forget, test=test)
    assert evaluate(subject, ("corrected_accuracy",)) == {"corrected_accuracy": pytest.approx(2 / 3)}
    gone = replace(subject, test=Outputs(test.logits[3:], test.labels[3:]))
    assert evaluate(gone, ("corrected_accuracy",)) == {"corrected_accuracy": None}
    gone = replace(gone, forgotten_test=Outputs(test.logits[:2], test.labels[:2]))
    assert evaluate(gone, ("corrected_accuracy",)) == {"corrected_accuracy": 1}
