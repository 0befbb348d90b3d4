"""Items: whole SalUn runs, one and five."""

import json
import os
from typing import Any

from benchmarks.control import Forgetting, as_torch_comes, forget
from benchmarks.items import Bench, item
from benchmarks.measure import Result, Side, interleaved, seconds_of, timed
from benchmarks.problem import Ground
from benchmarks.processes import called, command, environment, said
from salun.experiments.bases import prepare_base
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.problem import ForgettingProblem, check_problem
from salun.experiments.run import run_once
from salun.experiments.schema import validate
from salun.models.architecture import TINY, Architecture

SHARE = 0.1
RUNS = 5
DIGITS: dict[str, Any] = {"model": TINY, "dataset": "digits", "unlearning_rate": SHARE, "method": "rl"}


def salun_on(bench: Bench, entry: dict[str, Any]) -> tuple[ModelCache, Experiment, ForgettingProblem]:
    """Set SalUn up: data loaded, base model trained.

    Args:
        bench: where.
        entry: of an experiment file, without a mask.

    Returns:
        What the process keeps, the experiment and its problem.
    """
    cache = ModelCache(RunContext(bench.device, bench.folder / "data", bench.folder / "checkpoints"))
    (experiment,) = validate([{**entry, "use_mask": True}], "benchmark")
    problem = check_problem(experiment, cache)
    prepare_base(problem, cache)
    return cache, experiment, problem


def digits_entry(bench: Bench) -> dict[str, Any]:
    """Describe SalUn on digits.

    Args:
        bench: how much.

    Returns:
        An entry of an experiment file; quick, the base model is trained for one epoch, and so is its unlearning.
    """
    if not bench.quick:
        return DIGITS
    return {**DIGITS, "epochs": 1, "recipe": {"epochs": 1, "batch_size": 64, "schedule": "cosine"}}


def our_run(bench: Bench, entry: dict[str, Any]) -> Side:
    """Make a side that runs SalUn: mask, unlearning, evaluation, attack.

    Args:
        bench: where.
        entry: of an experiment file.

    Returns:
        The side; every call takes another seed.
    """
    cache, experiment, problem = salun_on(bench, entry)
    seeds = iter(range(10**6))
    return timed(lambda: run_once(experiment, problem, next(seeds), cache), bench.device)


def their_run(bench: Bench, entry: dict[str, Any], curve: bool) -> Side:
    """Make a side that runs the control's SalUn.

    Args:
        bench: where.
        entry: of an experiment file.
        curve: whether test, forget and retain set are evaluated after every epoch.

    Returns:
        The side.
    """
    _, experiment, _ = salun_on(bench, entry)
    ground, settings = Ground(bench, "digits", Architecture(TINY, 10, 1, 8), SHARE), experiment.settings
    sets = ground.sets
    problem = Forgetting(
        forget=ground.pictures(sets.forget, training=True),
        retain=ground.pictures(sets.retain, training=True),
        plain={name: ground.pictures(getattr(sets, name)) for name in ("forget", "retain", "test")},
        classes=10,
        keep=0.5,
        lr=settings["lr"],
        epochs=settings["epochs"],
        curve=curve,
    )
    loaders = ground.loaders(settings["batch_size"])

    def run() -> None:
        with as_torch_comes(bench.device):
            forget(ground.theirs(), problem, loaders)

    return timed(run, bench.device)


@item("a whole SalUn run on digits: mask, unlearning, evaluation, attack")
def run(bench: Bench) -> list[Result]:
    """Measure a run beside the control's, with and without its evaluation after every epoch.

    Args:
        bench: where, and how much.

    Returns:
        Two lines.
    """
    entry = digits_entry(bench)
    sides = {
        "ours": our_run(bench, entry),
        "control": their_run(bench, entry, curve=True),
        "without": their_run(bench, entry, curve=False),
    }
    sides["ours"]()
    found = interleaved(sides, 1 if bench.quick else 5)
    goal = bench.goal(least=2, of_ratio=True)
    once = "the control evaluates once, at the end"
    return [
        Result("SalUn run on digits", "s", found["ours"], found["control"], goal),
        Result("SalUn run on digits, no curve", "s", found["ours"], found["without"], note=once),
    ]


def knows_parallel() -> bool:
    """Tell whether runs can be made side by side.

    Returns:
        Whether `salun-unlearn` has the flag.
    """
    return "--parallel" in said(command("unlearn", "--help"), environment())


class Commands:
    """Whole `salun-unlearn` commands on one problem, whose base model is trained before.

    Attributes:
        bench: where.
        number: of commands so far; each writes to a folder of its own, so that its runs are made anew.
    """

    def __init__(self, bench: Bench, entry: dict[str, Any]) -> None:
        """Train the base model, and write the list of the experiment.

        Args:
            bench: where.
            entry: of an experiment file, without a mask.
        """
        salun_on(bench, entry)
        self.bench = bench
        self.number = 0
        (bench.folder / "runs.json").write_text(json.dumps([{**entry, "use_mask": True}]))

    def side(self, runs: int, beside: int = 1) -> Side:
        """Make a side.

        Args:
            runs: how many.
            beside: how many of them at a time.

        Returns:
            The side.
        """
        asked = ["-L", "runs.json", "--nexp", str(runs), "--no-log", "--keep", "none", "--device"]
        asked += [str(self.bench.device), *(["--parallel", str(beside)] if beside > 1 else [])]

        def go() -> float:
            self.number += 1
            line = command("unlearn", *asked, "--out", f"runs{self.number}")
            return seconds_of(lambda: called(line, self.bench.folder))

        return go

    def longest(self) -> float:
        """Look up the last command's slowest unlearning.

        Returns:
            Seconds of mask and method.
        """
        lines = (self.bench.folder / f"runs{self.number}" / "runs" / "records.jsonl").read_text().splitlines()
        return max(sum(float(json.loads(line)["seconds"][part]) for part in ("mask", "method")) for line in lines)


@item("five SalUn runs on digits as one command: in turn, and side by side", devices=("cpu", "mps"))
def five_runs(bench: Bench) -> list[Result]:
    """Measure commands of one and of five runs, start and table included.

    Args:
        bench: where, and how much.

    Returns:
        A line for one run, one for five in turn, and one for five side by side where the package can do that.
    """
    commands, beside = Commands(bench, digits_entry(bench)), min(RUNS, os.cpu_count() or 1)
    sides = {"one": commands.side(1), "turn": commands.side(RUNS)}
    if knows_parallel() and beside > 1:
        sides["beside"] = commands.side(RUNS, beside)
    found = interleaved(sides, 1 if bench.quick else 2)
    results = [
        Result("salun-unlearn, 1 run on digits", "s", found["one"], note="the whole command"),
        Result(f"salun-unlearn, {RUNS} runs on digits in turn", "s", found["turn"], note="the whole command"),
    ]
    if "beside" in found:
        what = f"salun-unlearn, {RUNS} runs on digits, {beside} at a time"
        results.append(Result(what, "s", found["beside"], found["turn"], note="the control is ours in turn"))
    return results
