"""Several processes at work on one list."""

import json
import multiprocessing
import os
import time
import traceback
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from lists import BASE, CPU, RECORDS, SMALL, entries, planned, runner, train_small

from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.experiments import records
from salun.experiments.base_training import save_with_forget
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import RunFailure
from salun.experiments.plan import Job
from salun.experiments.runner import run_experiment
from salun.experiments.schema import validate
from salun.io.locks import LOCKS, Locks
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, no_callback

LOG = Path("started")
PROCESSES, RUNS = 2, 5
ENTRIES = [{"method": "ga_small"}, {"method": "ft", "lr": 0.01}]
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    torch.set_num_threads(1)
    validate(entries(*ENTRIES), "test", files_must_exist=False)  # what this imports, the processes need not
    return train_small()


@pytest.fixture(autouse=True)
def base(small: Checkpoint, alone: None) -> None:
    save_with_forget(Path(BASE), small, make_split(load(SMALL), ForgetRequest()))


def noted(job: Job) -> Callback:
    """Note that a run was started, in one writing that no other can tear."""
    descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{job.id}\n".encode())
    os.close(descriptor)
    return no_callback


def record_elsewhere(job: Job) -> None:
    """Record a run as another process would."""
    records.append(RECORDS, run_experiment(job.experiment, job.seed, ModelCache(RunContext(CPU))).record)


def work(begin: Event, given: list[dict[str, object]], runs: int) -> None:
    try:
        begin.wait()
        jobs = planned(*given, runs=runs)
        outcomes = list(runner().run(jobs, noted))
        done, torn = records.read(RECORDS)
        assert not torn
        assert {job.id for job in jobs} == done.keys()
        assert not any(isinstance(outcome, RunFailure) for _, outcome in outcomes)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def together(given: list[dict[str, object]], runs: int = RUNS) -> None:
    begin = fork.Event()
    workers = [fork.Process(target=work, args=(begin, given, runs)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    begin.set()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES


@pytest.mark.parametrize(
    "attempt", [pytest.param(attempt, marks=[pytest.mark.slow] * (attempt > 1)) for attempt in range(20)]
)
def test_two_processes_do_each_run_exactly_once(attempt: int) -> None:
    together(ENTRIES)
    started = Counter(LOG.read_text().split())
    assert set(started.values()) == {1}
    assert len(started) == len(ENTRIES) * RUNS
    lines = [json.loads(line)["id"] for line in RECORDS.read_text().splitlines()]
    assert Counter(lines) == started
    assert sorted(path.name for path in RECORDS.parent.iterdir()) == ["outputs", "records.jsonl"]


def test_they_do_requests_one_after_another_each_once() -> None:
    requests = [{"class_to_forget": label} for label in (0, 1, 2)]
    together([{**ENTRIES[0], "class_to_forget": None, "requests": requests}], runs=2)
    lines = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    assert Counter(LOG.read_text().split()) == Counter(line["id"] for line in lines)
    assert len(lines) == 6
    recorded = [None, *(line["id"] for line in lines)]
    assert all(line["parent"] in recorded[: place + 1] for place, line in enumerate(lines))


def test_they_train_a_base_model_once() -> None:
    recipe = {"epochs": 3, "batch_size": 32}
    fresh = {"checkpoint": None, "model": "resnet_tiny", "dataset": SMALL, "recipe": recipe}
    together([{**ENTRIES[0], **fresh}], runs=3)
    made = [path for path in Path("checkpoints").glob("*.pt") if path != Path(BASE)]
    assert len(made) == 1
    assert set(Counter(LOG.read_text().split()).values()) == {1}
    assert not Path("checkpoints/locks").exists()
    assert not Path("checkpoints/states").exists()


def test_a_run_that_another_process_does_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, pauses = planned(*ENTRIES, runs=2), 0
    sleep = time.sleep

    def wait(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        sleep(0.01)
        if pauses == 3:  # it is recorded there, and its lock freed
            record_elsewhere(jobs[1])
            theirs.release(jobs[1].id)

    monkeypatch.setattr("salun.experiments.runner.time.sleep", wait)
    with Locks(RECORDS.parent / LOCKS) as theirs:
        assert theirs.take(jobs[1].id)
        outcomes = list(runner().run(jobs, noted))
    assert pauses == 3
    assert [line.getMessage() for line in caplog.records] == [
        "runs/list: waiting for other processes, which do the last runs"
    ]
    assert jobs[1].id not in LOG.read_text()
    assert len(outcomes) == 3
    assert records.read(RECORDS)[0].keys() == {job.id for job in jobs}


def test_what_another_process_recorded_is_not_even_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = planned(*ENTRIES, runs=3)
    theirs, claimed, take = jobs[1:5], [], Locks.take

    def taken(own: Locks, name: str) -> bool:
        claimed.append(name)
        return take(own, name)

    def callback(job: Job) -> Callback:
        if job is jobs[0]:
            for other in theirs:
                record_elsewhere(other)
        return noted(job)

    monkeypatch.setattr(Locks, "take", taken)
    outcomes = list(runner().run(jobs, callback))
    assert [job.id for job, _ in outcomes] == [jobs[0].id, jobs[5].id]
    assert {job.id for job in jobs} & set(claimed) == {jobs[0].id, jobs[5].id}
    assert records.read(RECORDS)[0].keys() == {job.id for job in jobs}


def test_why_a_base_model_cannot_be_had_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> Checkpoint:
        raise ValueError("no luck")

    monkeypatch.setattr("salun.experiments.executors.executor.train_base", fail)
    own = {"checkpoint": None, "model": "resnet_tiny", "dataset": SMALL, "recipe": {"epochs": 1, "batch_size": 32}}
    jobs, alone = planned({**ENTRIES[0], **own}, runs=2), runner()
    outcomes = list(alone.run(jobs, noted))
    assert len(outcomes) == 2
    for job, outcome in outcomes:
        assert isinstance(outcome, RunFailure)
        assert outcome.reason.startswith("ValueError: no luck (")
        assert alone.trace_of(job).read_text() == outcome.trace != ""
    assert not LOG.exists()
