"""Item: whether speed is bought with accuracy."""

from statistics import fmean
from typing import Any

from benchmarks.items import Bench, item
from benchmarks.measure import Goal, Result, Spread
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.runner import run_experiment
from salun.experiments.schema import validate
from salun.models.architecture import TINY
from salun.reports.statistics import difference
from salun.reports.summary import gap_to
from salun.unlearning import load_methods

SEEDS = 5
SHARE = 0.1
NOISY = "synthetic:n=1500,size=8,classes=10,noise=0.5"
_RECIPE = {"epochs": 10, "batch_size": 64, "schedule": "cosine"}
PROBLEMS: dict[str, dict[str, Any]] = {
    "digits": {"model": TINY, "dataset": "digits", "recipe": _RECIPE},
    "synthetic": {"model": TINY, "dataset": NOISY, "recipe": _RECIPE},
    "16 pixels": {"model": TINY, "dataset": NOISY.replace("size=8", "size=16"), "recipe": _RECIPE},
}
METRICS = ["UA", "RA", "TA", "MIA"]
# The first two have images of 8 pixels, where "auto" is float32; bf16 is asked for by name.
TEST_IMAGES = {"digits": 359, "synthetic": 300, "16 pixels": 300}
Values = dict[str, dict[int, float]]


def measured_with(bench: Bench, problem: dict[str, Any], precision: str, compiled: bool, seed: int) -> dict[str, float]:
    """Train a base model, retrain, and run SalUn.

    Args:
        bench: where, and how much.
        problem: model, data set and recipe.
        precision: of forward passes.
        compiled: whether models are compiled.
        seed: of all of it.

    Returns:
        Test accuracies of the three, and the average gap of SalUn, in percent.
    """
    folder = bench.folder / f"{precision}{compiled}"
    cache = ModelCache(RunContext(bench.device, bench.folder / "data", folder, compiled=compiled))
    short: dict[str, Any] = {"epochs": 1} if bench.quick else {}
    shared = {
        **problem,
        "recipe": {**problem["recipe"], "precision": precision, **short},
        "base_seed": seed,
        "unlearning_rate": SHARE,
        "forget_seed": seed,
    }
    entries = [{"method": "retrain"}, {"method": "rl", "use_mask": True, **short}]
    gold, salun = (
        run_experiment(experiment, seed, cache).record
        for experiment in validate([{**shared, "metrics": METRICS, **entry} for entry in entries], "benchmark")
    )
    gaps = gap_to(salun.metrics, gold.metrics)
    found = {
        "base model, test accuracy": salun.base_metrics["TA"],
        "retrained, test accuracy": gold.metrics["TA"],
        "SalUn, test accuracy": salun.metrics["TA"],
        "SalUn, average gap": gaps["average"],
    }
    return {name: 100 * value for name, value in found.items() if value is not None}


@item("accuracy: bf16, and compiled, beside float32 over five seeds", devices=())
def accuracy(bench: Bench) -> list[Result]:
    """Measure test accuracies and average gap in both precisions.

    Args:
        bench: where, and how much.

    Returns:
        A line a problem, a way of computing and a value: the difference with its interval.
    """
    load_methods()
    ways = {"float32": ("float32", False), "bf16": ("bf16", False)}
    if not bench.quick:
        ways["bf16, compiled"] = ("bf16", True)
    results = []
    for name, problem in PROBLEMS.items():
        found = {way: all_seeds(bench, problem, *settings) for way, settings in ways.items()}
        for way in list(ways)[1:]:
            for what, values in found[way].items():
                step = 100 / TEST_IMAGES[name] if what.endswith("accuracy") else 0.0
                results.append(line_of(f"{name}: {what}", way, values, found["float32"][what], step))
    return results


def all_seeds(bench: Bench, problem: dict[str, Any], precision: str, compiled: bool) -> Values:
    """Measure with several seeds.

    Args:
        bench: where, and how much.
        problem: model, data set and recipe.
        precision: of forward passes.
        compiled: whether models are compiled.

    Returns:
        Values by name and seed.
    """
    found: Values = {}
    for seed in range(2 if bench.quick else SEEDS):
        for name, value in measured_with(bench, problem, precision, compiled, seed).items():
            found.setdefault(name, {})[seed] = value
    return found


def line_of(what: str, way: str, values: dict[int, float], standard: dict[int, float], step: float) -> Result:
    """Compare two ways of computing over the same seeds.

    Args:
        what: is compared.
        way: of computing.
        values: by that way, by seed.
        standard: by float32, one operation after another, by seed.
        step: in which the values move.

    Returns:
        The mean of the paired differences, whose goal is to be within their 95 % interval's half width.
    """
    ours, theirs = ({("", "", seed): value for seed, value in side.items()} for side in (values, standard))
    found = difference(ours, theirs, step)
    if found is None:
        raise RuntimeError(f"{what}: fewer than two seeds")
    half = found.half_width or 0.0
    means = f"{way} {fmean(values.values()):.2f} %, float32 {fmean(standard.values()):.2f} %"
    note = f"{means}; difference {found.difference:+.2f} +- {half:.2f}, {found.n} pairs"
    return Result(f"{what}, {way}", "points", Spread((found.difference,)), goal=Goal(-half, half), note=note)
