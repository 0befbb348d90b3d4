"""`salun-viz wasserstein`: distances between classes, how they differ between models, and between models."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salun.cli.arguments import notice, positive
from salun.cli.steps import watched
from salun.cli.viz.album import FigureWriter, add_figure_flags
from salun.cli.viz.matrices import about, file_names, forgotten_classes, titles_of, write_table
from salun.errors import SalunError

if TYPE_CHECKING:
    from salun.cli.viz.inputs import Entry
    from salun.latent.features import Features
    from salun.latent.wasserstein import Distances, Measure
    from salun.reports.plots.heatmap import Panel, Scale

HELP = "1-Wasserstein distances between classes, their differences between models, and between models"
_SLICED_HELP = (
    "approximate, for large S: the mean distance of the classes' shadows on 200 random lines (always the same), with "
    "its standard error; a lower bound of the exact distance, many times smaller in hundreds of dimensions, to be "
    "compared with other sliced distances only"
)
_NAME_LETTERS = 40
_ORDERS = (("base", "unlearned"), ("base", "retrained"), ("unlearned", "retrained"))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets them.
    """
    parser.add_argument("paths", nargs="*", metavar="FOLDER|FILE", help="features of salun-extract (default: features)")
    parser.add_argument(
        "-S", "--samples", type=positive, default=1000, metavar="N", help="the first N of each file (default: 1000)"
    )
    parser.add_argument("--sliced", action="store_true", help=_SLICED_HELP)
    add_figure_flags(parser)


def draw(flags: argparse.Namespace) -> int:
    """Draw the distances within every model, and those between the models of each forget set.

    Args:
        flags: of the command line.

    Returns:
        The exit status.

    Raises:
        SalunError: files are missing, damaged, too small, or cannot be compared though they were named together.
    """
    from salun.cli.viz.inputs import align, comparable, gather, read_entries

    _import_numpy_alone()
    album = FigureWriter.of(flags)
    entries = read_entries(flags.paths, flags.samples)
    _check_sizes(entries, flags.samples)
    together = len(flags.paths) > 1
    groups = comparable(entries, together)
    folders = _members_of(flags.paths, entries)
    aligned = align([entry for inside in folders.values() for entry in inside], strict=True) if folders else ()
    ruler = _Ruler(flags.sliced)
    for entry in entries:
        _draw_model(album, ruler, entry)
    root = Path(gather(flags.paths) if together else "")
    for group in groups:
        _draw_differences(album, ruler, group.entries, root / group.name)
        _draw_models(album, ruler, group.entries, root / group.name)
    _draw_folders(album, ruler, folders, aligned, root)
    if len(entries) > 1 and not groups:
        notice("salun-viz wasserstein: no two of these models can be compared with each other")
    return 0


