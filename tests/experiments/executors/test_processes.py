import math
import multiprocessing
import pickle
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from lists import BASE, CPU, RECORDS, SHORT, SMALL, Seen, do, planned, results, runner, train_small

from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import RunFailure, RunRequest, answer, portable
from salun.experiments.records import read
from salun.experiments.run import RunResult
from salun.models.architecture import TINY
from salun.models.checkpoint import save_checkpoint
from salun.training.progress import no_callback

OWN = {"checkpoint": None, "model": TINY, "dataset": SMALL, "recipe": SHORT, "method": "ft"}


def test_side_by_side_runs_give_what_they_give_in_turn_and_are_told_of_alike() -> None:
    small = train_small()
    save_checkpoint(Path(BASE), small)
    jobs = planned(OWN, OWN | {"base_seed": 1}, {}, runs=2)
    save_checkpoint(Path(BASE), replace(small, excluded=(1, 2)))
    seen, ended, pair = Seen(), [], replace(runner("all"), jobs=2)
    with closing(pair.run(jobs, seen.callback)) as runs:
        while len(ended) < 5:
            ended.append(next(runs))
    assert not multiprocessing.active_children()
    lost = [(job.experiment.number, outcome) for job, outcome in ended if isinstance(outcome, RunFailure)]
    changed = f"{BASE}: the base model has changed since the command began"
    assert set(lost) == {(3, RunFailure(changed))}
    made = {job.id: outcome for job, outcome in ended if not isinstance(outcome, RunFailure)}
    assert made == read(RECORDS)[0]
    for name, record in made.items():
        assert [step.done for step in seen.steps[name] if step.done] == record.curve
        assert math.isfinite(record.curve[-1].loss)
    beside = results()
    assert {path.name for path in Path("checkpoints").glob("*.pt")} > {Path(BASE).name}

    assert len(do(jobs, keep="all")) == 6 - len(made)
    assert {name: found for name, found in results().items() if name in beside} == beside
    together = results()
    shutil.rmtree("runs")
    shutil.rmtree("checkpoints")
    save_checkpoint(Path(BASE), small)
    do(planned(OWN, OWN | {"base_seed": 1}, {}, runs=2), keep="all")
    assert results() == together


def test_a_mask_goes_home_at_its_own_size() -> None:
    save_checkpoint(Path(BASE), train_small())
    (job,) = planned({"method": "ft", "use_mask": True})
    problem = job.problem
    request = RunRequest(job.id, job.experiment, job.seed, problem.spec, problem.split, problem.mask, keep_weights=True)
    result = portable(answer(request, ModelCache(RunContext(CPU)), no_callback))
    assert isinstance(result, RunResult)
    checkpoint = result.checkpoint
    assert checkpoint is not None
    assert checkpoint.mask is not None
    weights = sum(chosen.numel() for chosen in checkpoint.mask.values())
    assert weights < len(pickle.dumps(checkpoint.mask)) < 1.5 * weights
