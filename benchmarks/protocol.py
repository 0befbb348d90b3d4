"""Item: the paper's protocol on images of CIFAR-10's shape, as one CUDA device does it."""

from statistics import median
from typing import Any

from benchmarks.items import Bench, item
from benchmarks.measure import Result, Spread
from benchmarks.runs import RUNS, Commands, knows_parallel, salun_on
from salun.experiments.record import Record
from salun.experiments.run import run_once
from salun.experiments.runner import run_experiment
from salun.experiments.schema import validate

EPOCHS = 182
MEASURED = 20
TIMES = 3
CIFAR = "synthetic:n=50000"
SMALL = "synthetic:n=400,size=8"


def entry_of(bench: Bench) -> dict[str, Any]:
    """Describe the protocol's SalUn; its base model is trained for two epochs, which changes no duration.

    Args:
        bench: how much.

    Returns:
        An entry of an experiment file, without a mask.
    """
    shared = {"model": bench.scale.model, "unlearning_rate": 0.1, "method": "rl"}
    recipe = {"epochs": 2, "lr": 0.1, "batch_size": bench.scale.batch}
    if bench.quick:
        return {**shared, "dataset": SMALL, "recipe": recipe, "epochs": 2, "batch_size": bench.scale.batch}
    return {**shared, "dataset": CIFAR, "recipe": recipe, "epochs": 10}


@item("the paper's protocol: retraining, SalUn, five runs side by side", devices=("cuda",))
def protocol(bench: Bench) -> list[Result]:
    """Measure the protocol: 45,000 images, ResNet-18, batch 256, a tenth of them forgotten.

    Args:
        bench: where, and how much.

    Returns:
        The lines.
    """
    return [*retraining(bench), *salun(bench), *side_by_side(bench)]


def retraining(bench: Bench) -> list[Result]:
    """Measure epochs of retraining, and reckon what all of them take.

    Args:
        bench: where, and how much.

    Returns:
        Images a second, and seconds of the whole.
    """
    entry, epochs = entry_of(bench), 3 if bench.quick else MEASURED
    cache, _, _ = salun_on(bench, entry)
    without = {key: entry[key] for key in ("model", "dataset", "unlearning_rate")}
    recipe = {**entry["recipe"], "epochs": epochs}
    (experiment,) = validate([{**without, "recipe": recipe, "method": "retrain", "metrics": ["TA"]}], "benchmark")
    record = run_experiment(experiment, 0, cache).record
    seconds = [point.seconds for point in record.curve]
    images = record.split["retain"]
    steady = seconds[1:]
    whole = seconds[0] + (EPOCHS - 1) * median(steady)
    pace = Spread(tuple(images / value for value in steady))
    what = f"retraining {bench.scale.model}, {images:,} images an epoch, batch {bench.scale.batch}"
    note = f"{epochs} epochs measured, the first {seconds[0]:.2f} s, then {median(steady):.3f} s each"
    return [
        Result(what, "images/s", pace, goal=bench.goal(least=80_000), note=note),
        Result(f"retraining, {EPOCHS} epochs, extrapolated", "s", Spread((whole,)), goal=bench.goal(most=110)),
    ]


def salun(bench: Bench) -> list[Result]:
    """Measure whole SalUn runs.

    Args:
        bench: where, and how much.

    Returns:
        Seconds of mask and unlearning, as RTE counts them, and of the mask and the evaluation alone.
    """
    cache, experiment, problem = salun_on(bench, entry_of(bench))
    records: list[Record] = [run_once(experiment, problem, seed, cache).record for seed in range(TIMES)]
    both = Spread(tuple(record.unlearning_seconds for record in records))
    parts = {part: Spread(tuple(record.seconds[part] for record in records)) for part in ("mask", "evaluation")}
    sizes = records[0].split
    note = f"forgets {sizes['forget']:,} of {sizes['train']:,} images"
    memory = Spread(tuple(record.peak_memory / 2**20 for record in records))
    epochs = experiment.settings["epochs"]
    return [
        Result(f"SalUn, {epochs} epochs with mask (RTE)", "s", both, goal=bench.goal(most=7), note=note),
        Result("of which the mask", "s", parts["mask"]),
        Result("evaluation and attack after it", "s", parts["evaluation"]),
        Result("peak memory", "MiB", memory),
    ]


def side_by_side(bench: Bench) -> list[Result]:
    """Measure one run, and five side by side, each as one command.

    Args:
        bench: where, and how much.

    Returns:
        Seconds of both and their quotient, whole and without start and evaluation; nothing where the package cannot
        run side by side.
    """
    if not knows_parallel():
        return []
    commands = Commands(bench, entry_of(bench))
    one = commands.side(1)()
    alone = commands.longest()
    five = commands.side(RUNS, RUNS)()
    slowest = commands.longest()
    note = f"mask and unlearning of the slowest: {slowest:.2f} s, of one alone: {alone:.2f} s"
    goal = bench.goal(most=3)
    return [
        Result("salun-unlearn, 1 run of the protocol", "s", Spread((one,)), note="the whole command"),
        Result(f"salun-unlearn, {RUNS} runs side by side", "s", Spread((five,)), note="the whole command"),
        Result(f"{RUNS} runs side by side, whole commands", "x one", Spread((five / one,)), goal=goal),
        Result(f"{RUNS} runs side by side, unlearning", "x one", Spread((slowest / alone,)), goal=goal, note=note),
    ]
