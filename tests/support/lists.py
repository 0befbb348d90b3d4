"""Lists of cheap experiments on a small model, planned and done as a command would."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.experiments.base_training import train_checkpoint
from salun.experiments.bases import prepare_base
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.problem import ForgettingProblem, base_checkpoint
from salun.experiments.records import read
from salun.experiments.runner import Runner
from salun.experiments.schema import validate
from salun.models.architecture import TINY
from salun.models.checkpoint import Checkpoint, load_checkpoint
from salun.training.progress import Callback, Progress, no_callback
from salun.training.recipe import Recipe

CPU = torch.device("cpu")
BASE = "checkpoints/base.pt"
SMALL = "synthetic:n=90,size=8,classes=4"
SHORT = {"epochs": 1, "batch_size": 32}
RECORDS = Path("runs/list/records.jsonl")
WEIGHTS = Path("checkpoints/list")
TIMES = {"seconds", "peak_memory", "finished", "device", "revision", "curve", "digest"}


def train_small() -> Checkpoint:
    """A model of very few, very small images."""
    return train_checkpoint(TINY, load(SMALL), make_split(load(SMALL), ForgetRequest()), Recipe(**SHORT), CPU)[0]


def entries(*given: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries on the small model, as cheap as can be."""
    common = {"checkpoint": BASE, "class_to_forget": 0, "method": "ga_small", "epochs": 1, "metrics": ["UA"]}
    return [{key: value for key, value in (common | keys).items() if value is not None} for keys in given]


def planned(*given: dict[str, Any], runs: int = 1, bases: int = 1, forgets: int = 1) -> list[Job]:
    return plan(validate(entries(*given), "test"), Repeats(runs, bases, forgets), ModelCache(RunContext(CPU)), "test")


class Counted:
    """Tells which runs were started, and interrupts one of them."""

    def __init__(self, interrupted: int | None = None) -> None:
        self.started: list[tuple[int, int]] = []
        self.interrupted = interrupted

    def callback(self, job: Job) -> Callback:
        self.started.append((job.experiment.number, job.seed))
        return self.stop if len(self.started) == self.interrupted else no_callback

    def stop(self, progress: Progress) -> None:
        raise KeyboardInterrupt


def runner(keep: Any = "none") -> Runner:
    return Runner(ModelCache(RunContext(CPU)), RECORDS, WEIGHTS, keep)


def do(jobs: list[Job], keep: Any = "none", interrupted: int | None = None) -> list[tuple[int, int]]:
    """Do what is missing of a list, as a command of its own would; which runs were started, by entry and seed."""
    counted = Counted(interrupted)
    list(runner(keep).run(jobs, counted.callback))
    return counted.started


class Seen:
    """Watches several runs at a time."""

    def __init__(self) -> None:
        self.steps: dict[str, list[Progress]] = {}

    def callback(self, job: Job) -> Callback:
        return self.steps.setdefault(job.id, []).append


def results() -> dict[str, tuple[Any, ...]]:
    """What is recorded and kept of each run, but for times; each run has one record."""
    kept = {path.stem[-8:]: load_checkpoint(path).fingerprint for path in WEIGHTS.glob("*.safetensors")}
    lines = [json.loads(line)["id"] for line in RECORDS.read_text().splitlines()]
    assert len(lines) == len(set(lines))
    return {
        name: (
            {key: value for key, value in asdict(record).items() if key not in TIMES},
            [(point.epoch, point.loss, point.accuracy, point.lr) for point in record.curve],
            kept[name[:8]],
        )
        for name, record in read(RECORDS)[0].items()
    }


def trained_base(problem: ForgettingProblem, cache: ModelCache) -> Checkpoint:
    """The base model of a problem, trained where it is missing."""
    prepare_base(problem, cache)
    return base_checkpoint(problem.spec, cache)
