"""Parts of classes from the list to the record and the table."""

from pathlib import Path
from typing import Any

import pytest
from lists import CPU, RECORDS, WEIGHTS, runner

from salun.errors import SalunErrors
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.records import read
from salun.experiments.schema import validate
from salun.reports.labels import rows_of

NAMES = ["subclass", "subclass_test", "siblings", "others"]
ENTRY = {
    "model": "resnet_tiny",
    "dataset": "digits_grouped",
    "recipe": {"epochs": 2, "batch_size": 128, "schedule": "cosine"},
    "subclass_to_forget": "3",
    "metrics": ["UA", "TUA", *NAMES],
}


def jobs_of(*entries: dict[str, Any]) -> list[Job]:
    return plan(validate([ENTRY | entry for entry in entries], "list"), Repeats(1), ModelCache(RunContext(CPU)), "list")


def test_a_subclass_is_forgotten_recorded_and_measured() -> None:
    jobs = jobs_of({"method": "retrain"}, {"method": "ft", "epochs": 1})
    runs = [outcome for _, outcome in runner("all").run(jobs, lambda job: lambda step: None)]
    assert len(runs) == 2
    done = read(RECORDS)[0]
    for record in done.values():
        forget = record.settings["forget"]
        assert (forget["classes"], forget["subclasses"], forget["request"]) == ([], [3], "subclass 3")
        assert (record.split["forget"], record.split["forgotten_test"]) == (127, 37)
        values = record.metrics
        assert values["subclass"] == pytest.approx(1 - (values["UA"] or 0))
        assert values["subclass_test"] == values["TUA"]
        assert None not in values.values()
        assert Experiment.from_record(record.settings).forget.subclasses == (3,)
    assert sorted(path.name.split("_seed")[0] for path in WEIGHTS.glob("*.safetensors")) == [
        "ft_subclass3",
        "retrain_subclass3",
    ]
    rows = rows_of(jobs, done)
    assert [row.title for row in rows] == ["base", "retrain", "ft"]
    assert set(NAMES) <= set(rows[-1].records[0].metrics)


def test_numbers_and_names_of_subclasses_are_one_problem() -> None:
    same = jobs_of({}, {"subclass_to_forget": 3}, {"subclass_to_forget": ["3", 3]})
    assert len({job.id for job in same}) == 1
    each = {"subclass_to_forget": None, "each": {"subclass_to_forget": [3, 8]}}
    several = jobs_of({"subclass_to_forget": ["3", 8]}, each)
    assert len({job.id for job in several}) == 3
    assert str(several[0].problem.split.subclasses) == "(3, 8)"


def test_several_classes_are_another_problem_than_each_of_them() -> None:
    classes = {"subclass_to_forget": None}
    jobs = jobs_of(classes | {"class_to_forget": [0, 2]}, classes | {"each": {"class_to_forget": [0, [2], [2, 0]]}})
    assert [job.problem.split.classes for job in jobs] == [(0, 2), (0,), (2,), (0, 2)]
    assert jobs[0].id == jobs[3].id
    assert len({job.id for job in jobs}) == 3


def test_what_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SalunErrors) as refused:
        jobs_of({"subclass_to_forget": "tree"}, {"subclass_to_forget": ["3", "13"]}, {"subclass_to_forget": "3"})
    assert [line.partition(";")[0] for line in refused.value.lines] == [
        "list: entry 1: subclass 'tree': unknown",
        "list: entry 2: subclass '13': unknown",
    ]
    assert not Path("checkpoints").exists()
