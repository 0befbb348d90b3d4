"""`salun-viz wasserstein`: distances between classes, how they differ between models, and between models."""

import argparse
from collections.abc import Sequence
from itertools import combinations, count
from pathlib import Path
from typing import Any

import numpy as np

from salun.cli.status import notice
from salun.cli.steps import watched
from salun.cli.viz.figures import FigureWriter, write_table
from salun.errors import SalunError
from salun.io.arrays import write_arrays
from salun.io.files import name_part
from salun.latent.features import Features
from salun.latent.groups import (
    FeatureFile,
    about,
    align,
    comparable,
    file_names,
    find_features,
    forgotten_classes,
    gather,
    model_titles,
    read_entries,
)
from salun.latent.wasserstein import LINES, DistanceCache, Distances, difference, mean_distances, stacked
from salun.reports.plots.heatmap import Panel, Scale, heatmaps, shared_limit
from salun.reports.plots.style import shorten, styled

_NAME_LETTERS = 40
_Named = tuple[str, str, Distances]
_ORDERS = (("base", "unlearned"), ("base", "retrained"), ("unlearned", "retrained"))


def run(flags: argparse.Namespace) -> int:
    """Draw the distances within every model, and those between the models of each forget set."""
    figures = FigureWriter.of(flags)
    entries = read_entries(flags.paths, flags.samples)
    _check_sizes(entries, flags.samples)
    together = len(flags.paths) > 1
    groups = comparable(entries, together)
    folders = _members_of(flags.paths, entries)
    aligned = align([entry for inside in folders.values() for entry in inside], strict=True) if folders else ()
    distances = DistanceCache(flags.sliced, watched)
    for entry in entries:
        _draw_model(figures, distances, entry)
    root = Path(gather(flags.paths) if together else "")
    for group in groups:
        pairs = _pairs_of(group.entries, flags.all_pairs)
        _draw_differences(figures, distances, group.entries, pairs, root / group.name)
        _draw_models(figures, distances, group.entries, pairs, root / group.name)
    _draw_folders(figures, distances, folders, aligned, root)
    if len(entries) > 1 and not groups:
        notice("salun-viz wasserstein: no two of these models can be compared with each other")
    return 0


def _check_sizes(entries: Sequence[FeatureFile], samples: int) -> None:
    """Check that there can be a sample of each class."""
    for entry in entries:
        held, classes = len(entry.features.labels), len(entry.features.classes)
        if samples < classes:
            raise SalunError(
                f"-S {samples}: fewer samples than the {classes} classes of {entry.path}; at least {classes}"
            )
        if held < classes:
            raise SalunError(f"{entry.path}: holds {held} samples, fewer than its {classes} classes")


def _members_of(paths: Sequence[str], entries: Sequence[FeatureFile]) -> dict[str, list[FeatureFile]]:
    """Sort files by the folder that was given on the command line."""
    found = {given: find_features([given]) for given in dict.fromkeys(paths)}
    folders = {given: files for given, files in found.items() if files[0].name != Path(given).name}
    if len(folders) < 2:
        return {}
    return {given: [entry for entry in entries if entry.path in files] for given, files in folders.items()}


def _caption(
    distances: DistanceCache, features: Features, several: Sequence[Distances], kind: str = "a lower bound"
) -> str:
    """Say what a figure is of, and how exact it is."""
    if not distances.sliced:
        return about(features)
    errors = np.concatenate([found.errors.flatten() for found in several])
    largest = errors[np.isfinite(errors)].max(initial=0)
    return f"means over {LINES} random lines, {kind}; standard error at most {largest:.2g}; {about(features)}"


def _draw_model(figures: FigureWriter, distances: DistanceCache, entry: FeatureFile) -> None:
    """Draw and write the distances between the classes of a model."""
    found = distances.between_classes(entry)
    place = entry.place / "wasserstein"
    _write_matrix(figures, distances, place, found, entry.features, {"model": entry.title})
    shown = [_panel(entry.title, found, entry.features)]
    title = f"{distances.title} between classes"
    scale = _scale_between_classes(distances.name, [found])
    _keep(figures, shown, scale, title, _caption(distances, entry.features, [found]), place)


def _draw_differences(
    figures: FigureWriter,
    distances: DistanceCache,
    entries: Sequence[FeatureFile],
    pairs: Sequence[tuple[int, int]],
    root: Path,
) -> None:
    """Draw the models side by side, and for pairs of them how the distances between classes differ."""
    titles = model_titles(entries)
    found = [distances.between_classes(entry) for entry in entries]
    features = entries[0].features
    shown = [_panel(*each, features) for each in zip(titles, found, strict=True)]
    title = f"{distances.title} between classes"
    scale = _scale_between_classes(distances.name, found)
    _keep(figures, shown, scale, title, _caption(distances, features, found), root / "wasserstein")
    named = list(zip(titles, file_names(entries), found, strict=True))
    _draw_pairs(figures, distances, [(named[first], named[second]) for first, second in pairs], features, root)


