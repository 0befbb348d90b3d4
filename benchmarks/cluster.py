"""Item: what scheduling a run costs, on a Ray cluster and in this process."""

import time

from benchmarks.items import Bench, item
from benchmarks.measure import Result, Spread
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.cluster import RayRequest
from salun.experiments.plan import Repeats, plan
from salun.experiments.runner import Runner
from salun.experiments.schema import validate
from salun.models.architecture import TINY
from salun.training.progress import no_callback

RUNS = 100
ENTRY = {
    "model": TINY,
    "dataset": "synthetic:n=90,size=8,classes=4",
    "recipe": {"epochs": 1, "batch_size": 32},
    "class_to_forget": 0,
    "method": "ft",
    "epochs": 1,
    "metrics": ["UA", "RA", "TA"],
}


def overheads(bench: Bench, name: str, runs: int, ray: RayRequest | None) -> Spread:
    """Do short runs one after another, and take from the time between two records what the run itself took.

    Args:
        bench: where.
        name: of a folder to write to.
        runs: how many.
        ray: what is asked of a cluster; None for this process.

    Returns:
        Seconds a run, of all but the first: storing, sending, claiming, recording, and what a run does beside mask,
        method and evaluation.
    """
    folder = bench.folder / name
    cache = ModelCache(RunContext(bench.device, bench.folder / "data", folder / "checkpoints", save_every=0))
    jobs = plan(validate([ENTRY], "benchmark"), Repeats(runs), cache, "benchmark")
    runner = Runner(cache, folder / "records.jsonl", folder / "weights", "none", ray=ray)
    found, before = [], 0.0
    for _, record in runner.run(jobs, lambda job: no_callback):
        now = time.perf_counter()
        found.append(now - before - sum(getattr(record, "seconds", {}).values()))
        before = now
    return Spread(tuple(found[1:]))


@item(f"scheduling of {RUNS} short runs by Ray with a warm worker, beside this process", devices=())
def ray_overhead(bench: Bench) -> list[Result]:
    """Measure what a run costs beyond itself.

    Args:
        bench: where, and how much.

    Returns:
        A line; the control does the same runs in this process.
    """
    runs = 3 if bench.quick else RUNS
    request = RayRequest("local", most=1, device=bench.device.type)
    sides = {"ray": request, "here": None}
    found = {name: overheads(bench, name, runs, ray) for name, ray in sides.items()}
    note = "the control is ours in one process"
    goal = bench.goal(most=0.3)
    return [Result("scheduling of a short run by Ray, warm worker", "s", found["ray"], found["here"], goal, note)]
