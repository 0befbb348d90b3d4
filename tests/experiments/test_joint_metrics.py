import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lists import BASE, CPU, RECORDS, WEIGHTS, do, planned, train_small
from records import recorded

from salun.experiments.context import ModelCache, RunContext
from salun.experiments.joint_metrics import Comparison
from salun.experiments.outputs import kept_outputs, outputs_path
from salun.experiments.plan import Job
from salun.experiments.record import Record, partner_of, weights_path
from salun.experiments.records import read
from salun.metrics import METRICS, check_metrics, evaluate
from salun.metrics.agreement import disagreement
from salun.models.checkpoint import Checkpoint, save_checkpoint
from salun.reports.labels import rows_of

GOLD: dict[str, Any] = {"method": "retrain", "epochs": None}
PAIRED = ["UA", "JS", "disagreement", "ToW"]


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return train_small()


@pytest.fixture(autouse=True)
def base_model(alone: None, small: Checkpoint) -> None:
    save_checkpoint(Path(BASE), small)


def comparison() -> Comparison:
    return Comparison(ModelCache(RunContext(CPU)), RECORDS, WEIGHTS)


def complete(jobs: list[Job]) -> list[str]:
    """Add what is missing; the ids of the records that gained something."""
    found = comparison()
    return [record.id for record in found.complete(found.lacking(jobs))]


def finish(jobs: list[Job]) -> None:
    """Do what is missing, and add what is to be computed of several models."""
    do(jobs)
    complete(jobs)


def listed(*given: dict[str, Any], runs: int = 2, metrics: list[str] = PAIRED) -> list[Job]:
    return planned(*({"metrics": metrics} | keys for keys in given), runs=runs)


def records_of(jobs: list[Job]) -> list[Record]:
    done = read(RECORDS)[0]
    return [done[job.id] for job in jobs]


def test_a_run_is_compared_with_the_retrained_model_of_its_seed() -> None:
    jobs = listed(GOLD, {}, metrics=[*PAIRED, "KLoM"])
    do(jobs)
    assert all("JS" not in record.metrics for record in records_of(jobs))
    assert len(comparison().lacking(jobs)) == 4
    assert set(complete(jobs)) == {job.id for job in jobs}
    before = RECORDS.read_bytes()
    assert complete(jobs) == []
    assert RECORDS.read_bytes() == before
    found = {(job.experiment.method, job.seed): record for job, record in zip(jobs, records_of(jobs), strict=True)}
    for seed in (0, 1):
        record = found["ga_small", seed]
        assert record.retrained == found["retrain", seed].id
        assert found["retrain", seed].retrained == found["retrain", 1 - seed].id
        own, gold = (kept_outputs(RECORDS.parent, one.id) for one in (record, found["retrain", seed]))
        assert record.metrics["disagreement"] == disagreement(replace(own, retrained=gold))
        assert set(PAIRED) <= record.metrics.keys()
        assert all(record.base_metrics[name] is not None for name in PAIRED)


def test_metrics_are_the_same_now_and_later() -> None:
    names = ["UA", "MIA", "JS", "ZRF", "AUS", "ECE", "simple_MIA", "prediction_matrix"]
    at_once, later = listed(GOLD, {}, metrics=names), listed(GOLD, {}, metrics=["UA"])
    finish(at_once)
    once = records_of(at_once)
    RECORDS.unlink()
    do(later)
    assert do(at_once) == []
    complete(at_once)
    for first, second in zip(once, records_of(at_once), strict=True):
        assert {name: first.metrics[name] for name in names[:-1]} == {name: second.metrics[name] for name in names[:-1]}
        assert first.details == second.details
        assert first.base_metrics == second.base_metrics


def test_without_retrained_models_there_is_no_value_until_there_are() -> None:
    alone = listed({}, runs=1)
    do(alone)
    assert complete(alone) == []
    assert [record.metrics.keys() for record in records_of(alone)] == [{"UA"}]
    both = listed({}, GOLD, runs=1)
    finish(both)
    assert all(record.metrics["JS"] is not None for record in records_of(alone))


