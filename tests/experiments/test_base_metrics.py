"""A base model's metrics, which all of its runs share."""

from pathlib import Path
from typing import Any

import pytest
from lists import BASE, CPU, SMALL, planned, train_small

from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.experiments.base_training import save_with_forget
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.evaluate import base_outputs, measure
from salun.experiments.problem import load_problem
from salun.experiments.runner import run_experiment
from salun.metrics import Evaluation, evaluate

BOTH = ["UA", "MIA"]


def test_are_computed_once_for_a_forget_set_and_list_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    save_with_forget(Path(BASE), train_small(), make_split(load(SMALL), ForgetRequest()))
    asked = []

    def counted(subject: Evaluation, names: tuple[str, ...]) -> dict[str, Any]:
        if subject.seconds is None:  # as of a base model alone
            asked.append(names)
        return evaluate(subject, names)

    given = {"metrics": BOTH}, {"metrics": ["UA"]}, {"metrics": BOTH, "class_to_forget": 1}
    jobs, cache = planned(*given, runs=2), ModelCache(RunContext(CPU))
    with monkeypatch.context() as patch:
        patch.setattr("salun.experiments.evaluate.evaluate", counted)
        records = [run_experiment(job.experiment, job.seed, cache).record for job in jobs]
    assert sorted(asked) == [("UA",), ("UA", "MIA"), ("UA", "MIA")]
    fresh = ModelCache(RunContext(CPU))
    for job, record in zip(jobs, records, strict=True):
        before = base_outputs(load_problem(job.problem, fresh), fresh)
        assert record.base_metrics == measure(before, job.experiment.metrics).metrics
