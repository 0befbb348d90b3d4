"""Runs on corrupted data, from entry to table."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lists import CPU, RECORDS, SHORT, SMALL, do, planned, runner

from salun.errors import SalunErrors
from salun.experiments import records
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.joint_metrics import Comparison
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.record import experiment_of
from salun.experiments.schema import validate
from salun.models.checkpoint import load_checkpoint
from salun.reports.labels import rows_of, rows_of_records
from salun.reports.tables import group_titles, legend

DIGITS = {"model": "resnet_tiny", "dataset": "digits", "method": "ft"}
RECORDED = [
    "13f9ab32faebc4a7",
    "177567989fdf2465",
    "7cba454572b8b988",
    "9dea60516629153f",
    "cf9d4641ab791941",
    "1cd02747dc92df9c",
]
TRIGGER = {"kind": "trigger", "share": 0.2, "found": 0.5}


def jobs_on_digits(*corrupt: dict[str, Any], **keys: Any) -> list[Job]:
    entries = [DIGITS | {"corrupt": {"kind": "trigger"} | each} | keys for each in corrupt]
    return plan(validate(entries, "list"), Repeats(1), ModelCache(RunContext(CPU)), "list")


def on_small(*entries: dict[str, Any], **corrupt: Any) -> list[Job]:
    """Runs on few, very small images, of which some are corrupted."""
    given = {"model": "resnet_tiny", "dataset": SMALL, "recipe": SHORT, "corrupt": TRIGGER | corrupt, "metrics": None}
    return planned(*(given | {"checkpoint": None, "class_to_forget": None, "epochs": None} | each for each in entries))


def test_ids_are_those_of_records_that_were_written() -> None:
    asked = [{}, {"found": 0.5}, {"kind": "labels", "seed": 3}, {"kind": "interclass", "classes": [3, 5], "share": 0.1}]
    jobs = [*jobs_on_digits(*asked), *jobs_on_digits({"found": 0.5}, method="retrain")]
    jobs += jobs_on_digits({"found": 0.5}, method="retrain", leave_out="found")
    assert [job.id for job in jobs] == RECORDED


def test_the_corruption_is_part_of_the_base_model_and_what_is_found_of_the_forget_set() -> None:
    same, found, share, seed, target, kind = jobs_on_digits(
        {}, {"found": 0.5}, {"share": 0.1}, {"seed": 1}, {"target": 1}, {"kind": "labels"}
    )
    (plain,) = plan(validate([DIGITS | {"unlearning_rate": 0.1}], "list"), Repeats(1), ModelCache(RunContext(CPU)), "")
    bases = [job.problem.spec for job in (same, share, seed, target, kind, plain)]
    assert len({spec.identity for spec in bases}) == len({spec.path for spec in bases}) == 6
    assert "base-trigger-" in same.problem.spec.path.name
    assert found.problem.spec.path == same.problem.spec.path
    assert found.group[0] == same.group[0]
    assert found.group[1] != same.group[1]
    assert len({job.id for job in (same, found, share, seed, target, kind)}) == 6


def test_numbers_names_and_defaults_are_one_and_the_same() -> None:
    default, number, name = jobs_on_digits({}, {"target": 0}, {"target": "0"})
    assert default.id == number.id == name.id
    one, other = jobs_on_digits(*({"kind": "interclass", "classes": classes} for classes in ([3, 5], ["5", 3])))
    assert one.id == other.id


@pytest.mark.parametrize(
    ("corrupt", "line"),
    [
        ({"target": 10}, "entry 1: corrupt.target: class 10: 'digits' has the classes 0 to 9"),
        ({"target": "ten"}, "entry 1: corrupt.target: class 'ten': unknown"),
        ({"kind": "interclass", "classes": [3, 12]}, "corrupt.classes: class 12: 'digits' has the classes 0 to 9"),
        ({"kind": "interclass", "classes": [3, "3"]}, "corrupt.classes: [3, '3']: must be two different ones"),
        ({"share": 0.95}, "corrupt.share: 0.95: 1230 images of 1295 to corrupt, but 1167 can have another label"),
        ({"found": 0.001}, "the found 0.001 of the corrupted images: none of these images is in the training split"),
    ],
)
def test_what_the_data_do_not_hold_is_one_line(corrupt: dict[str, Any], line: str) -> None:
    with pytest.raises(SalunErrors) as refused:
        jobs_on_digits(corrupt)
    (told,) = refused.value.lines
    assert line in told


def finished(jobs: list[Job]) -> dict[str, records.Record]:
    do(jobs)
    comparison = Comparison(ModelCache(RunContext(CPU)), RECORDS, Path("checkpoints/list"))
    list(comparison.complete(comparison.lacking(jobs)))
    return records.read(RECORDS)[0]


def test_from_entries_to_the_table() -> None:
    gold = {"method": "retrain"}
    jobs = on_small(gold, gold | {"leave_out": "found"}, {"method": "ga_small"})
    done = finished(jobs)
    clean, partly, method = (done[job.id] for job in jobs)

    train, corrupted = clean.split["train"], clean.split["found"] + clean.split["undiscovered"]
    assert corrupted == round(0.2 * train)
    assert clean.passes["method"]["forward"] == train - corrupted  # one epoch
    assert partly.passes["method"]["forward"] == train - clean.split["found"]
    assert (clean.retrained, partly.retrained, method.retrained) == (None, clean.id, clean.id)

    assert {"UA", "ASR", "CA_found", "CA_undiscovered"} <= method.metrics.keys() & method.base_metrics.keys()
    assert None not in (method.metrics["ASR"], method.metrics["CA_found"], method.metrics["CA_undiscovered"])
    assert experiment_of(method, jobs[2].experiment.number).corruption == jobs[2].problem.spec.corruption
    assert experiment_of(partly, 2).leave_out == "found"

    for rows in (rows_of(jobs, done), rows_of_records(list(done.values()))):
        titles = ["base", "retrain without any corrupted image", "retrain without the found images", "ga_small"]
        assert [row.title for row in rows] == titles
        assert [row.kind for row in rows] == ["base", "retrain", "method", "method"]
        assert rows[2].gap.mean is not None
        assert "with 20 % corrupted (trigger, target 0), forgetting the found 0.5" in group_titles(rows)[rows[0].group]
        told = "\n".join(legend(rows))
        assert "to retraining's without any corrupted image" in told
        assert "nearest to retraining: ga_small, with no other method to tell it from" in told


def test_what_was_done_is_not_done_again_and_figures_come_from_kept_outputs() -> None:
    jobs = on_small({"method": "ga_small", "metrics": ["UA"]})
    do(jobs)
    more = on_small({"method": "ga_small"})
    assert more[0].id == jobs[0].id
    assert do(more) == []
    assert finished(more)[jobs[0].id].metrics["ASR"] is not None


@pytest.mark.parametrize("corrupt", [{"kind": "labels"}, {"kind": "interclass", "classes": [1, 2]}])
def test_other_kinds_have_no_trigger_and_all_may_be_found(corrupt: dict[str, Any]) -> None:
    (job,) = on_small({"method": "ft", "epochs": 1}, found=1.0, **corrupt)
    values = finished([job])[job.id].metrics
    assert values["ASR"] is values["CA_undiscovered"] is None
    assert values["CA_found"] is not None


def test_a_corrupted_base_model_says_so_and_is_not_taken_for_another() -> None:
    (job,) = on_small({"method": "ga_small"})
    do([job])
    path = job.problem.spec.path
    assert load_checkpoint(path).config["corrupt"] == {"kind": "trigger", "share": 0.2, "seed": 0, "target": 0}
    with pytest.raises(SalunErrors, match="was trained on corrupted images; give model, dataset and corrupt"):
        planned({"checkpoint": str(path)})
    (found,) = on_small({"method": "ga_small"})
    assert torch.equal(found.problem.split.forget, job.problem.split.forget)
    assert runner().is_finished(found, records.read(RECORDS)[0])
