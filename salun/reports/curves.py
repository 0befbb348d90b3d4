"""What figures of runs show beyond a table: curves over epochs, sweeps over the mask's threshold or the part found."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salun.experiments.config import Experiment
from salun.experiments.record import experiment_of
from salun.reports.formats import csv_table
from salun.reports.labels import told_apart
from salun.reports.summary import Row, grouped

_Floats = NDArray[np.float64]
_QUANTITIES = ("loss", "accuracy", "validation")
_UNMASKED = 1.0


@dataclass(frozen=True)
class Curve:
    """What the R runs of one experiment measured in E epochs: (R, E) by quantity, NaN where a run has no value."""

    row: Row
    epochs: NDArray[np.int64]
    values: dict[str, _Floats]

    def mean(self, quantity: str) -> _Floats:
        """Average a quantity over the runs that have it: (E,), NaN where no run has a value."""
        values = self.values[quantity]
        finite = np.isfinite(values)
        counts = finite.sum(0)
        sums = np.where(finite, values, 0.0).sum(0)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def curve_of(row: Row) -> Curve | None:
    """Gather the curves of an experiment's runs; None of a base model and of methods without epochs."""
    epochs = sorted({point.epoch for record in row.records for point in record.curve})
    if not epochs:
        return None
    places = {epoch: place for place, epoch in enumerate(epochs)}
    values = {name: np.full((len(row.records), len(epochs)), np.nan) for name in _QUANTITIES}
    for run, record in enumerate(row.records):
        for point in record.curve:
            for name in _QUANTITIES:
                value = getattr(point, name)
                values[name][run, places[point.epoch]] = math.nan if value is None else value
    return Curve(row, np.array(epochs, dtype=np.int64), values)


def curves_as_csv(curves: Iterable[Curve]) -> str:
    """Render curves for a spreadsheet, accuracies as fractions: one line an epoch of a run."""
    names = (*_QUANTITIES, "lr")
    lines = [
        [curve.row.title, *draw, point.epoch, *(_known(getattr(point, name)) for name in names)]
        for curve in curves
        for record, draw in zip(curve.row.records, curve.row.draws, strict=True)
        for point in record.curve
    ]
    return csv_table([["title", "base_model", "forget_set", "seed", "epoch", *names], *lines])


def _known(value: float | None) -> float | None:
    """Take a number for what it is, and NaN for none."""
    return None if value is None or math.isnan(value) else value


@dataclass(frozen=True)
class Sweep:
    """One method with the same settings, by the rising value of what was varied.

    Varied was the fraction of the weights that may move, 1 without a mask; or the part of the corrupted images that was
    found.
    """

    title: str
    rows: dict[float, Row]


def sweeps_of(rows: Iterable[Row]) -> list[Sweep]:
    """Find the methods run at two mask thresholds or more: 1 without a mask, unknown with one from a file."""
    unmasked: dict[str, Row] = {}
    families: dict[str, tuple[Experiment, str, dict[float, Row]]] = {}
    for row in (row for row in rows if row.kind == "method"):
        experiment = experiment_of(row.records[0], 0)
        mask, plain = experiment.mask, _key_of(experiment)
        if mask is None:
            unmasked[plain] = row
        elif mask.file is None:
            settings = experiment.settings | {"mask score": mask.score, "mask batches": mask.batches}
            family = experiment.model_copy(update={"settings": settings, "mask": None, "tag": None})
            families.setdefault(_key_of(family), (family, plain, {}))[2][mask.keep] = row
    swept = []
    for family, plain, found in families.values():
        if plain in unmasked:
            found.setdefault(_UNMASKED, unmasked[plain])
        if len(found) > 1:
            swept.append((family, dict(sorted(found.items()))))
    groups = [next(iter(found.values())).group for _, found in swept]
    numbered = [family.model_copy(update={"number": place}) for place, (family, _) in enumerate(swept)]
    titles = told_apart(dict(enumerate(zip(numbered, groups, strict=True))))
    return [Sweep(titles[place], found) for place, (_, found) in enumerate(swept)]


def found_sweeps_of(rows: Iterable[Row]) -> dict[str, list[Sweep]]:
    """Find what was run with two parts of the corrupted images found or more, by base models."""
    found: dict[str, dict[tuple[str, str], dict[float, Row]]] = {}
    for (base, _), members in grouped(list(rows)).items():
        part = next(record for row in members for record in row.records).settings["forget"].get("found")
        for row in members if part is not None else ():
            found.setdefault(base, {}).setdefault((row.kind, row.title), {})[part] = row
    swept = {
        base: [Sweep(title, dict(sorted(by.items()))) for (_, title), by in families.items() if len(by) > 1]
        for base, families in found.items()
    }
    return {base: sweeps for base, sweeps in swept.items() if sweeps}


def _key_of(experiment: Experiment) -> str:
    """Identify an experiment's method, settings, pruning and budget."""
    sparse = experiment.prune and experiment.prune.model_dump()
    return json.dumps([experiment.method, experiment.settings, sparse, experiment.budget], sort_keys=True)


def sweeps_as_csv(sweeps: Iterable[Sweep], names: Sequence[str], varied: str = "mask_keep") -> str:
    """Render sweeps for a spreadsheet: one line a method and value.

    Args:
        sweeps: of methods.
        names: metrics; "gap" is the average gap.
        varied: heading of the values.
    """
    parts = ("mean", "sd", "n", "low", "high")
    lines = [
        [sweep.title, keep, row.title, *(getattr(row.value(name), part) for name in names for part in parts)]
        for sweep in sweeps
        for keep, row in sweep.rows.items()
    ]
    return csv_table([["sweep", varied, "title", *(f"{name}_{part}" for name in names for part in parts)], *lines])
