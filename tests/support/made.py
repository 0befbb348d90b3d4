"""Records, made up, of runs that differ in what a test is about."""

from dataclasses import replace
from typing import Any

import numpy as np

from salun.experiments.record import Record
from salun.metrics import Value
from salun.reports.summary import summarise
from salun.training.progress import Epoch

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


def make(method: str = "rl", seed: int = 0, base: str = "A", forget: str = "F", **fields: Any) -> Record:
    """A record of a run; metrics, base_metrics, tag and the like as given."""
    settings = {
        "base": {"identity": base, "model": "resnet_tiny", "dataset": "digits", "recipe": None, "split": "S"},
        "forget": {"request": "class 0", "classes": [0], "share": None, "seed": 0, "fingerprint": forget},
        "method": method,
        "settings": {"lr": 0.1},
        "mask": None,
    }
    known: dict[str, Any] = {
        "id": f"{method}-{base}-{forget}-{seed}",
        "settings": settings,
        "seed": seed,
        "tag": None,
        "metrics": dict(METRIC_VALUES),
        "base_metrics": METRIC_VALUES | {"RTE": None},
        "curve": [Epoch(1, 0.5, 0.75, None, 0.1, 0.25), Epoch(2, 0.25, 1.0, 0.5, 0.01, 0.125)],
        "seconds": {"mask": 0.0, "method": 1.5, "evaluation": 0.5},
        "peak_memory": 10**9,
        "device": "cpu: 1 thread",
        "versions": {"torch": "2.11"},
        "revision": "abc-dirty",
        "split": {"fingerprint": "S", "train": 10**8, "forget": 10**7},  # so many that a step of one is nothing
        "diverged": False,
    }
    return Record(**(known | fields))


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
