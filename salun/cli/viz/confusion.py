"""`salun-viz confusion`: what models say of each class, before and after unlearning and after retraining."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from salun.cli.viz.album import FigureWriter, add_figure_flags
from salun.cli.viz.matrices import about, forgotten_classes, titles_of, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from salun.cli.viz.inputs import Entry, Group
    from salun.reports.plots.heatmap import Panel, Scale

    Floats = NDArray[np.float64]

HELP = "predictions and mean confidence per true class, before, after and retrained"


_ACROSS = 5


class _View(NamedTuple):
    """One of the two matrices of a model.

    Attributes:
        name: in names of files.
        title: of figures.
        label: of the colour bar.
        columns: what they are.
    """

    name: str
    title: str
    label: str
    columns: str


_PREDICTIONS = _View("predictions", "Predictions per true class", "share of the class's images", "predicted class")
_CONFIDENCE = _View("confidence", "Mean confidence per true class", "mean softmax probability", "class")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets them.
    """
    parser.add_argument("paths", nargs="*", metavar="FOLDER|FILE", help="features of salun-extract (default: features)")
    add_figure_flags(parser)


def draw(flags: argparse.Namespace) -> int:
    """Draw every model, and the models of each forget set side by side.

    Args:
        flags: of the command line.

    Returns:
        The exit status.

    Raises:
        SalunError: files are missing, damaged, or cannot be compared though they were named together.
    """
    from salun.cli.viz.inputs import comparable, gather, read_entries

    album = FigureWriter.of(flags)
    entries = read_entries(flags.paths)
    together = len(flags.paths) > 1
    groups = comparable(entries, together)
    for entry in entries:
        _draw_model(album, entry)
    for group in groups:
        _draw_group(album, group, Path(gather(flags.paths) if together else "", group.name))
    return 0


def _matrices_of(entry: "Entry") -> "dict[_View, Floats]":
    """Compute the two matrices of a model."""
    from salun.latent.confusion import mean_confidence, prediction_shares

    found = entry.features
    count = len(found.classes)
    return {
        _PREDICTIONS: prediction_shares(found.logits, found.labels, count),
        _CONFIDENCE: mean_confidence(found.logits, found.labels, count),
    }


def _draw_model(album: FigureWriter, entry: "Entry") -> None:
    """Draw both matrices of a model beside each other, and write them."""
    from salun.reports.plots.heatmap import heatmaps
    from salun.reports.plots.style import styled

    place = entry.place / "confusion"
    matrices = _matrices_of(entry)
    classes = entry.features.classes
    for view, values in matrices.items():
        table = place.with_name(f"confusion_{view.name}")
        write_table(album.at(table, ".csv"), ["class"], [[name] for name in classes], classes, values)
    _write_matrices(album, place, [entry], [matrices])
    scale = _scale_of("share or mean probability", "class")
    panels = [_panel(view.title, values, entry) for view, values in matrices.items()]
    with styled():
        album.keep(heatmaps(panels, scale, entry.title, caption=about(entry.features)), place)


def _draw_group(album: FigureWriter, group: "Group", root: Path) -> None:
    """Draw the models of a group side by side, and write their matrices."""
    import numpy as np

    from salun.reports.plots.heatmap import heatmaps
    from salun.reports.plots.style import styled

    titles = titles_of(group.entries)
    matrices = [_matrices_of(entry) for entry in group.entries]
    classes = group.entries[0].features.classes
    names = [[title, name] for title in titles for name in classes]
    _write_matrices(album, root / "confusion", group.entries, matrices)
    for view in (_PREDICTIONS, _CONFIDENCE):
        place = root / f"confusion_{view.name}"
        values = [found[view] for found in matrices]
        write_table(album.at(place, ".csv"), ["model", "class"], names, classes, np.concatenate(values))
        panels = [_panel(*each) for each in zip(titles, values, group.entries, strict=True)]
        caption = about(group.entries[0].features)
        with styled():
            album.keep(heatmaps(panels, _scale_of(view.label, view.columns), view.title, _ACROSS, caption), place)


def _write_matrices(
    album: FigureWriter, place: Path, entries: "Sequence[Entry]", matrices: "Sequence[dict[_View, Floats]]"
) -> None:
    """Write the matrices of M models as (M, C, C) arrays."""
    import numpy as np

    from salun.io.arrays import write_arrays

    features = entries[0].features
    arrays = {
        "models": titles_of(entries),
        "classes": list(features.classes),
        "counts": np.bincount(features.labels, minlength=len(features.classes)),
        **{view.name: np.stack([found[view] for found in matrices]) for view in (_PREDICTIONS, _CONFIDENCE)},
    }
    write_arrays(album.at(place, ".npz"), arrays)


def _panel(title: str, values: "Floats", entry: "Entry") -> "Panel":
    """Make a matrix ready for drawing."""
    from salun.reports.plots.heatmap import Panel

    classes = entry.features.classes
    return Panel(title, values, classes, classes, forgotten_classes(entry.features))


def _scale_of(label: str, columns: str) -> "Scale":
    """Make the scale of shares and probabilities."""
    from salun.reports.plots.heatmap import Scale

    return Scale(label, 0, 1, rows="true class", columns=columns)
