from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from numpy.typing import NDArray
from outputs import CLASS_WISE, model

from salun.metrics import evaluate
from salun.metrics.fqs import (
    Attack,
    comparator_attacks,
    comparator_fqs,
    distributions,
    notebook_attacks,
    notebook_fqs,
    notebook_pa,
    notebook_values,
    retained_accuracy,
    tempered_entropy,
    top_confidence,
    two_decimals,
)
from salun.training.evaluate import Outputs

CASES = ["close", "far", "identical", "separated"]


def golden(name: str) -> dict[str, NDArray[np.float64]]:
    return {key: value.numpy() for key, value in reference.arrays(name).items()}


def drawn(count: int, classes: int, seed: int, scale: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(count, classes)) * scale).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_values_of_images_equal_the_comparators(case: str) -> None:
    data = golden(f"fqs_comparator_{case}")
    for kind in ("unlearn", "retrain"):
        logits = data[f"{kind}_logits"]
        for name, measure in (("entropy", tempered_entropy), ("confidence", top_confidence)):
            found, wanted = measure(logits), data[f"{kind}_{name}_raw"]
            # Processors round float32 exponentials differently, which 1 - q enlarges where q is near 1 and not 1.
            near_one = (name == "confidence") & (wanted < 17)
            unsure = 1e-6 * (1 + np.abs(wanted)) + near_one * 2.0**-22 * np.exp(np.minimum(wanted, 17))
            assert (np.abs(found - wanted) <= unsure).all()
            clear = np.abs(100 * wanted % 1 - 0.5) > 100 * unsure
            assert (two_decimals(found) == data[f"{kind}_{name}"])[clear].all()
            assert name == "confidence" or clear.mean() > 0.9


@pytest.mark.parametrize("case", CASES)
def test_attacks_equal_the_comparators(case: str) -> None:
    data = golden(f"fqs_comparator_{case}")
    wanted = reference.settings("fqs_comparator")[case]
    found = comparator_attacks(data["unlearn_logits"], data["retrain_logits"])
    assert comparator_fqs(found) == wanted["FQS"]
    assert set(found) == set(wanted["best_attack"])
    for name, attack in found.items():
        assert attack.score.max() == wanted["best_attack"][name]
        for column in ("threshold", "fpr", "fnr"):
            assert (getattr(attack, column) == data[f"{name}/{column}"]).all()
        assert (attack.score == data[f"{name}/attack_score"]).all()
    for name, attack in comparator_attacks(data["unlearn_logits"], data["retrain_logits"], decimals=15).items():
        np.testing.assert_allclose(attack.score, data[f"{name}/attack_score_unrounded"], rtol=1e-9, atol=1e-12)


def test_scores_lie_between_that_of_a_model_against_itself_and_of_sure_against_doubtful_ones() -> None:
    first, second, sure, doubtful = (drawn(80, 7, seed, scale) for seed, scale in enumerate((2.0, 3.0, 100.0, 0.01)))
    assert comparator_fqs(comparator_attacks(first, first)) == 1
    assert comparator_fqs(comparator_attacks(sure, doubtful)) == 0
    assert comparator_fqs(comparator_attacks(first, second)) == comparator_fqs(comparator_attacks(second, first))


def notebook(name: str = "fqs_notebook") -> tuple[dict[str, NDArray[np.float64]], dict[str, Attack], NDArray[np.bool_]]:
    data = golden(name)
    forgotten = data["subset_labels"] == reference.settings(name)["FC"]
    return data, notebook_attacks(*notebook_values(data["subset_logits"]), forgotten), forgotten


def test_scores_equal_the_notebooks() -> None:
    data, attacks, forgotten = notebook()
    wanted = reference.settings("fqs_notebook")
    entropies, confidences = notebook_values(data["subset_logits"])
    assert notebook_fqs(entropies, forgotten, 10) == wanted["FQS"]
    assert notebook_pa(attacks) == wanted["PA"]
    # The notebook's rounded entropies are float32.
    np.testing.assert_allclose(np.round(entropies, 4), data["entropy"], rtol=0, atol=1e-6)
    assert ([round(value, 2) for value in confidences.tolist()] == data["confidence"]).all()


