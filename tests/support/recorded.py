"""Records of runs that never were, for tests of what is made from records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from salun.experiments.record import Record, run_id
from salun.experiments.records import append
from salun.metrics import Value
from salun.training.progress import Epoch

METRICS = {"UA": 0.5, "RA": 0.98, "VA": 0.9, "TA": 0.92, "TUA": None, "MIA": 0.4, "RTE": 12.5}
RETRAINED = METRICS | {"UA": 0.9, "RA": 1.0, "TA": 0.94, "MIA": 0.85}
BASE = METRICS | {"UA": 0.02, "RA": 0.99, "TA": 0.95, "MIA": 0.05, "RTE": None}


def settings_of(
    method: str, lr: float, keep: float | None, score: str, model: str, request: str, file: str | None
) -> dict[str, Any]:
    return {
        "base": {"identity": f"recipe {model}", "model": model, "dataset": "digits", "recipe": None, "split": "S"},
        "forget": {"request": request, "classes": [0], "share": None, "seed": 0, "fingerprint": f"print of {request}"},
        "method": method,
        "settings": {} if method == "retrain" else {"lr": lr},
        "mask": None if keep is None else {"keep": keep, "score": score, "batches": None, "file": file},
    }


def recorded(
    method: str = "rl",
    seed: int = 0,
    lr: float = 0.1,
    keep: float | None = None,
    score: str = "sum",
    model: str = "resnet_tiny",
    request: str = "class 0",
    file: str | None = None,
    epochs: int = 3,
    values: Mapping[str, Value] | None = None,
    diverged: bool = False,
    **fields: Any,
) -> Record:
    """A record; `values` in place of metrics that else depend on method and seed, other fields as given."""
    settings = settings_of(method, lr, keep, score, model, request, file)
    chance = np.random.default_rng([seed, len(method), int(1000 * lr), int(100 * (keep or 0))])
    given = RETRAINED if method == "retrain" else METRICS
    spread = {name: value and float(np.clip(value + chance.normal(0, 0.02), 0, 1)) for name, value in given.items()}
    metrics: dict[str, Value] = dict.fromkeys(given) if diverged else {**spread, **(values or {})}
    curve = [
        Epoch(epoch, float("nan") if diverged else 1 / (epoch + seed), 1 - 0.5 / epoch, None, 0.1, 0.25)
        for epoch in range(1, epochs + 1)
    ]
    known: dict[str, Any] = {
        "id": run_id(settings, seed),
        "settings": settings,
        "seed": seed,
        "tag": None,
        "metrics": metrics,
        "base_metrics": dict(BASE),
        "curve": curve,
        "seconds": {"mask": 0.0, "method": 1.5, "evaluation": 0.5},
        "peak_memory": 10**9,
        "device": "cpu: 1 thread",
        "versions": {"torch": "2.11"},
        "revision": "abc",
        "split": {"fingerprint": "S", "train": 100, "forget": 10},
        "diverged": diverged,
    }
    return Record(**(known | fields))


def runs(count: int = 3, **given: Any) -> list[Record]:
    """Runs of one experiment, with seeds from 0."""
    return [recorded(seed=seed, **given) for seed in range(count)]


def sweep_runs(method: str = "rl", keeps: tuple[float | None, ...] = (0.1, 0.3, 0.5, None)) -> list[Record]:
    """Runs of one method at several mask thresholds."""
    return [record for keep in keeps for record in runs(method=method, keep=keep)]


def write_runs(path: Path, records: list[Record]) -> Path:
    """Append records to a file."""
    for record in records:
        append(path, record)
    return path
