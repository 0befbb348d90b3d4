"""Processes that train together on gloo, as a launcher starts them, with torch imported once for all."""

import atexit
import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

COMPILER = "torch._dynamo.eval_frame"  # which torch imports as processes join


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def begin(
    rank: int, place: dict[str, str], folder: Path, target: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Be one process: what it prints goes to `out0`, `err0`, ..."""
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        with open(f"{name}{rank}", "w") as file:
            os.dup2(file.fileno(), 1 if name == "out" else 2)
    import torch

    torch.set_num_threads(1)
    try:
        sys.exit(target(*arguments))
    finally:
        atexit._run_exitfuncs()  # which processes of this library leave out


def start(folder: Path, size: int, target: Callable[..., Any], *arguments: Any) -> list[BaseProcess]:
    """Start processes; whatever they write relative to their folder goes to `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["salun.cli.train", "salun.experiments.run", "salun.cli.progress", "salun.experiments.tracking", COMPILER]
    )
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [context.Process(target=begin, args=(rank, place, folder, target, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def end(processes: list[BaseProcess], seconds: float = 60) -> list[int | None]:
    """Wait for processes, and give their exit statuses."""
    try:
        for process in processes:
            process.join(seconds)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ValueError):
                process.kill()


def fit_in_double(path: Path) -> int:
    """Train in float64 with whatever processes there are, where rounding is too small to hide an error."""
    import torch
    from torch import nn

    from salun.data.images import Images
    from salun.data.transforms import Preparation
    from salun.training.distributed import joined
    from salun.training.loop import train
    from salun.training.recipe import Recipe
    from salun.training.runtime import Runtime

    prepare = Preparation((0.5,) * 3, (0.25,) * 3, padding=2, flip=True)
    cpu, count = torch.device("cpu"), 75
    with joined() as group:
        group.begin(cpu)
        torch.manual_seed(0)
        # Without batch normalisation, which on processors sees the images of one process alone.
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 7 * 7, 4)]
        model = nn.Sequential(*layers).double()
        pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)
        rows = torch.arange(count)

        def view(*given):
            return prepare(*given).double()

        every = Images(pixels, rows, pixels[:, 0].float().mean((1, 2)).long() % 4, cpu, view)
        sets = every.take(rows[:61]), every.take(rows[61:])
        recipe = Recipe(epochs=3, lr=0.1, batch_size=12, schedule="plateau")
        curve, _ = train(model, *sets, recipe, torch.Generator().manual_seed(1), Runtime(group=group))
        torch.save((model.state_dict(), [vars(point) for point in curve]), path.with_name(f"{path.name}{group.rank}"))
        group.end()
    return 0


def train(argv: list[str]) -> int:
    """Run `salun-train`."""
    from salun.cli.train import main

    return main(argv)