def _import_numpy_alone() -> None:
    """Keep POT from importing torch, and every other array library that it finds: seconds for nothing."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")


def _check_sizes(entries: "Sequence[Entry]", samples: int) -> None:
    """Check that there can be a sample of each class."""
    for entry in entries:
        held, classes = len(entry.features.labels), len(entry.features.classes)
        if samples < classes:
            raise SalunError(
                f"-S {samples}: fewer samples than the {classes} classes of {entry.path}; at least {classes}"
            )
        if held < classes:
            raise SalunError(f"{entry.path}: holds {held} samples, fewer than its {classes} classes")


def _members_of(paths: Sequence[str], entries: "Sequence[Entry]") -> "dict[str, list[Entry]]":
    """Sort files by the folder that was given on the command line."""
    from salun.cli.viz.inputs import find_features

    found = {given: find_features([given]) for given in dict.fromkeys(paths)}
    folders = {given: files for given, files in found.items() if files[0].name != Path(given).name}
    if len(folders) < 2:
        return {}
    return {given: [entry for entry in entries if entry.path in files] for given, files in folders.items()}


@dataclass(frozen=True)
class _Ruler:
    """Measures distances, each but once.

    Attributes:
        sliced: whether distances are the approximate ones.
        known: distances between the classes of a model, by file and images.
    """

    sliced: bool
    known: "dict[tuple[Path, bytes], Distances]" = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is measured."""
        return "sliced 1-Wasserstein distance" if self.sliced else "1-Wasserstein distance"

    @property
    def title(self) -> str:
        """What is measured, at the beginning of a line."""
        return self.name[0].upper() + self.name[1:]

    def measure(self, width: int) -> "Measure":
        """Give the function that measures."""
        from functools import partial

        from salun.latent.wasserstein import exact_wasserstein, random_lines, sliced_wasserstein

        return partial(sliced_wasserstein, lines=random_lines(width)) if self.sliced else exact_wasserstein

    def between_classes(self, entry: "Entry") -> "Distances":
        """Measure the distance of every two classes."""
        import numpy as np

        from salun.latent.wasserstein import between_classes

        found = entry.features
        key = entry.path, np.sort(found.indices).tobytes()
        if key not in self.known:
            count = len(found.classes)
            with watched(str(entry.path), count * (count - 1) // 2) as callback:
                measure = self.measure(found.features.shape[1])
                self.known[key] = between_classes(found.features, found.labels, count, measure, callback)
        return self.known[key]

    def between_models(self, first: "Entry", second: "Entry") -> "Distances":
        """Measure the distance of two models' features of each class."""
        from salun.latent.wasserstein import between_models

        one, other = first.features, second.features
        count = len(one.classes)
        with watched(f"{first.title} → {second.title}", count) as callback:
            measure = self.measure(one.features.shape[1])
            return between_models(one.features, other.features, one.labels, count, measure, callback)

    def caption(self, features: "Features", distances: "Sequence[Distances]", kind: str = "a lower bound") -> str:
        """Say what a figure is of, and how exact it is."""
        import numpy as np

        from salun.latent.wasserstein import LINES

        if not self.sliced:
            return about(features)
        errors = np.concatenate([found.errors.flatten() for found in distances])
        largest = errors[np.isfinite(errors)].max(initial=0)
        return f"means over {LINES} random lines, {kind}; standard error at most {largest:.2g}; {about(features)}"


def _draw_model(album: FigureWriter, ruler: _Ruler, entry: "Entry") -> None:
    """Draw and write the distances between the classes of a model."""
    found = ruler.between_classes(entry)
    place = entry.place / "wasserstein"
    _write_matrix(album, ruler, place, found, entry.features, {"model": entry.title})
    shown = [_panel(entry.title, found, entry.features)]
    title = f"{ruler.title} between classes"
    scale = _scale_between_classes(ruler.name, [found])
    _keep(album, shown, scale, title, ruler.caption(entry.features, [found]), place)


def _draw_differences(album: FigureWriter, ruler: _Ruler, entries: "Sequence[Entry]", root: Path) -> None:
    """Draw the models side by side, and for every two of them how the distances between classes differ."""
    titles = titles_of(entries)
    found = [ruler.between_classes(entry) for entry in entries]
    features = entries[0].features
    shown = [_panel(*each, features) for each in zip(titles, found, strict=True)]
    title = f"{ruler.title} between classes"
    scale = _scale_between_classes(ruler.name, found)
    _keep(album, shown, scale, title, ruler.caption(features, found), root / "wasserstein")
    named = list(zip(titles, file_names(entries), found, strict=True))
    _draw_pairs(album, ruler, named, features, root)


def _draw_folders(
    album: FigureWriter, ruler: _Ruler, folders: "dict[str, list[Entry]]", aligned: "Sequence[Entry]", root: Path
) -> None:
    """Draw for every two folders how the mean distances between classes differ."""
    from salun.io.files import name_part
    from salun.latent.wasserstein import mean_distances

    taken = {entry.path: entry for entry in aligned}
    named = []
    for given, inside in folders.items():
        mean = mean_distances([ruler.between_classes(taken[entry.path]) for entry in inside])
        named.append((f"mean of {given}", f"mean_of_{name_part(given)}", mean))
    if named:
        _draw_pairs(album, ruler, named, aligned[0].features, root)


def _draw_pairs(
    album: FigureWriter, ruler: _Ruler, named: "Sequence[tuple[str, str, Distances]]", features: "Features", root: Path
) -> None:
    """Draw and write for every two how their distances differ: the second's less the first's, on one scale."""
    import numpy as np

    from salun.latent.wasserstein import difference
    from salun.reports.plots.heatmap import Scale

    series = [(first, second, difference(first[2], second[2])) for first, second in combinations(named, 2)]
    values = np.concatenate([delta.values.flatten() for _, _, delta in series])
    reach = float(np.abs(values[np.isfinite(values)]).max(initial=0))
    scale = Scale(f"difference of {ruler.name}", -reach, reach, 0, "", "class", "class")
    for first, second, delta in series:
        place = root / f"wasserstein_{second[1]}_minus_{first[1]}"
        _write_matrix(album, ruler, place, delta, features, {"first": first[0], "second": second[0]})
        shown = [_panel(f"{second[0]}\nminus {first[0]}", delta, features)]
        title = f"Difference of {ruler.name}s between classes"
        _keep(album, shown, scale, title, ruler.caption(features, [delta], "subtracted"), place)


def _draw_models(album: FigureWriter, ruler: _Ruler, entries: "Sequence[Entry]", root: Path) -> None:
    """Draw and write for two models at a time the distance between their features of each class."""
    from salun.io.arrays import write_arrays
    from salun.latent.wasserstein import stacked
    from salun.reports.plots.heatmap import Panel, Scale

    titles = titles_of(entries)
    pairs = _pairs_of(entries)
    found = stacked([ruler.between_models(entries[first], entries[second]) for first, second in pairs])
    names = [[titles[first], titles[second]] for first, second in pairs]
    features = entries[0].features
    place = root / "wasserstein_between_models"
    errors = found.errors if ruler.sliced else None
    write_table(album.at(place, ".csv"), ["first", "second"], names, features.classes, found.values, errors)
    first, second = zip(*names, strict=True)
    write_arrays(album.at(place, ".npz"), _arrays_of(ruler, found, features) | {"first": first, "second": second})
    short = _short_names(titles)
    rows = [f"{short[first]} → {short[second]}" for first, second in pairs]
    longest = max(map(len, rows))
    shown = [Panel("", found.values, rows, features.classes, forgotten_classes(features), longest)]
    title = f"{ruler.title} between two models' features of a class"
    scale = Scale(ruler.name, 0, form="", columns="class")
    _keep(album, shown, scale, title, ruler.caption(features, [found]), place)


def _short_names(titles: Sequence[str]) -> list[str]:
    """Cut the names of models, each by itself, so that both names of a pair can be read."""
    from salun.reports.plots.style import shorten

    tries = ([shorten(title, limit) for title in titles] for limit in count(_NAME_LETTERS))
    return next(short for short in tries if len(set(short)) == len(set(titles)))


def _pairs_of(entries: "Sequence[Entry]") -> list[tuple[int, int]]:
    """Choose the models whose features are compared with each other."""
    roles = [entry.features.source.role for entry in entries]
    every = list(combinations(range(len(entries)), 2))
    chosen = [pair for order in _ORDERS for pair in every if (roles[pair[0]], roles[pair[1]]) == order]
    return chosen or every


def _write_matrix(
    album: FigureWriter, ruler: _Ruler, place: Path, found: "Distances", features: "Features", names: dict[str, Any]
) -> None:
    """Write distances between classes as numbers."""
    from salun.io.arrays import write_arrays

    classes = features.classes
    errors = found.errors if ruler.sliced else None
    write_table(album.at(place, ".csv"), ["class"], [[name] for name in classes], classes, found.values, errors)
    write_arrays(album.at(place, ".npz"), _arrays_of(ruler, found, features) | names)


def _arrays_of(ruler: _Ruler, found: "Distances", features: "Features") -> dict[str, Any]:
    """Gather what is written of distances."""
    import numpy as np

    from salun.latent.wasserstein import LINES

    arrays = {
        "matrix": found.values,
        "classes": list(features.classes),
        "counts": np.bincount(features.labels, minlength=len(features.classes)),
        "samples": len(features.labels),
    }
    return arrays | ({"errors": found.errors, "lines": LINES} if ruler.sliced else {})


def _panel(title: str, found: "Distances", features: "Features") -> "Panel":
    """Make distances between classes ready for drawing."""
    from salun.reports.plots.heatmap import Panel

    return Panel(title, found.values, features.classes, features.classes, forgotten_classes(features))


def _scale_between_classes(label: str, several: "Sequence[Distances]") -> "Scale":
    """Make a scale from the smallest distance of two classes on, as the zeros on the diagonal would stretch it."""
    import numpy as np

    from salun.reports.plots.heatmap import Scale

    values = np.concatenate([found.values[~np.eye(len(found.values), dtype=bool)] for found in several])
    values = values[np.isfinite(values)]
    low = float(values.min(initial=np.inf))
    return Scale(label, low if low < values.max(initial=0) else 0, form="", rows="class", columns="class")


def _keep(
    album: FigureWriter, panels: "Sequence[Panel]", scale: "Scale", title: str, caption: str, place: Path
) -> None:
    """Draw and write heat maps."""
    from salun.reports.plots.heatmap import heatmaps
    from salun.reports.plots.style import styled

    with styled():
        album.keep(heatmaps(panels, scale, title, caption=caption), place)
