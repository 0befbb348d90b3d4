"""`salun-viz cka`: how alike the layers of unlearned, base and retrained models are."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from salun.cli.status import notice
from salun.cli.steps import watched
from salun.cli.viz.figures import FigureWriter
from salun.cli.viz.models import DatasetCache, report
from salun.errors import SalunError
from salun.io.files import mirrored_apart, write_text
from salun.latent.cka import LayerComparison
from salun.latent.subset import Side, four_sides
from salun.latent.trios import CHECKPOINTS, Trio, find_trios
from salun.metrics.hsic import SMALLEST_BATCH
from salun.reports.formats import csv_table
from salun.reports.plots.heatmap import Panel, Scale, heatmaps
from salun.reports.plots.style import styled

_PROGRAM = "salun-viz cka"
_YARDSTICK = "retrained ~ base is the yardstick: after perfect unlearning, unlearned ~ base equals it"
_ALIKE = "× beside images: a layer gives the same for all of them, or no numbers"
_COLUMNS = ("set", "images", "first", "second", "layer", "other_layer", "cka")


def run(flags: argparse.Namespace) -> int:
    """Compare layers and draw heat maps.

    Returns:
        The exit status: 3 where a checkpoint could not be read or compared.
    """
    for flag, number in (("-S", flags.samples), ("--batch-size", flags.batch_size)):
        if number < SMALLEST_BATCH:
            raise SalunError(f"{flag} {number}: at least {SMALLEST_BATCH}; the unbiased estimate needs as many images")
    figures = FigureWriter.of(flags)
    data = DatasetCache.of(_PROGRAM, flags)
    trios, failed = find_trios(flags.paths, flags.base, flags.retrained)
    total = len(trios) + len(failed)
    places = mirrored_apart([trio.unlearned.path for trio in trios], CHECKPOINTS)
    for trio, folder in zip(trios, places, strict=True):
        try:
            compared = _compare(flags, trio, data)
        except SalunError as error:
            failed.append(f"{trio.unlearned.path}: {error}")
            continue
        for remark in trio.remarks:
            notice(f"{_PROGRAM}: {remark}")
        place = folder / ("cka_all_layers" if flags.all_layers else "cka")
        _write_table(figures.at(place, ".csv"), compared, flags.all_layers)
        with styled():
            figures.keep(_picture(compared, flags.all_layers), place)
    return report(_PROGRAM, failed, total)


@dataclass(frozen=True)
class _Comparison:
    """The layers of three models, compared on four sets of images."""

    trio: Trio
    layers: list[str]
    pairs: list[tuple[str, str]]
    sides: list[Side]
    values: list[list[NDArray[np.float64]]]


def _compare(flags: argparse.Namespace, trio: Trio, data: DatasetCache) -> _Comparison:
    """Compare the layers of a trio on four sets."""
    models = {"unlearned": trio.unlearned, "base": trio.base}
    pairs = [("unlearned", "base")]
    if trio.retrained is not None:
        models["retrained"] = trio.retrained
        pairs += [("unlearned", "retrained"), ("retrained", "base")]
    dataset = data.take(trio.unlearned.spec)
    sides = [side.first(flags.samples) for side in four_sides(dataset, trio.unlearned)]
    comparison = LayerComparison.of(list(models.values()), sides[1].sample, data.device, flags.layers)
    at = [(list(models).index(first), list(models).index(second)) for first, second in pairs]
    values = []
    with watched(str(trio.unlearned.path), len(sides)) as callback:
        for side in sides:
            values.append(comparison.compare(side.sample, at, flags.batch_size))
            callback()
    return _Comparison(trio, comparison.layers, pairs, sides, values)


def _named(side: Side) -> str:
    """Name a set of images."""
    return f"{side.part}, {'forgotten' if side.forgotten else 'other'}"


def _write_table(path: Path, compared: _Comparison, whole: bool) -> None:
    """Write the similarities as a table."""
    table: list[list[object]] = [list(_COLUMNS)]
    for side, matrices in zip(compared.sides, compared.values, strict=True):
        for pair, matrix in zip(compared.pairs, matrices, strict=True):
            for row, first in enumerate(compared.layers):
                for column, second in enumerate(compared.layers):
                    if whole or row == column:
                        value = matrix[row, column]
                        shown = "" if value != value else repr(float(value))
                        table.append([_named(side), len(side.sample.indices), *pair, first, second, shown])
    write_text(path, csv_table(table))


def _picture(compared: _Comparison, whole: bool) -> Figure:
    """Draw the similarities: a panel for each set; with all layers one for each set and pair."""

    layers, panels = compared.layers, []
    titles = [f"{_named(side)}\n{len(side.sample.indices)} images" for side in compared.sides]
    if whole:
        for at, (first, second) in enumerate(compared.pairs):
            for title, matrices in zip(titles, compared.values, strict=True):
                panels.append(Panel(f"{first} (rows) ~ {second} (columns)\n{title}", matrices[at], layers, layers))
    else:
        columns = [f"{first} ~ {second}" for first, second in compared.pairs]
        for title, matrices in zip(titles, compared.values, strict=True):
            diagonals = np.stack([np.diag(matrix) for matrix in matrices], axis=1)
            panels.append(Panel(title, diagonals, layers, columns))
    low = min([0.0, *(float(panel.values[np.isfinite(panel.values)].min(initial=0)) for panel in panels)])
    model = compared.trio.unlearned
    title = f"Layers of {model.spec.model}: {model.title}, {model.forget} to be forgotten"
    scale = Scale("linear CKA", low=low, high=1.0, form=".2f", rows="layer")
    return heatmaps(panels, scale, title, across=4, caption=_caption_of(compared))


def _caption_of(compared: _Comparison) -> str:
    """Say how to read the figure."""
    parts = [_YARDSTICK] if compared.trio.retrained is not None else []
    for side, matrices in zip(compared.sides, compared.values, strict=True):
        if len(side.sample.indices) >= SMALLEST_BATCH and np.isnan(matrices).any() and _ALIKE not in parts:
            parts.append(_ALIKE)
    return "; ".join(parts)
