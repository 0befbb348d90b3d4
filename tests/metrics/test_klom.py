from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from outputs import of_margins

from salun.metrics import Runs, evaluate
from salun.metrics.klom import klom
from salun.metrics.scores import margins
from salun.training.evaluate import Outputs

# All of one kind in a bin where the other has none, of which it is given 1e-5.
FURTHEST = np.log((1 + 1e-5) / 1e-5)
EDGES = [
    "identical", "disjoint", "both_constant_equal", "both_constant_different_oracle_at_max",
    "both_constant_different_unlearned_at_max", "oracle_constant_inside", "outliers_beyond_clip",
]  # fmt: skip


def golden() -> dict[str, NDArray[np.floating]]:
    return {key: value.numpy() for key, value in reference.arrays("klom").items()}


@pytest.mark.parametrize(
    ("first", "second", "wanted"), [("unlearned", "oracle", "klom"), ("oracle", "unlearned", "klom_swapped")]
)
@pytest.mark.parametrize("variant", ["corrected", "original"])
def test_values_of_images_equal_the_original(first: str, second: str, wanted: str, variant: Any) -> None:
    data = golden()
    found = klom(data[f"{first}_margins"], data[f"{second}_margins"], variant)
    np.testing.assert_allclose(found, data[wanted], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("column", EDGES)
def test_edge_cases_equal_the_original_but_where_it_drops_all_margins_of_a_kind(column: str) -> None:
    data, columns = golden(), reference.settings("klom")["edge_columns"]
    place = list(columns).index(column)
    chosen = slice(place, place + 1)
    margins = data["edge_unlearned_margins"][:, chosen], data["edge_oracle_margins"][:, chosen]
    original, corrected = klom(*margins, "original"), klom(*margins)
    np.testing.assert_allclose(original, data["edge_klom"][chosen], rtol=1e-9, atol=1e-12)
    assert np.isnan(original[0]) == (columns[column] is None)
    np.testing.assert_allclose(corrected, FURTHEST if column.endswith("_at_max") else original, rtol=1e-12)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("highest", [100.0, 1e9, -3.0])
def test_constant_margins_that_differ_are_as_far_apart_as_can_be(highest: float, swap: bool) -> None:
    kinds = np.full((4, 1), highest, dtype=np.float32), np.full((3, 1), -7.5, dtype=np.float32)
    np.testing.assert_allclose(klom(*kinds[:: -1 if swap else 1]), FURTHEST, rtol=1e-12)


def test_a_kind_on_the_last_edge_is_compared_with_what_of_the_other_lies_there_too() -> None:
    top, half = np.full((4, 1), 2.0), np.array([[2.0], [2.0], [0.0], [0.0]])
    np.testing.assert_allclose(klom(top, half), np.log(2), rtol=1e-12)
    # The lower half, that retrained models never show, is 1e-5 likely with them.
    rare = 1e-5 / (1 + 1e-5)
    np.testing.assert_allclose(klom(half, top), (np.log(0.5 / rare) + np.log(0.5 / (1 - rare))) / 2, rtol=1e-12)


def test_one_margin_below_the_last_edge_leaves_the_original() -> None:
    both = np.array([[2.0], [2.0], [1.9]]), np.array([[2.0], [0.0], [1.0]])
    np.testing.assert_array_equal(klom(*both), klom(*both, "original"))


def test_aggregates_equal_the_references() -> None:
    data, wanted = golden(), reference.settings("klom")
    found = klom(data["unlearned_margins"], data["oracle_margins"])
    aggregates = found.mean(), np.median(found), np.percentile(found, 95)
    np.testing.assert_allclose(aggregates, [wanted[f"{name}_klom"] for name in ("mean", "median", "p95")], rtol=1e-9)


def test_margins_equal_the_original() -> None:
    data = reference.arrays("klom")
    found = [margins(Outputs(logits, data["labels"])) for logits in data["logits"]]
    np.testing.assert_allclose(found, data["margins"].numpy(), rtol=1e-6, atol=1e-6)


def test_images_without_a_value_are_left_out_of_the_mean() -> None:
    data = golden()
    margins = [data[f"edge_{kind}_margins"].copy() for kind in ("unlearned", "oracle")]
    margins[0][0, 0] = np.nan
    runs = Runs(*map(of_margins, margins))
    assert evaluate(runs, ("KLoM",))["KLoM"] == pytest.approx(klom(*margins)[1:].mean(), rel=1e-9)