def test_a_diverged_run_has_no_values_and_is_nobodys_standard() -> None:
    jobs = listed(GOLD, {"lr": 1e30, "epochs": 2}, runs=1)
    finish(jobs)
    assert complete(jobs) == []
    for record in records_of(jobs)[1:]:
        assert record.diverged
        assert {record.metrics[name] for name in PAIRED} == {None}
    assert "NaN" not in RECORDS.read_text()


def test_metrics_of_several_runs_are_of_the_whole_experiment_and_computed_again_when_revised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = listed(GOLD, {}, runs=4, metrics=["UA", "KLoM", "ULiRA_auc"])
    do(jobs)
    held = comparison()
    list(held.complete(held.lacking(jobs)))
    joint = held.joint(jobs)
    assert joint.keys() == {(1, 0), (2, 0)}
    assert joint[2, 0]["KLoM"] > 0
    assert 0 <= joint[2, 0]["ULiRA_auc"] <= 1
    rows = {row.title: row for row in rows_of(jobs, held.done, joint)}
    assert rows["ga_small"].estimates["KLoM"].mean == joint[2, 0]["KLoM"]
    assert rows["ga_small"].estimates["KLoM"].sd is None
    kept = json.loads((RECORDS.parent / "joint.json").read_text())
    assert len(kept) == 2
    assert held.joint(jobs) == joint
    revise(monkeypatch, "KLoM", 7.0)
    assert held.joint(jobs) == {number: values | {"KLoM": 7.0} for number, values in joint.items()}
    again = (RECORDS.parent / "joint.json").read_bytes()
    held.joint(jobs)
    assert (RECORDS.parent / "joint.json").read_bytes() == again


@pytest.mark.parametrize(
    ("method", "seed", "seeds", "wanted"),
    [
        *(("rl", seed, (0, 1, 2), wanted) for seed, wanted in ((1, 1), (5, 2), (3, 0))),
        *(("rl", seed, seeds, wanted) for seed, seeds, wanted in ((7, (7,), 7), (0, (), None))),
        *(("retrain", seed, (0, 1, 2), wanted) for seed, wanted in ((0, 1), (2, 0))),
        ("retrain", 4, (4,), None),  # never itself
    ],
)
def test_partner_of_a_run(method: str, seed: int, seeds: tuple[int, ...], wanted: int | None) -> None:
    found = partner_of(recorded(method, seed=seed), [recorded("retrain", seed=other) for other in seeds])
    assert (None if found is None else found.seed) == wanted


def test_all_metrics_of_outputs_can_be_had_of_kept_outputs() -> None:
    jobs = planned(GOLD, {"metrics": ["all"]})
    finish(jobs)
    record = records_of(jobs)[1]
    wanted = {name for name in check_metrics(("all",)) if METRICS[name].cost != "many models"}
    assert record.retrained is not None
    assert record.metrics.keys() | record.details.keys() == wanted
    own = kept_outputs(RECORDS.parent, record.id, seconds=record.unlearning_seconds)
    assert evaluate(own, ("UA", "RA", "RTE")) == {name: record.metrics[name] for name in ("UA", "RA", "RTE")}


# Outputs and weights that are not there


def test_the_metrics_of_a_run_that_is_done_again_are_all_there_again() -> None:
    jobs = listed(GOLD, {})
    finish(jobs)
    before = records_of(jobs)
    outputs_path(RECORDS.parent, jobs[2].id).unlink()
    more = listed(GOLD, {}, metrics=["RA"])
    assert do(more) == [(2, 0)]
    complete(more)
    for old, new in zip(before, records_of(jobs), strict=True):
        assert {name: new.metrics[name] for name in old.metrics} == old.metrics
        assert new.retrained == old.retrained


