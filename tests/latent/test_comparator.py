from typing import Any

import numpy as np
import pytest
import reference
import torch
import trios

from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.latent.comparator_json import describe_run
from salun.latent.comparator_scores import (
    Predictions,
    accuracies,
    comparator_scores,
    notebook_scores,
    points,
    privacy,
)
from salun.latent.extraction import read_model
from salun.latent.subset import notebook_subset
from salun.latent.trios import Trio

CPU = torch.device("cpu")
FIELDS = {
    *("CreatedAt", "ID", "FC", "Type", "Base", "Method", "Epoch", "BS", "LR", "UA", "RA", "TUA", "TRA", "RTE", "FQS"),
    *("PA", "accs", "t_accs", "label_dist", "t_label_dist", "conf_dist", "t_conf_dist", "points", "attack"),
    *("cka", "cka_retrain"),
}


def golden(part: str) -> Predictions:
    data = {key: value.numpy() for key, value in reference.arrays("fqs_notebook").items()}
    labels = data[f"{part}_labels"]
    return Predictions(data[f"{part}_logits"], labels, np.arange(len(labels)) + 100)


def test_accuracies_and_distributions_are_the_notebooks() -> None:
    wanted = reference.settings("fqs_notebook")
    found = accuracies("notebook", golden("train"), golden("test"), wanted["FC"])
    for name in ("UA", "RA", "TUA", "TRA", "accs", "t_accs"):
        assert found[name] == wanted[name]
    for name in ("label_dist", "t_label_dist", "conf_dist", "t_conf_dist"):
        rounded = wanted[f"{name}_rounded4"]
        assert list(found[name]) == list(rounded)
        for label, row in found[name].items():
            np.testing.assert_allclose(row, rounded[label], rtol=0, atol=1e-9)


