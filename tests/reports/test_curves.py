import csv
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from records import make, recorded, runs, sweep_runs

from salun.experiments.record import Record, run_id
from salun.reports.curves import Curve, curve_of, curves_as_csv, sweeps_as_csv, sweeps_of
from salun.reports.labels import rows_of_records
from salun.reports.statistics import estimate
from salun.reports.summary import Row, summarise
from salun.training.progress import Epoch


def points(*losses: float, validation: float | None = None) -> list[Epoch]:
    return [Epoch(epoch, loss, 0.5, validation, 0.1, 1.0) for epoch, loss in enumerate(losses, 1)]


def row_of(records: list[Record]) -> Row:
    (row,) = [row for row in rows_of_records(records) if row.kind != "base"]
    return row


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


# Curves


def drawn(records: list[Record]) -> Curve:
    curve = curve_of(row_of(records))
    assert curve is not None
    return curve


def test_a_curve_is_averaged_over_the_runs_that_have_a_number() -> None:
    curve = drawn([recorded(curve=points(3.0, 1.0)), recorded(seed=1, curve=points(1.0, 2.0, 5.0))])
    assert curve.epochs.tolist() == [1, 2, 3]
    assert curve.mean("loss").tolist() == [2.0, 1.5, 5.0]
    np.testing.assert_array_equal(curve.values["loss"], [[3.0, 1.0, np.nan], [1.0, 2.0, 5.0]])
    lost = recorded(curve=points(1.0, float("nan"), float("nan")), diverged=True)
    curve = drawn([lost, recorded(seed=1, curve=points(3.0, 2.0))])
    np.testing.assert_array_equal(curve.mean("loss"), [2.0, 2.0, np.nan])
    assert np.isnan(curve.mean("validation")).all()
    assert [curve_of(row) for row in rows_of_records(runs(2, epochs=0))] == [None, None]


def test_the_numbers_of_curves_are_those_of_the_records() -> None:
    records = [recorded(curve=points(0.25, float("nan"), validation=0.75)), recorded(seed=1, tag="a,b\nc")]
    lines = table(curves_as_csv([drawn(records)]))
    assert {line["title"] for line in lines} == {"a,b c: rl"}
    assert [line["seed"] + line["epoch"] for line in lines] == ["01", "02", "11", "12", "13"]
    assert (lines[0]["loss"], lines[0]["validation"], lines[1]["loss"]) == ("0.25", "0.75", "")
    records = [make("rl", base=base, forget=forget) for base, forget in (("A", "F"), ("A", "G"), ("B", "F"))]
    curve = curve_of(next(row for row in summarise([("rl", records)]) if row.kind == "method"))
    assert curve is not None
    keys = [(line["base_model"], line["forget_set"]) for line in table(curves_as_csv([curve]))]
    assert keys == [("A", "F"), ("A", "F"), ("A", "G"), ("A", "G"), ("B", "F"), ("B", "F")]


# Sweeps


@pytest.mark.parametrize(
    ("keeps", "swept"),
    [
        ((None,), []),
        ((0.5,), []),
        ((0.5, None), [0.5, 1.0]),
        ((None, 0.9, 0.1, 0.5), [0.1, 0.5, 0.9, 1.0]),
        ((0.2, 0.1), [0.1, 0.2]),
        ((1.0, 0.5, None), [0.5, 1.0]),
    ],
)
def test_a_sweep_holds_the_rows_of_two_thresholds_or_more_and_no_mask_counts_as_one(
    keeps: tuple[float | None, ...], swept: list[float]
) -> None:
    rows = rows_of_records(sweep_runs(keeps=keeps))
    found = sweeps_of(rows)
    assert [(sweep.title, list(sweep.rows)) for sweep in found] == ([("rl", swept)] if swept else [])
    for keep, row in (pair for sweep in found for pair in sweep.rows.items()):
        assert row.title == (f"rl + mask {keep:g}" if keep in keeps else "rl")


@pytest.mark.parametrize(
    ("other", "titles"),
    [
        ({"method": "ft"}, ["rl", "ft"]),
        ({"lr": 0.2}, ["rl (lr 0.1)", "rl (lr 0.2)"]),
        ({"score": "random"}, ["rl (mask score sum)", "rl (mask score random)"]),
        ({"tag": "mine"}, ["rl"]),
        ({"file": "mask.pt"}, ["rl"]),
    ],
)
def test_only_the_same_settings_are_one_sweep(other: dict[str, Any], titles: list[str]) -> None:
    records = sweep_runs(keeps=(0.2, 0.5)) + [record for keep in (0.3, 0.4) for record in runs(2, keep=keep, **other)]
    assert [sweep.title for sweep in sweeps_of(rows_of_records(records))] == titles


@pytest.mark.parametrize("other", [{"prune": {"share": 0.5, "epochs": 1}}, {"budget": 900}])
def test_pruned_runs_and_runs_with_a_budget_are_in_no_sweep_of_others(other: dict[str, Any]) -> None:
    def run(keep: float | None, **extra: Any) -> Record:
        record = recorded(keep=keep)
        settings = record.settings | extra
        return replace(record, id=run_id(settings, 0), settings=settings)

    assert sweeps_of(rows_of_records([run(0.3), run(None, **other)])) == []
    found = sweeps_of(rows_of_records([run(0.3), run(None), run(0.3, **other), run(None, **other)]))
    assert [list(sweep.rows) for sweep in found] == [[0.3, 1.0]] * 2
    assert len({sweep.title for sweep in found}) == 2


def test_the_unmasked_runs_belong_to_every_score_of_the_same_settings() -> None:
    records = [*runs(keep=0.5), *runs(keep=0.5, score="random"), *runs(), *runs(lr=0.7)]
    found = sweeps_of(rows_of_records(records))
    assert [(sweep.title, list(sweep.rows)) for sweep in found] == [
        ("rl (mask score sum)", [0.5, 1.0]),
        ("rl (mask score random)", [0.5, 1.0]),
    ]
    assert all(sweep.rows[1.0].title == "rl (lr 0.1)" for sweep in found)


def test_the_numbers_of_a_sweep_are_means_and_intervals_of_the_runs() -> None:
    records = sweep_runs(keeps=(0.3, 0.1)) + runs(method="retrain")
    lines = table(sweeps_as_csv(sweeps_of(rows_of_records(records)), ["UA", "gap"]))
    assert [(line["sweep"], line["mask_keep"]) for line in lines] == [("rl", "0.1"), ("rl", "0.3")]
    expected = estimate(record.metrics["UA"] for record in runs(keep=0.3))
    assert float(lines[1]["UA_mean"]) == expected.mean
    assert (float(lines[1]["UA_low"]), float(lines[1]["UA_high"])) == (expected.low, expected.high)
    assert all(float(line["gap_mean"]) > 0 for line in lines)
