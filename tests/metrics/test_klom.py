from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from fabricated import several
from numpy.typing import NDArray

from salun.metrics import Evaluation, Runs, evaluate
from salun.metrics.klom import klom
from salun.metrics.scores import margins
from salun.training import Outputs

EDGES = [
    "identical",
    "disjoint",
    "both_constant_equal",
    "both_constant_different_oracle_at_max",
    "both_constant_different_unlearned_at_max",
    "oracle_constant_inside",
    "outliers_beyond_clip",
]


def golden() -> dict[str, NDArray[np.floating]]:
    return {key: value.numpy() for key, value in reference.arrays("klom").items()}


@pytest.mark.parametrize(
    ("first", "second", "wanted"), [("unlearned", "oracle", "klom"), ("oracle", "unlearned", "klom_swapped")]
)
def test_values_of_images_equal_the_original(first: str, second: str, wanted: str) -> None:
    data = golden()
    found = klom(data[f"{first}_margins"], data[f"{second}_margins"])
    np.testing.assert_allclose(found, data[wanted], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("column", EDGES)
def test_edge_cases_equal_the_original(column: str) -> None:
    data, columns = golden(), reference.settings("klom")["edge_columns"]
    place = list(columns).index(column)
    chosen = slice(place, place + 1)
    found = klom(data["edge_unlearned_margins"][:, chosen], data["edge_oracle_margins"][:, chosen])
    np.testing.assert_allclose(found, data["edge_klom"][chosen], rtol=1e-9, atol=1e-12)
    assert np.isnan(found[0]) == (columns[column] is None)


def test_aggregates_equal_the_references() -> None:
    data, wanted = golden(), reference.settings("klom")
    found = klom(data["unlearned_margins"], data["oracle_margins"])
    aggregates = found.mean(), np.median(found), np.percentile(found, 95)
    np.testing.assert_allclose(aggregates, [wanted[f"{name}_klom"] for name in ("mean", "median", "p95")], rtol=1e-9)


def test_margins_equal_the_original() -> None:
    data = reference.arrays("klom")
    found = [margins(Outputs(logits, data["labels"])) for logits in data["logits"]]
    np.testing.assert_allclose(found, data["margins"].numpy(), rtol=1e-6, atol=1e-6)


def test_values_do_not_depend_on_the_other_images() -> None:
    data = golden()
    unlearned, oracle = data["unlearned_margins"], data["oracle_margins"]
    alone = np.concatenate([klom(unlearned[:, [i]], oracle[:, [i]]) for i in range(unlearned.shape[1])])
    np.testing.assert_allclose(alone, klom(unlearned, oracle), rtol=1e-12)


def test_equal_models_have_none_and_models_apart_much() -> None:
    runs = several(unlearned=6, retrained=6)
    names = ("KLoM", "KLoM_median", "KLoM_p95")
    same = evaluate(Runs(runs.unlearned, runs.unlearned), names)
    assert same == pytest.approx(dict.fromkeys(names, 0), abs=1e-9)
    apart = evaluate(Runs(runs.unlearned, several(retrained=6, sure=40.0).retrained), names)
    assert min(apart.values()) > 5


def models_of(margins: NDArray[np.floating]) -> tuple[Evaluation, ...]:
    """Models of two classes whose margins of the forget images are given."""
    model = several(1, 1).unlearned[0]
    labels = torch.zeros(margins.shape[1], dtype=torch.int64)
    logits = torch.from_numpy(np.stack([margins, np.zeros_like(margins)], axis=2))
    return tuple(replace(model, forget=Outputs(one, labels)) for one in logits)


def test_images_without_a_value_are_left_out_of_the_mean() -> None:
    data = golden()
    runs = Runs(models_of(data["edge_unlearned_margins"]), models_of(data["edge_oracle_margins"]))
    assert np.isnan(data["edge_klom"]).any()
    assert evaluate(runs, ("KLoM",))["KLoM"] == pytest.approx(np.nanmean(data["edge_klom"]), rel=1e-9)
