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
from lists import BASE, CPU, RECORDS, SMALL, WEIGHTS, entries, train_small

from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.experiments import records
from salun.experiments.executors.processes import Alone, Lost
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.run import Workbench, save_with_forget
from salun.experiments.runner import Runner
from salun.experiments.schema import validate
from salun.io.locks import CLAIMS, Claims, here
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, no_callback

LOG = Path("started")
PROCESSES, RUNS = 2, 5
ENTRIES = [{"method": "ga_small"}, {"method": "ft", "lr": 0.01}]
MANY = entries(*ENTRIES)
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    torch.set_num_threads(1)
    validate(MANY, "test", files_must_exist=False)  # what this imports, the processes need not
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


def work(begin: Event, given: list[dict[str, object]], runs: int) -> None:
    try:
        begin.wait()
        bench = Workbench(CPU)
        jobs = plan(validate(given, "test"), Repeats(runs), bench, "test")
        outcomes = list(Runner(bench, RECORDS, WEIGHTS, "none").go(jobs, noted))
        done, torn = records.read(RECORDS)
        assert not torn
        assert {job.id for job in jobs} == done.keys()
        assert not any(isinstance(outcome, Lost) for _, outcome in outcomes)
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
    together(MANY)
    started = Counter(LOG.read_text().split())
    assert set(started.values()) == {1}
    assert len(started) == len(MANY) * RUNS
    lines = [json.loads(line)["id"] for line in RECORDS.read_text().splitlines()]
    assert Counter(lines) == started
    assert sorted(path.name for path in RECORDS.parent.iterdir()) == ["outputs", "records.jsonl"]


def test_they_train_a_base_model_once() -> None:
    recipe = {"epochs": 3, "batch_size": 32}
    fresh = {"checkpoint": None, "model": "resnet_tiny", "dataset": SMALL, "recipe": recipe}
    together(entries({**ENTRIES[0], **fresh}), runs=3)
    made = [path for path in Path("checkpoints").glob("*.pt") if path != Path(BASE)]
    assert len(made) == 1
    assert set(Counter(LOG.read_text().split()).values()) == {1}
    assert not Path("checkpoints/claims").exists()
    assert not Path("checkpoints/states").exists()


def test_a_run_that_another_machine_does_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Workbench(CPU)
    jobs = plan(validate(MANY, "test"), Repeats(2), bench, "test")
    claims = RECORDS.parent / CLAIMS
    claims.mkdir(parents=True)
    theirs = claims / f"{jobs[1].id}.1"
    theirs.write_text(json.dumps({**here(), "machine": "another", "token": "theirs"}))
    pauses = 0
    sleep = time.sleep

    def wait(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        sleep(0.01)
        if pauses == 3:  # it is recorded there, and its claim given back
            record = bench.run(jobs[1].experiment, jobs[1].problem, jobs[1].seed).record
            with RECORDS.open("a") as file:
                file.write(json.dumps(records.numbers_only(records.asdict(record))) + "\n")
            theirs.unlink()

    monkeypatch.setattr("salun.experiments.runner.time.sleep", wait)
    outcomes = list(Runner(bench, RECORDS, WEIGHTS, "none").go(jobs, noted))
    assert pauses == 3
    assert [line.getMessage() for line in caplog.records] == [
        "runs/list: waiting for other processes, which do the last runs"
    ]
    assert jobs[1].id not in LOG.read_text()
    assert len(outcomes) == 3
    assert records.read(RECORDS)[0].keys() == {job.id for job in jobs}


def test_what_another_process_recorded_is_not_even_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(CPU)
    jobs = plan(validate(MANY, "test"), Repeats(3), bench, "test")
    theirs, claimed, take = jobs[1:5], [], Claims.take

    def taken(own: Claims, name: str) -> bool:
        claimed.append(name)
        return take(own, name)

    def callback(job: Job) -> Callback:
        if job is jobs[0]:
            for other in theirs:
                records.append(RECORDS, bench.run(other.experiment, other.problem, other.seed).record)
        return noted(job)

    monkeypatch.setattr(Claims, "take", taken)
    outcomes = list(Runner(bench, RECORDS, WEIGHTS, "none").go(jobs, callback))
    assert [job.id for job, _ in outcomes] == [jobs[0].id, jobs[5].id]
    assert {job.id for job in jobs} & set(claimed) == {jobs[0].id, jobs[5].id}
    assert records.read(RECORDS)[0].keys() == {job.id for job in jobs}


def test_why_a_base_model_cannot_be_had_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Barren(Alone):
        def prepare(self, untrained: object) -> dict[str, Lost]:
            return {jobs[0].base: Lost("no luck", "line 1")}

    jobs = plan(validate(MANY[:1], "test"), Repeats(2), Workbench(CPU), "test")
    runner = Runner(Workbench(CPU), RECORDS, WEIGHTS, "none")
    monkeypatch.setattr(runner, "hands", lambda _: Barren(runner.bench))
    outcomes = list(runner.go(jobs, noted))
    assert [outcome for _, outcome in outcomes] == [Lost("no luck", "line 1")] * 2
    assert [runner.trace_of(job).read_text() for job in jobs] == ["line 1"] * 2
    assert not LOG.exists()


def test_what_was_taken_over_is_not_recorded_twice() -> None:
    bench = Workbench(CPU)
    jobs = plan(validate(MANY[:1], "test"), Repeats(1), bench, "test")
    claims = RECORDS.parent / CLAIMS

    def stand_still(job: Job) -> Callback:
        (claims / f"{job.id}.2").write_text(json.dumps({**here(), "token": "another"}))
        return no_callback

    ((_, outcome),) = Runner(bench, RECORDS, WEIGHTS, "none").go(jobs, stand_still)
    assert isinstance(outcome, Lost)
    assert "took it over" in outcome.reason
    assert not RECORDS.exists()
