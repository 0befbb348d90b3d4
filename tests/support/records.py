"""Records of runs that never were, for tests of what is made from records."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from salun.experiments.record import Record, run_id
from salun.experiments.records import append
from salun.metrics import Value
from salun.reports.summary import Row, summarise
from salun.reports.tables import write_summaries
from salun.training.progress import Epoch

METRICS = {"UA": 0.5, "RA": 0.98, "VA": 0.9, "TA": 0.92, "TUA": None, "MIA": 0.4, "RTE": 12.5}
RETRAINED = METRICS | {"UA": 0.9, "RA": 1.0, "TA": 0.94, "MIA": 0.85}
BASE = METRICS | {"UA": 0.02, "RA": 0.99, "TA": 0.95, "MIA": 0.05, "RTE": None}
METRIC_VALUES = {"UA": 0.1, "RA": 0.9, "VA": 0.8, "TA": 0.7, "TUA": None, "MIA": 0.3, "RTE": 12.5}
ODD_TEXT = [
    "a|b",
    "under_score_d and *star*",
    "<script>alert(1)</script>",
    r"\input{x} \\ \& {y}",
    "two\nlines",
    "100 % & # $x$ ~a~ ^b `c`",
    "[link](http://x) ![image](y)",
    "&lt;b&gt; &amp;",
    "ümläut 猫 ± –",
]


def settings_of(method: str, identity: str, fingerprint: str, model: str, request: str) -> dict[str, Any]:
    return {
        "base": {"identity": identity, "model": model, "dataset": "digits", "recipe": None, "split": "S"},
        "forget": {"request": request, "classes": [0], "share": None, "seed": 0, "fingerprint": fingerprint},
        "method": method,
        "settings": {} if method == "retrain" else {"lr": 0.1},
        "mask": None,
    }


def record_of(fields: dict[str, Any]) -> Record:
    settings, seed = fields["settings"], fields["seed"]
    known: dict[str, Any] = {
        "id": run_id(settings, seed),
        "tag": None,
        "seconds": {"mask": 0.0, "method": 1.5, "evaluation": 0.5},
        "peak_memory": 10**9,
        "device": "cpu: 1 thread",
        "versions": {"torch": "2.11"},
        "revision": "abc",
        "diverged": False,
    }
    return Record(**(known | fields))


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
    settings = settings_of(method, f"recipe {model}", f"print of {request}", model, request)
    settings["settings"] = {} if method == "retrain" else {"lr": lr}
    settings["mask"] = None if keep is None else {"keep": keep, "score": score, "batches": None, "file": file}
    chance = np.random.default_rng([seed, len(method), int(1000 * lr), int(100 * (keep or 0))])
    given = RETRAINED if method == "retrain" else METRICS
    spread = {name: value and float(np.clip(value + chance.normal(0, 0.02), 0, 1)) for name, value in given.items()}
    metrics: dict[str, Value] = dict.fromkeys(given) if diverged else {**spread, **(values or {})}
    curve = [
        Epoch(epoch, float("nan") if diverged else 1 / (epoch + seed), 1 - 0.5 / epoch, None, 0.1, 0.25)
        for epoch in range(1, epochs + 1)
    ]
    split = {"fingerprint": "S", "train": 100, "forget": 10}
    known: dict[str, Any] = {
        "metrics": metrics,
        "base_metrics": dict(BASE),
        "curve": curve,
        "split": split,
        "diverged": diverged,
    }
    return record_of({"settings": settings, "seed": seed} | known | fields)


def make(method: str = "rl", seed: int = 0, base: str = "A", forget: str = "F", **fields: Any) -> Record:
    """A record of a run; metrics, base_metrics, tag and the like as given."""
    settings = settings_of(method, base, forget, "resnet_tiny", "class 0") | {"settings": {"lr": 0.1}}
    known: dict[str, Any] = {
        "id": f"{method}-{base}-{forget}-{seed}",
        "metrics": dict(METRIC_VALUES),
        "base_metrics": METRIC_VALUES | {"RTE": None},
        "curve": [Epoch(1, 0.5, 0.75, None, 0.1, 0.25), Epoch(2, 0.25, 1.0, 0.5, 0.01, 0.125)],
        "revision": "abc-dirty",
        "split": {"fingerprint": "S", "train": 10**8, "forget": 10**7},  # so many that a step of one is nothing
    }
    return record_of({"settings": settings, "seed": seed} | known | fields)


def runs(count: int = 3, **given: Any) -> list[Record]:
    """Runs of one experiment, with seeds from 0."""
    return [recorded(seed=seed, **given) for seed in range(count)]


def corrective(records: list[Record], found: float) -> list[Record]:
    """The same runs on corrupted images, of which a part was found."""
    changed = []
    for record in records:
        base = record.settings["base"] | {"corrupt": {"kind": "trigger", "share": 0.05, "target": 0, "seed": 0}}
        part = {"found": found, "fingerprint": f"{found}", "request": f"the found {found} of the corrupted images"}
        settings = record.settings | {"base": base, "forget": record.settings["forget"] | part | {"classes": []}}
        figures = {"ASR": (1 - found) / (1 + len(record.settings["method"])), "CA_found": 0.5}
        more = {"metrics": record.metrics | figures, "base_metrics": record.base_metrics | {"ASR": 1.0}}
        changed.append(replace(record, settings=settings, id=run_id(settings, record.seed), **more))
    return changed


def sweep_runs(method: str = "rl", keeps: tuple[float | None, ...] = (0.1, 0.3, 0.5, None)) -> list[Record]:
    """Runs of one method at several mask thresholds."""
    return [record for keep in keeps for record in runs(method=method, keep=keep)]


def write_runs(path: Path, records: list[Record]) -> Path:
    """Append records to a file."""
    for record in records:
        append(path, record)
    return path


def measured(UA: Value, RA: Value, TA: Value, MIA: Value, **others: Value) -> dict[str, Value]:  # noqa: N803
    return {"UA": UA, "RA": RA, "TA": TA, "MIA": MIA, **others}


def rows_by_title(*experiments: tuple[str, list[Record]]) -> dict[str, Any]:
    rows = summarise(list(experiments))
    assert len({row.title for row in rows}) == len(rows)
    return {row.title: row for row in rows}


def near(distance: float) -> dict[str, Value]:
    return measured(0.5 + distance, 0.5, 0.5, 0.5)


def spread_out(method: str, centre: float, seeds: int = 4, noise: float = 0.01, **kind: Any) -> list[Record]:
    """Runs whose four metrics scatter around a value; base models and forget sets as letters."""
    chance = np.random.default_rng([len(method), int(1000 * centre)])
    return [
        make(
            method,
            seed,
            base=base,
            forget=forget,
            metrics=measured(*(centre + noise * chance.normal(size=4)), RTE=chance.uniform()),
            base_metrics=measured(0.1, 0.5, centre, 0.9),
        )
        for base in kind.get("bases", "A")
        for forget in kind.get("forgets", "F")
        for seed in range(seeds)
    ]


def with_request(record: Record, request: str) -> Record:
    return replace(record, settings=record.settings | {"forget": record.settings["forget"] | {"request": request}})


def written(rows: list[Row]) -> dict[str, str]:
    """The texts of the files of a table, by their ending."""
    with TemporaryDirectory() as folder:
        return {path.suffix[1:]: path.read_text(encoding="utf-8") for path in write_summaries(Path(folder), rows)}