def _draw_folders(
    figures: FigureWriter,
    distances: DistanceCache,
    folders: dict[str, list[FeatureFile]],
    aligned: Sequence[FeatureFile],
    root: Path,
) -> None:
    """Draw for every two folders how the mean distances between classes differ."""
    taken = {entry.path: entry for entry in aligned}
    named = []
    for given, inside in folders.items():
        mean = mean_distances([distances.between_classes(taken[entry.path]) for entry in inside])
        named.append((f"mean of {given}", f"mean_of_{name_part(given)}", mean))
    if named:
        _draw_pairs(figures, distances, list(combinations(named, 2)), aligned[0].features, root)


def _draw_pairs(
    figures: FigureWriter,
    distances: DistanceCache,
    pairs: Sequence[tuple[_Named, _Named]],
    features: Features,
    root: Path,
) -> None:
    """Draw and write for each pair how its distances differ: the second's less the first's, on one scale."""
    series = [(first, second, difference(first[2], second[2])) for first, second in pairs]
    reach = shared_limit([delta.values for _, _, delta in series])
    scale = Scale(f"difference of {distances.name}", -reach, reach, 0, "", "class", "class")
    for first, second, delta in series:
        place = root / f"wasserstein_{second[1]}_minus_{first[1]}"
        _write_matrix(figures, distances, place, delta, features, {"first": first[0], "second": second[0]})
        shown = [_panel(f"{second[0]}\nminus {first[0]}", delta, features)]
        title = f"Difference of {distances.name}s between classes"
        _keep(figures, shown, scale, title, _caption(distances, features, [delta], "subtracted"), place)


def _draw_models(
    figures: FigureWriter,
    distances: DistanceCache,
    entries: Sequence[FeatureFile],
    pairs: Sequence[tuple[int, int]],
    root: Path,
) -> None:
    """Draw and write for pairs of models the distance between their features of each class."""
    titles = model_titles(entries)
    found = stacked([distances.between_models(entries[first], entries[second]) for first, second in pairs])
    names = [[titles[first], titles[second]] for first, second in pairs]
    features = entries[0].features
    place = root / "wasserstein_between_models"
    errors = found.errors if distances.sliced else None
    write_table(figures.at(place, ".csv"), ["first", "second"], names, features.classes, found.values, errors)
    first, second = zip(*names, strict=True)
    write_arrays(figures.at(place, ".npz"), _arrays_of(distances, found, features) | {"first": first, "second": second})
    short = _short_names(titles)
    rows = [f"{short[first]} → {short[second]}" for first, second in pairs]
    longest = max(map(len, rows))
    shown = [Panel("", found.values, rows, features.classes, forgotten_classes(features), longest)]
    title = f"{distances.title} between two models' features of a class"
    scale = Scale(distances.name, 0, shared_limit(list(found.values)), form="", columns="class")
    _keep(figures, shown, scale, title, _caption(distances, features, [found]), place)


def _short_names(titles: Sequence[str]) -> list[str]:
    """Cut the names of models, each by itself, so that both names of a pair can be read."""
    tries = ([shorten(title, limit) for title in titles] for limit in count(_NAME_LETTERS))
    return next(short for short in tries if len(set(short)) == len(set(titles)))


def _pairs_of(entries: Sequence[FeatureFile], whole: bool) -> list[tuple[int, int]]:
    """Choose the models that are compared with each other: each with base and retrained ones, or all."""
    roles = [entry.features.source.role for entry in entries]
    every = list(combinations(range(len(entries)), 2))
    chosen = [] if whole else [pair for order in _ORDERS for pair in every if (roles[pair[0]], roles[pair[1]]) == order]
    return chosen or every


def _write_matrix(
    figures: FigureWriter,
    distances: DistanceCache,
    place: Path,
    found: Distances,
    features: Features,
    names: dict[str, Any],
) -> None:
    """Write distances between classes as numbers."""
    classes = features.classes
    errors = found.errors if distances.sliced else None
    write_table(figures.at(place, ".csv"), ["class"], [[name] for name in classes], classes, found.values, errors)
    write_arrays(figures.at(place, ".npz"), _arrays_of(distances, found, features) | names)


def _arrays_of(distances: DistanceCache, found: Distances, features: Features) -> dict[str, Any]:
    """Gather what is written of distances."""
    arrays = {
        "matrix": found.values,
        "classes": list(features.classes),
        "counts": np.bincount(features.labels, minlength=len(features.classes)),
        "samples": len(features.labels),
    }
    return arrays | ({"errors": found.errors, "lines": LINES} if distances.sliced else {})


def _panel(title: str, found: Distances, features: Features) -> Panel:
    """Make distances between classes ready for drawing."""
    return Panel(title, found.values, features.classes, features.classes, forgotten_classes(features))


def _scale_between_classes(label: str, several: Sequence[Distances]) -> Scale:
    """Make a scale from the smallest distance of two classes on, as the zeros on the diagonal would stretch it."""
    parts = [found.values[~np.eye(len(found.values), dtype=bool)] for found in several]
    values = np.concatenate(parts)
    low, high = float(values[np.isfinite(values)].min(initial=np.inf)), shared_limit(parts)
    return Scale(label, low if low < high else 0, high, form="", rows="class", columns="class")


def _keep(figures: FigureWriter, panels: Sequence[Panel], scale: Scale, title: str, caption: str, place: Path) -> None:
    """Draw and write heat maps."""
    with styled():
        figures.keep(heatmaps(panels, scale, title, caption=caption), place)