def test_lost_outputs_of_a_base_model_are_made_again_for_a_metric_that_needs_them() -> None:
    do(listed(GOLD, {}, metrics=["UA"]))
    for path in RECORDS.parent.glob("outputs/base_*.npz"):
        path.unlink()
    jobs = listed(GOLD, {}, metrics=["UA", "AUS", "JS"])
    assert len(do(jobs)) == 1
    complete(jobs)
    assert all(record.metrics[name] is not None for record in records_of(jobs) for name in ("AUS", "JS"))


def test_a_value_never_passes_for_a_comparison_with_another_retrained_model() -> None:
    few, many = listed(GOLD, {}, runs=2), listed(GOLD, {}, runs=3)
    finish(few)
    for path in RECORDS.parent.glob("outputs/*.npz"):
        path.unlink()
    finish(many)
    # The second retrained model was compared with the first and now is with the third, but its outputs are lost.
    assert "JS" not in records_of(few)[1].metrics
    finish(many)
    assert records_of(few)[1].metrics["JS"] is not None


def test_metrics_of_several_runs_are_not_recorded_of_fewer() -> None:
    jobs = listed(GOLD, {}, runs=3, metrics=["UA", "KLoM"])
    do(jobs)
    path = outputs_path(RECORDS.parent, jobs[-1].id)
    content = path.read_bytes()
    path.unlink()
    held = comparison()
    list(held.complete(held.lacking(jobs)))
    assert held.joint(jobs)[2, 0] == {"KLoM": None}
    path.write_bytes(content)
    assert held.joint(jobs)[2, 0]["KLoM"] > 0
    assert held.joint(listed(GOLD, {}, runs=1, metrics=["UA", "KLoM"]))[2, 0]["KLoM"] is None


def test_metrics_of_weights_are_computed_from_kept_weights_which_retrained_models_keep_for_others() -> None:
    names = ["weight_distance_base", "weight_distance_retrained", "weight_distance_base_layers"]
    jobs = planned({"metrics": ["UA"]} | GOLD, {"metrics": names}, runs=2)
    finish(jobs)
    assert all(record.metrics["weight_distance_retrained"] > 0 for record in records_of(jobs))
    for record in records_of(jobs)[2:]:
        assert record.metrics["weight_distance_base"] > 0
        assert set(record.details) == {"weight_distance_base_layers"}
        assert record.base_metrics["weight_distance_base"] == 0
        assert record.base_metrics["weight_distance_retrained"] > 0


# Metrics that were defined anew


def revise(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """Let a metric give another value from now on."""
    found = replace(METRICS[name], revised=f"9.{value:g}", compute=lambda subject, wanted: dict.fromkeys(wanted, value))
    monkeypatch.setitem(METRICS, name, found)


@pytest.mark.parametrize("name", ["UA", "weight_distance_base"])
def test_a_revised_metric_is_computed_again_from_what_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    jobs = listed(GOLD, {}, metrics=["RA", name], runs=1)
    finish(jobs)
    before = records_of(jobs)
    revise(monkeypatch, name, 7.0)
    assert all(name not in record.metrics for record in records_of(jobs))
    assert [job.id for job in listed(GOLD, {}, metrics=["RA", name], runs=1)] == [job.id for job in jobs]
    assert do(jobs) == []
    assert set(complete(jobs)) == {job.id for job in jobs}
    for old, new in zip(before, records_of(jobs), strict=True):
        assert new.metrics == old.metrics | {name: 7.0}
        assert new.base_metrics == old.base_metrics | {name: 7.0}
        assert new.versions["salun"] == old.versions["salun"]
    assert complete(jobs) == []
    revise(monkeypatch, name, 8.0)
    weights_path(WEIGHTS, before[1]).unlink(missing_ok=True)
    assert do(jobs) == ([(2, 0)] if name == "weight_distance_base" else [])  # for the weights that are lost
    complete(jobs)
    assert [record.metrics[name] for record in records_of(jobs)] == [8.0] * 2
