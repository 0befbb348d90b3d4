"""`salun-viz cka`: how alike the layers of unlearned, base and retrained models are."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salun.cli.arguments import notice, positive
from salun.cli.steps import watched
from salun.cli.viz.album import FigureWriter, add_figure_flags
from salun.cli.viz.models import CHECKPOINTS, DatasetCache, add_model_flags, find_triples, report, shelf

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from salun.latent.subset import Side
    from salun.latent.trios import Triple

HELP = "linear CKA of unlearned against base and retrained models, layer by layer"
_PROGRAM = "salun-viz cka"
_YARDSTICK = "retrained ~ base is the yardstick: after perfect unlearning, unlearned ~ base equals it"
_ALIKE = "× beside images: a layer gives the same for all of them, or no numbers"
_COLUMNS = ("set", "images", "first", "second", "layer", "other_layer", "cka")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets the flags.
    """
    add_model_flags(parser)
    parser.add_argument(
        "-S", "--samples", type=positive, default=1000, metavar="N", help="the first N images of each set (1000)"
    )
    parser.add_argument("-B", "--batch-size", type=positive, default=256, metavar="N", help="images at once (256)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="modules (default: stem, blocks and head)")
    parser.add_argument("--all-layers", action="store_true", help="every layer with every layer, not just its own kind")
    add_figure_flags(parser)


def draw(flags: argparse.Namespace) -> int:
    """Compare layers and draw heat maps.

    Args:
        flags: of the command line.

    Returns:
        The exit status: 3 where a checkpoint could not be read or compared.

    Raises:
        SalunError: a flag, a checkpoint or the data are refused.
    """
    from salun.errors import SalunError
    from salun.io.files import mirrored_apart
    from salun.metrics.hsic import SMALLEST_BATCH
    from salun.reports.plots.style import styled

    for flag, number in (("-S", flags.samples), ("--batch-size", flags.batch_size)):
        if number < SMALLEST_BATCH:
            raise SalunError(f"{flag} {number}: at least {SMALLEST_BATCH}; the unbiased estimate needs as many images")
    album = FigureWriter.of(flags)
    data = shelf(flags)
    found = find_triples(flags)
    failed = list(found.failed)
    places = mirrored_apart([triple.unlearned.path for triple in found.triples], CHECKPOINTS)
    for triple, folder in zip(found.triples, places, strict=True):
        try:
            compared = _compare(flags, triple, data)
        except SalunError as error:
            failed.append(f"{triple.unlearned.path}: {error}")
            continue
        for remark in triple.remarks:
            notice(f"{_PROGRAM}: {remark}")
        place = folder / ("cka_all_layers" if flags.all_layers else "cka")
        _write_table(album.at(place, ".csv"), compared, flags.all_layers)
        with styled():
            album.keep(_picture(compared, flags.all_layers), place)
    return report(_PROGRAM, failed, len(found.triples) + len(found.failed))


@dataclass(frozen=True)
class _Compared:
    """The layers of three models, compared on four sets of images.

    Attributes:
        triple: the models.
        layers: L names.
        pairs: names of the two models that are compared.
        sides: the sets, with as many images as were asked for.
        values: by set and pair, (L, L).
    """

    triple: "Triple"
    layers: list[str]
    pairs: list[tuple[str, str]]
    sides: "list[Side]"
    values: "list[list[NDArray[np.float64]]]"


def _compare(flags: argparse.Namespace, triple: "Triple", data: DatasetCache) -> _Compared:
    """Compare the layers of a triple on four sets."""
    from salun.latent.cka import LayerComparison
    from salun.latent.subset import four_sides

    models = {"unlearned": triple.unlearned, "base": triple.base}
    pairs = [("unlearned", "base")]
    if triple.retrained is not None:
        models["retrained"] = triple.retrained
        pairs += [("unlearned", "retrained"), ("retrained", "base")]
    dataset = data.take(triple.unlearned.spec.dataset)
    sides = [side.first(flags.samples) for side in four_sides(dataset, triple.unlearned)]
    bench = LayerComparison.of(list(models.values()), sides[1].sample, data.device, flags.layers)
    at = [(list(models).index(first), list(models).index(second)) for first, second in pairs]
    values = []
    with watched(str(triple.unlearned.path), len(sides)) as callback:
        for side in sides:
            values.append(bench.compare(side.sample, at, flags.batch_size))
            callback()
    return _Compared(triple, bench.layers, pairs, sides, values)


def _named(side: "Side") -> str:
    """Name a set of images."""
    return f"{side.part}, {'forgotten' if side.forgotten else 'other'}"


def _write_table(path: Path, compared: _Compared, whole: bool) -> None:
    """Write the similarities as a table."""
    from salun.io.files import write_text
    from salun.reports.formats import csv_table

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


def _picture(compared: _Compared, whole: bool) -> "Figure":
    """Draw the similarities: a panel for each set; with all layers one for each set and pair."""
    import numpy as np

    from salun.reports.plots.heatmap import Panel, Scale, heatmaps

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
    model = compared.triple.unlearned
    title = f"Layers of {model.spec.model}: {model.title}, {model.forget} to be forgotten"
    scale = Scale("linear CKA", low=low, high=1.0, form=".2f", rows="layer")
    return heatmaps(panels, scale, title, across=4, caption=_caption_of(compared))


def _caption_of(compared: _Compared) -> str:
    """Say how to read the figure."""
    import numpy as np

    from salun.metrics.hsic import SMALLEST_BATCH

    parts = [_YARDSTICK] if compared.triple.retrained is not None else []
    for side, matrices in zip(compared.sides, compared.values, strict=True):
        if len(side.sample.indices) >= SMALLEST_BATCH and np.isnan(matrices).any() and _ALIKE not in parts:
            parts.append(_ALIKE)
    return "; ".join(parts)