@pytest.mark.parametrize("name", ["entropy_above_unlearn", "confidence_above_unlearn"])
def test_tables_equal_the_notebooks(name: str) -> None:
    data, attacks, _ = notebook()
    for column, values in vars(attacks[name]).items():
        key = "attack_score" if column == "score" else column
        np.testing.assert_allclose(values, data[f"{name}/{key}"], rtol=0, atol=1e-12)
    none = attacks[name.replace("unlearn", "retrain")]  # the notebook has no retrained model
    assert not any(values.any() for values in (none.fpr, none.fnr, none.score))
    assert (none.threshold == attacks[name].threshold).all()


@pytest.mark.parametrize(("part", "prefix", "accuracy"), [("train", "", ("UA", "RA")), ("test", "t_", ("TUA", "TRA"))])
def test_distributions_equal_the_notebooks(part: str, prefix: str, accuracy: tuple[str, str]) -> None:
    data, wanted = golden("fqs_notebook"), reference.settings("fqs_notebook")
    found = distributions(data[f"{part}_logits"], data[f"{part}_labels"])
    np.testing.assert_allclose(found.labels, data[f"{part}_label_dist"], rtol=1e-9)
    np.testing.assert_allclose(found.top, data[f"{part}_conf_dist"], rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, data[f"{part}_class_acc"], rtol=1e-9)
    assert np.round(found.accuracy, 3).tolist() == wanted[f"{prefix}accs"]
    forget = wanted["FC"]
    assert round(float(found.accuracy[forget]), 3) == wanted[accuracy[0]]
    assert round(retained_accuracy(found.accuracy, forget), 3) == wanted[accuracy[1]]
    rounded = [wanted[f"{prefix}label_dist_rounded4"][f"gt_{label}"] for label in range(10)]
    assert np.round(found.labels, 4).tolist() == rounded


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_the_notebooks_score_is_1_for_equal_logits_whatever_the_number_of_classes(classes: int) -> None:
    entropies, _ = notebook_values(np.zeros((20, classes), dtype=np.float32))
    assert notebook_fqs(entropies, np.ones(20, dtype=np.bool_), classes) == 1
    entropies, _ = notebook_values(np.eye(classes, dtype=np.float32) * 100)
    assert notebook_fqs(entropies, np.ones(classes, dtype=np.bool_), classes) == 0


def test_no_image_of_the_forgotten_class() -> None:
    entropies, confidences = notebook_values(drawn(30, 10, 0))
    nothing = np.zeros(30, dtype=np.bool_)
    assert notebook_fqs(entropies, nothing, 10) == 0
    assert all(np.isfinite(attack.score).all() for attack in notebook_attacks(entropies, confidences, nothing).values())


def test_distributions_of_an_empty_class() -> None:
    labels = np.array([0, 0, 2, 2, 2])
    found = distributions(drawn(5, 3, 0), labels)
    assert not found.labels[1].any()
    assert not found.top[1].any()
    assert np.isnan(found.mean[1]).all()
    np.testing.assert_allclose(found.mean[[0, 2]].sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.labels[[0, 2]].sum(1), 1)


@pytest.mark.parametrize("case", CASES)
def test_the_metric_equals_the_comparators(case: str) -> None:
    data = golden(f"fqs_comparator_{case}")
    unlearned, retrained = (
        Outputs(torch.from_numpy(logits), torch.zeros(len(logits), dtype=torch.int64))
        for logits in (data["unlearn_logits"], data["retrain_logits"])
    )
    subject = replace(model(), forget=unlearned, retrained=replace(model(), forget=retrained))
    assert evaluate(subject, ("FQS",))["FQS"] == reference.settings("fqs_comparator")[case]["FQS"]


def test_the_notebooks_metrics_equal_the_notebooks() -> None:
    data, wanted = golden("fqs_notebook"), reference.settings("fqs_notebook")
    forgotten = data["subset_labels"] == wanted["FC"]
    forget, retain = (
        Outputs(torch.from_numpy(data["subset_logits"][chosen]), torch.from_numpy(data["subset_labels"][chosen]))
        for chosen in (forgotten, ~forgotten)
    )
    subject = replace(model(sizes=CLASS_WISE), forget=forget, retain=retain)
    found = evaluate(subject, ("FQS_notebook", "PA_notebook"))
    assert found == {"FQS_notebook": wanted["FQS"], "PA_notebook": wanted["PA"]}


def test_the_notebooks_attack_needs_a_forgotten_class() -> None:
    assert evaluate(model(), ("PA_notebook",)) == {"PA_notebook": None}
