"""Items: what passes before the first step."""

import subprocess
import sys
import time

import torch

from benchmarks.items import Bench, item
from benchmarks.measure import Result, Spread, interleaved, seconds_of, timed
from benchmarks.processes import called, command, environment
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SIGN = "first step done"
FIRST_STEP = f"""
import sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from salun.cli.entry import train

def tell(*step):
    hook.remove()
    print("{SIGN}", flush=True)

hook = register_optimizer_step_post_hook(tell)
sys.exit(train())
"""


@item("--help of every command")
def help_text(bench: Bench) -> list[Result]:
    """Measure `--help`.

    Args:
        bench: how often.

    Returns:
        A line a command.
    """
    names = ("train", "unlearn", "audit", "extract", "viz")
    sides = {
        name: (lambda name=name: seconds_of(lambda: called(command(name, "--help"), bench.folder))) for name in names
    }
    interleaved(sides, 1)
    found = interleaved(sides, 1 if bench.quick else 5)
    return [Result(f"salun-{name} --help", "s", spread, goal=bench.goal(most=0.3)) for name, spread in found.items()]


@item("from the command to the first training step, on digits")
def first_step(bench: Bench) -> list[Result]:
    """Measure `salun-train --dataset digits` until its first optimiser step is done.

    Args:
        bench: where, and how often.

    Returns:
        A line.
    """
    spread = Spread(tuple(seconds_to_step(bench) for _ in range(1 if bench.quick else 3)))
    return [Result("command to first training step, digits", "s", spread, goal=bench.goal(most=6))]


def seconds_to_step(bench: Bench) -> float:
    """Start a training and wait for its first step.

    Args:
        bench: where.

    Returns:
        Seconds from the start of the process.

    Raises:
        RuntimeError: it ended without a step.
    """
    flags = ["--dataset", "digits", "--epochs", "1", "--no-log", "--device", str(bench.device), "--comment", "start"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST_STEP, *flags],
        cwd=bench.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    with process:
        for line in process.stdout or ():
            if line.strip() == SIGN:
                seconds = time.perf_counter() - begun
                process.communicate()
                return seconds
    raise RuntimeError("salun-train ended before its first step")


@item("reading a checkpoint, its model built")
def checkpoint(bench: Bench) -> list[Result]:
    """Measure `load_checkpoint` beside `torch.load`, both with the model built and its weights put in.

    Args:
        bench: which model, and how often.

    Returns:
        A line.
    """
    architecture, path = bench.architecture, bench.folder / "checkpoint.pt"
    save_checkpoint(path, Checkpoint(build(architecture).state_dict(), architecture, "synthetic"))

    def ours() -> None:
        load_checkpoint(path).restore().to(bench.device)

    def theirs() -> None:
        model = build(architecture)
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False)["model"])
        model.to(bench.device)

    sides = {"ours": timed(ours, bench.device), "control": timed(theirs, bench.device)}
    interleaved(sides, 1)
    found = interleaved(sides, 1 if bench.quick else 7)
    size = path.stat().st_size / 2**20
    return [Result(f"checkpoint of {architecture.model}, {size:.0f} MiB", "s", found["ours"], found["control"])]