def test_scores_values_and_tables_are_the_notebooks() -> None:
    wanted, data = reference.settings("fqs_notebook"), reference.arrays("fqs_notebook")
    found = notebook_scores(golden("subset"), wanted["FC"], 10)
    assert (found["FQS"], found["PA"]) == (wanted["FQS"], wanted["PA"])
    values = found["attack"]["values"]
    np.testing.assert_allclose([value["entropy"] for value in values], data["entropy"], rtol=0, atol=1e-6)
    assert [value["confidence"] for value in values] == data["confidence"].tolist()
    assert [value["img"] for value in values] == list(range(100, 100 + len(values)))
    for name in ("entropy_above_unlearn", "confidence_above_unlearn"):
        for column in ("threshold", "fpr", "fnr", "attack_score"):
            rows = [row[column] for row in found["attack"]["results"][name]]
            np.testing.assert_allclose(rows, data[f"{name}/{column}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["close", "far", "identical", "separated"])
def test_scores_and_values_are_the_comparators(case: str) -> None:
    data = {key: value.numpy() for key, value in reference.arrays(f"fqs_comparator_{case}").items()}
    wanted = reference.settings("fqs_comparator")[case]
    labels = np.full(len(data["unlearn_logits"]), wanted["forget_class"])
    # Images of another class, which do not count.
    other = np.eye(10, dtype=np.float32)[:7] * 9
    every, indices = np.append([0] * 7, labels), np.arange(7 + len(labels))
    logits = [np.concatenate([other, data[f"{name}_logits"]]) for name in ("unlearn", "retrain")]
    said, retrained = (Predictions(each, every, indices) for each in logits)
    found = comparator_scores(said, retrained, np.arange(len(said.labels)), wanted["forget_class"])
    assert found["FQS"] == wanted["FQS"]
    assert [value["entropy"] for value in found["attack"]["values"]] == data["unlearn_entropy"].tolist()
    assert [value["confidence"] for value in found["attack"]["values"]] == data["unlearn_confidence"].tolist()
    assert found["attack"]["values"][0]["img"] == 7
    for name, best in wanted["best_attack"].items():
        assert max(row["attack_score"] for row in found["attack"]["results"][name]) == best


def test_pa_of_the_comparators_own_example() -> None:
    # Its base model on CIFAR-10, and its model retrained without class 0.
    assert privacy({"UA": 1.0, "RA": 1.0, "TUA": 0.96, "TRA": 0.953}) == 0.498
    assert privacy({"UA": 0.0, "RA": 1.0, "TUA": 0.0, "TRA": 0.958}) == pytest.approx(0.99, abs=6e-4)


def test_points_hold_the_probabilities() -> None:
    logits = np.array([[0, 9, 0], [1, 0, 1.5]], dtype=np.float32)
    shown = Predictions(logits, np.array([1, 0]), np.array([40, 7]))
    layout = np.array([[0.123, -4.567], [1, 2]])
    first, second = points("notebook", shown, layout, 0)
    assert first[:6] == [1, 1, 40, 0, 0.12, -4.57]
    assert second[:6] == [0, 2, 7, 1, 1.0, 2.0]
    assert list(first[6]) == ["0", "1", "2"]
    assert sum(second[6].values()) == pytest.approx(1, abs=2e-3)
    colder = points("comparator", shown, layout, 0)
    assert colder[0][6]["1"] < first[6]["1"]
    sure = Predictions(np.array([[0, 60, 0]], dtype=np.float32), np.array([1]), np.array([0]))
    assert points("comparator", sure, layout[:1], 0)[0][6] == {"1": 1.0}


@pytest.fixture(scope="module")
def triple(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    paths = trios.put_trio(str(tmp_path_factory.mktemp("trio")))
    return Trio(*(read_model(paths[name]) for name in ("base", "unlearned", "retrained")))


@pytest.fixture(scope="module")
def contents(triple: Trio) -> dict[str, dict[str, Any]]:
    return {name: describe_run(name, triple, trios.pictures(), None, CPU) for name in ("notebook", "comparator")}


@pytest.mark.parametrize("definition", ["notebook", "comparator"])
def test_all_fields_of_the_page_are_there(contents: dict[str, dict[str, Any]], definition: str) -> None:
    content = contents[definition]
    assert content.keys() >= FIELDS
    assert content["FC"] == 1
    assert (content["Type"], content["Base"], content["Method"]) == ("Unlearned", "base", "rl")
    assert (content["Epoch"], content["BS"], content["LR"], content["RTE"]) == (3, 64, 0.05, "N/A")
    for name in ("accs", "t_accs"):
        assert len(content[name]) == 4
    for name in ("label_dist", "t_label_dist"):
        assert [sum(row) for row in content[name].values()] == pytest.approx([1] * 4, abs=3e-3)
    assert set(content["attack"]["results"]) == {
        f"{value}_above_{model}" for value in ("entropy", "confidence") for model in ("unlearn", "retrain")
    }
    assert all(len(table) == 51 for table in content["attack"]["results"].values())
    assert 0 <= content["FQS"] <= 1
    for name in ("cka", "cka_retrain"):
        layers = content[name]["layers"]
        assert layers[0] == "conv1"
        for part in ("train", "test"):
            for group in ("forget_class", "other_classes"):
                matrix = np.array(content[name][part][group], dtype=np.float64)
                assert matrix.shape == (len(layers), len(layers))
                assert matrix[0, 0] > 0.1
    assert content["cka"] != content["cka_retrain"]


def test_points_are_of_the_notebooks_subset_of_which_the_comparator_attacks_the_forgotten_class(
    contents: dict[str, dict[str, Any]],
) -> None:
    dataset = trios.pictures()
    train = make_split(dataset, ForgetRequest()).train
    chosen = train[notebook_subset(dataset.train.labels[train], 4)]
    labels = dataset.train.labels[chosen]
    for definition, attacked in (("notebook", chosen), ("comparator", chosen[labels == 1])):
        found = contents[definition]["points"]
        assert [point[2] for point in found] == chosen.tolist()
        assert [point[0] for point in found] == labels.tolist()
        assert [point[3] for point in found] == [int(point[0] == 1) for point in found]
        assert np.ptp([point[4] for point in found]) > 1
        assert [value["img"] for value in contents[definition]["attack"]["values"]] == attacked.tolist()


def test_confidence_is_of_one_class_or_of_all(contents: dict[str, dict[str, Any]]) -> None:
    assert [sum(row) for row in contents["comparator"]["conf_dist"].values()] == pytest.approx([1] * 4, abs=3e-3)
    for label, row in contents["notebook"]["conf_dist"].items():
        taken = contents["notebook"]["label_dist"][label]
        assert [value > 0 for value in row] == [share > 0 for share in taken]


def test_without_a_retrained_model_the_notebook_shows_zeros_and_the_comparator_refuses(triple: Trio) -> None:
    alone = Trio(triple.base, triple.unlearned, None)
    content = describe_run("notebook", alone, trios.pictures(), None, CPU)
    zeros = [[0.0]] * len(content["cka_retrain"]["layers"])
    assert content["cka_retrain"]["test"] == {"forget_class": zeros, "other_classes": zeros}
    with pytest.raises(SalunError, match=r"rl.pt: the Comparator's score compares with a retrained model; .*"):
        describe_run("comparator", alone, trios.pictures(), None, CPU)


@pytest.mark.parametrize(
    "request_",
    [ForgetRequest(share=0.2), ForgetRequest(classes=(1, 2)), None],
    ids=["share", "two classes", "half a class"],
)
def test_the_page_knows_one_forgotten_class(triple: Trio, request_: ForgetRequest | None) -> None:
    forget = trios.forget_of(request_) if request_ else trios.forget_of()[::2]
    model = read_model(trios.put("after.pt", 0, forget, unlearned=trios.run()))
    with pytest.raises(SalunError, match=r"after.pt: was to forget .*; the page knows one forgotten class"):
        describe_run("notebook", Trio(triple.base, model, None), trios.pictures(), None, CPU)


def test_too_few_images_for_a_layout(triple: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salun.latent.comparator_json.NOTEBOOK_NEIGHBOURS", 500)
    with pytest.raises(SalunError, match=r"^\d+ training images are too few for UMAP with 500 neighbours"):
        describe_run("notebook", triple, trios.pictures(), None, CPU)
