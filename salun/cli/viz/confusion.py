"""`salun-viz confusion`: what models predict for each class, before and after unlearning and after retraining."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from salun.cli.viz.figures import FigureWriter, write_table
from salun.io.arrays import write_arrays
from salun.latent.confusion import mean_confidence, prediction_shares
from salun.latent.groups import (
    FeatureFile,
    Group,
    about,
    comparable,
    forgotten_classes,
    gather,
    model_titles,
    read_entries,
)
from salun.reports.plots.heatmap import Panel, Scale, heatmaps
from salun.reports.plots.style import styled

_Floats = NDArray[np.float64]
_ACROSS = 5


class _View(NamedTuple):
    """One of the two matrices of a model: its name in files, title, label of the colour bar, and columns."""

    name: str
    title: str
    label: str
    columns: str


_PREDICTIONS = _View("predictions", "Predictions per true class", "share of the class's images", "predicted class")
_CONFIDENCE = _View("confidence", "Mean confidence per true class", "mean softmax probability", "class")


def run(flags: argparse.Namespace) -> int:
    """Draw every model, and the models of each forget set side by side."""
    figures = FigureWriter.of(flags)
    entries = read_entries(flags.paths)
    together = len(flags.paths) > 1
    groups = comparable(entries, together)
    for entry in entries:
        _draw_model(figures, entry)
    for group in groups:
        _draw_group(figures, group, Path(gather(flags.paths) if together else "", group.name))
    return 0


def _matrices_of(entry: FeatureFile) -> dict[_View, _Floats]:
    """Compute the two matrices of a model."""
    found = entry.features
    count = len(found.classes)
    return {
        _PREDICTIONS: prediction_shares(found.logits, found.labels, count),
        _CONFIDENCE: mean_confidence(found.logits, found.labels, count),
    }


def _draw_model(figures: FigureWriter, entry: FeatureFile) -> None:
    """Draw both matrices of a model beside each other, and write them."""
    place = entry.place / "confusion"
    matrices = _matrices_of(entry)
    classes = entry.features.classes
    for view, values in matrices.items():
        table = place.with_name(f"confusion_{view.name}")
        write_table(figures.at(table, ".csv"), ["class"], [[name] for name in classes], classes, values)
    _write_matrices(figures, place, [entry], [matrices])
    scale = _scale_of("share or mean probability", "class")
    panels = [_panel(view.title, values, entry) for view, values in matrices.items()]
    with styled():
        figures.keep(heatmaps(panels, scale, entry.title, caption=about(entry.features)), place)


def _draw_group(figures: FigureWriter, group: Group, root: Path) -> None:
    """Draw the models of a group side by side, and write their matrices."""
    titles = model_titles(group.entries)
    matrices = [_matrices_of(entry) for entry in group.entries]
    classes = group.entries[0].features.classes
    names = [[title, name] for title in titles for name in classes]
    _write_matrices(figures, root / "confusion", group.entries, matrices)
    for view in (_PREDICTIONS, _CONFIDENCE):
        place = root / f"confusion_{view.name}"
        values = [found[view] for found in matrices]
        write_table(figures.at(place, ".csv"), ["model", "class"], names, classes, np.concatenate(values))
        panels = [_panel(*each) for each in zip(titles, values, group.entries, strict=True)]
        caption = about(group.entries[0].features)
        with styled():
            figures.keep(heatmaps(panels, _scale_of(view.label, view.columns), view.title, _ACROSS, caption), place)


def _write_matrices(
    figures: FigureWriter, place: Path, entries: Sequence[FeatureFile], matrices: Sequence[dict[_View, _Floats]]
) -> None:
    """Write the matrices of M models as (M, C, C) arrays."""

    features = entries[0].features
    arrays = {
        "models": model_titles(entries),
        "classes": list(features.classes),
        "counts": np.bincount(features.labels, minlength=len(features.classes)),
        **{view.name: np.stack([found[view] for found in matrices]) for view in (_PREDICTIONS, _CONFIDENCE)},
    }
    write_arrays(figures.at(place, ".npz"), arrays)


def _panel(title: str, values: _Floats, entry: FeatureFile) -> Panel:
    """Make a matrix ready for drawing."""
    classes = entry.features.classes
    return Panel(title, values, classes, classes, forgotten_classes(entry.features))


def _scale_of(label: str, columns: str) -> Scale:
    """Make the scale of shares and probabilities."""
    return Scale(label, 0, 1, rows="true class", columns=columns)
