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
from salun.cli.viz.album import Album, add_figure_flags
from salun.cli.viz.matrices import about, file_names, forgotten_classes, titles_of, write_table
from salun.errors import SalunError

if TYPE_CHECKING:
    from salun.cli.viz.inputs import Entry
    from salun.latent.features import Features
    from salun.latent.wasserstein import Distances, Measure
    from salun.plots.heatmap import Panel, Scale

HELP = "1-Wasserstein distances between classes, their differences between models, and between models"
SLICED_HELP = (
    "approximate, for large S: the mean distance of the classes' shadows on 200 random lines (always the same), with "
    "its standard error; a lower bound of the exact distance, many times smaller in hundreds of dimensions, to be "
    "compared with other sliced distances only"
)
NAME_LETTERS = 40
ORDERS = (("base", "unlearned"), ("base", "retrained"), ("unlearned", "retrained"))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets them.
    """
    parser.add_argument("paths", nargs="*", metavar="FOLDER|FILE", help="features of salun-extract (default: features)")
    parser.add_argument(
        "-S", "--samples", type=positive, default=1000, metavar="N", help="the first N of each file (default: 1000)"
    )
    parser.add_argument("--sliced", action="store_true", help=SLICED_HELP)
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

    import_numpy_alone()
    album = Album.of(flags)
    entries = read_entries(flags.paths, flags.samples)
    check_sizes(entries, flags.samples)
    together = len(flags.paths) > 1
    groups = comparable(entries, together)
    folders = members_of(flags.paths, entries)
    aligned = align([entry for inside in folders.values() for entry in inside], strict=True) if folders else ()
    ruler = Ruler(flags.sliced)
    for entry in entries:
        draw_model(album, ruler, entry)
    root = Path(gather(flags.paths) if together else "")
    for group in groups:
        draw_differences(album, ruler, group.entries, root / group.name)
        draw_models(album, ruler, group.entries, root / group.name)
    draw_folders(album, ruler, folders, aligned, root)
    if len(entries) > 1 and not groups:
        notice("salun-viz wasserstein: no two of these models can be compared with each other")
    return 0


def import_numpy_alone() -> None:
    """Keep POT from importing torch, and every other array library that it finds: seconds for nothing."""
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")


def check_sizes(entries: "Sequence[Entry]", samples: int) -> None:
    """Check that there can be a sample of each class.

    Args:
        entries: what was read.
        samples: that were asked for.

    Raises:
        SalunError: there are fewer samples than classes.
    """
    for entry in entries:
        held, classes = len(entry.features.labels), len(entry.features.classes)
        if samples < classes:
            raise SalunError(
                f"-S {samples}: fewer samples than the {classes} classes of {entry.path}; at least {classes}"
            )
        if held < classes:
            raise SalunError(f"{entry.path}: holds {held} samples, fewer than its {classes} classes")


def members_of(paths: Sequence[str], entries: "Sequence[Entry]") -> "dict[str, list[Entry]]":
    """Sort files by the folder that was given on the command line.

    Args:
        paths: of the command line.
        entries: the files.

    Returns:
        The files of each folder; nothing where fewer than two folders were given.
    """
    from salun.cli.viz.inputs import find_features

    found = {given: find_features([given]) for given in dict.fromkeys(paths)}
    folders = {given: files for given, files in found.items() if files[0].name != Path(given).name}
    if len(folders) < 2:
        return {}
    return {given: [entry for entry in entries if entry.path in files] for given, files in folders.items()}


@dataclass(frozen=True)
class Ruler:
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
        """Give the function that measures.

        Args:
            width: of the features.

        Returns:
            Distance and standard error of two clouds.
        """
        from functools import partial

        from salun.latent.wasserstein import exact_wasserstein, random_lines, sliced_wasserstein

        return partial(sliced_wasserstein, lines=random_lines(width)) if self.sliced else exact_wasserstein

    def between_classes(self, entry: "Entry") -> "Distances":
        """Measure the distance of every two classes.

        Args:
            entry: a model.

        Returns:
            (C, C).

        Raises:
            SalunError: the exact distance was not found.
        """
        import numpy as np

        from salun.latent.wasserstein import between_classes

        found = entry.features
        key = entry.path, np.sort(found.indices).tobytes()
        if key not in self.known:
            count = len(found.classes)
            with watched(str(entry.path), count * (count - 1) // 2) as watch:
                measure = self.measure(found.features.shape[1])
                self.known[key] = between_classes(found.features, found.labels, count, measure, watch)
        return self.known[key]

    def between_models(self, first: "Entry", second: "Entry") -> "Distances":
        """Measure the distance of two models' features of each class.

        Args:
            first: a model.
            second: another, of the same images.

        Returns:
            (C,).

        Raises:
            SalunError: the exact distance was not found.
        """
        from salun.latent.wasserstein import between_models

        one, other = first.features, second.features
        count = len(one.classes)
        with watched(f"{first.title} → {second.title}", count) as watch:
            measure = self.measure(one.features.shape[1])
            return between_models(one.features, other.features, one.labels, count, measure, watch)

    def caption(self, features: "Features", distances: "Sequence[Distances]", kind: str = "a lower bound") -> str:
        """Say what a figure is of, and how exact it is.

        Args:
            features: of a model in it.
            distances: that it shows.
            kind: of values measured on lines.

        Returns:
            The caption.
        """
        import numpy as np

        from salun.latent.wasserstein import LINES

        if not self.sliced:
            return about(features)
        errors = np.concatenate([found.errors.flatten() for found in distances])
        largest = errors[np.isfinite(errors)].max(initial=0)
        return f"means over {LINES} random lines, {kind}; standard error at most {largest:.2g}; {about(features)}"


def draw_model(album: Album, ruler: Ruler, entry: "Entry") -> None:
    """Draw and write the distances between the classes of a model.

    Args:
        album: gets the figure.
        ruler: measures.
        entry: the model.

    Raises:
        SalunError: a file cannot be written.
    """
    found = ruler.between_classes(entry)
    place = entry.place / "wasserstein"
    write_matrix(album, ruler, place, found, entry.features, {"model": entry.title})
    shown = [panel(entry.title, found, entry.features)]
    title = f"{ruler.title} between classes"
    scale = scale_between_classes(ruler.name, [found])
    keep(album, shown, scale, title, ruler.caption(entry.features, [found]), place)


def draw_differences(album: Album, ruler: Ruler, entries: "Sequence[Entry]", root: Path) -> None:
    """Draw the models side by side, and for every two of them how the distances between classes differ.

    Args:
        album: gets the figures.
        ruler: measures.
        entries: models that may be compared.
        root: folder of the figures, within the album.

    Raises:
        SalunError: a file cannot be written.
    """
    titles = titles_of(entries)
    found = [ruler.between_classes(entry) for entry in entries]
    features = entries[0].features
    shown = [panel(*each, features) for each in zip(titles, found, strict=True)]
    title = f"{ruler.title} between classes"
    scale = scale_between_classes(ruler.name, found)
    keep(album, shown, scale, title, ruler.caption(features, found), root / "wasserstein")
    named = list(zip(titles, file_names(entries), found, strict=True))
    draw_pairs(album, ruler, named, features, root)


def draw_folders(
    album: Album, ruler: Ruler, folders: "dict[str, list[Entry]]", aligned: "Sequence[Entry]", root: Path
) -> None:
    """Draw for every two folders how the mean distances between classes differ.

    Args:
        album: gets the figures.
        ruler: measures.
        folders: the files of each; fewer than two for nothing to draw.
        aligned: the same files, with the images that all of them have.
        root: folder of the figures, within the album.

    Raises:
        SalunError: a file cannot be written.
    """
    from salun.files import name_part
    from salun.latent.wasserstein import mean_distances

    taken = {entry.path: entry for entry in aligned}
    named = []
    for given, inside in folders.items():
        mean = mean_distances([ruler.between_classes(taken[entry.path]) for entry in inside])
        named.append((f"mean of {given}", f"mean_of_{name_part(given)}", mean))
    if named:
        draw_pairs(album, ruler, named, aligned[0].features, root)


def draw_pairs(
    album: Album, ruler: Ruler, named: "Sequence[tuple[str, str, Distances]]", features: "Features", root: Path
) -> None:
    """Draw and write for every two how their distances differ: the second's less the first's, on one scale.

    Args:
        album: gets the figures.
        ruler: measured.
        named: title, name in names of files, and distances, in order.
        features: of any of the models.
        root: folder of the figures, within the album.

    Raises:
        SalunError: a file cannot be written.
    """
    import numpy as np

    from salun.latent.wasserstein import difference
    from salun.plots.heatmap import Scale

    series = [(first, second, difference(first[2], second[2])) for first, second in combinations(named, 2)]
    values = np.concatenate([delta.values.flatten() for _, _, delta in series])
    reach = float(np.abs(values[np.isfinite(values)]).max(initial=0))
    scale = Scale(f"difference of {ruler.name}", -reach, reach, 0, "", "class", "class")
    for first, second, delta in series:
        place = root / f"wasserstein_{second[1]}_minus_{first[1]}"
        write_matrix(album, ruler, place, delta, features, {"first": first[0], "second": second[0]})
        shown = [panel(f"{second[0]}\nminus {first[0]}", delta, features)]
        title = f"Difference of {ruler.name}s between classes"
        keep(album, shown, scale, title, ruler.caption(features, [delta], "subtracted"), place)


def draw_models(album: Album, ruler: Ruler, entries: "Sequence[Entry]", root: Path) -> None:
    """Draw and write for two models at a time the distance between their features of each class.

    A network that was trained anew has axes of its own, so that its distance from others is large even
    where it tells the classes apart in the same way.

    Args:
        album: gets the figure.
        ruler: measures.
        entries: models that may be compared: base, unlearned, retrained.
        root: folder of the figures, within the album.

    Raises:
        SalunError: a file cannot be written.
    """
    from salun.arrays import write_arrays
    from salun.latent.wasserstein import stacked
    from salun.plots.heatmap import Panel, Scale

    titles = titles_of(entries)
    pairs = pairs_of(entries)
    found = stacked([ruler.between_models(entries[first], entries[second]) for first, second in pairs])
    names = [[titles[first], titles[second]] for first, second in pairs]
    features = entries[0].features
    place = root / "wasserstein_between_models"
    errors = found.errors if ruler.sliced else None
    write_table(album.at(place, ".csv"), ["first", "second"], names, features.classes, found.values, errors)
    first, second = zip(*names, strict=True)
    write_arrays(album.at(place, ".npz"), arrays_of(ruler, found, features) | {"first": first, "second": second})
    short = short_names(titles)
    rows = [f"{short[first]} → {short[second]}" for first, second in pairs]
    longest = max(map(len, rows))
    shown = [Panel("", found.values, rows, features.classes, forgotten_classes(features), longest)]
    title = f"{ruler.title} between two models' features of a class"
    scale = Scale(ruler.name, 0, form="", columns="class")
    keep(album, shown, scale, title, ruler.caption(features, [found]), place)


def short_names(titles: Sequence[str]) -> list[str]:
    """Cut the names of models, each by itself, so that both names of a pair can be read.

    Args:
        titles: of the models.

    Returns:
        A name for each, as short as the names that differ still differ.
    """
    from salun.plots.style import shorten

    tries = ([shorten(title, limit) for title in titles] for limit in count(NAME_LETTERS))
    return next(short for short in tries if len(set(short)) == len(set(titles)))


def pairs_of(entries: "Sequence[Entry]") -> list[tuple[int, int]]:
    """Choose the models whose features are compared with each other.

    Args:
        entries: the models.

    Returns:
        Places of base and unlearned, base and retrained, unlearned and retrained; of every two models
        where all are of one kind.
    """
    roles = [entry.features.source.role for entry in entries]
    every = list(combinations(range(len(entries)), 2))
    chosen = [pair for order in ORDERS for pair in every if (roles[pair[0]], roles[pair[1]]) == order]
    return chosen or every


def write_matrix(
    album: Album, ruler: Ruler, place: Path, found: "Distances", features: "Features", names: dict[str, Any]
) -> None:
    """Write distances between classes as numbers.

    Args:
        album: gets the files.
        ruler: measured.
        place: their path in the album, without an ending.
        found: (C, C).
        features: of any model in it.
        names: of the models, for the arrays.

    Raises:
        SalunError: a file cannot be written.
    """
    from salun.arrays import write_arrays

    classes = features.classes
    errors = found.errors if ruler.sliced else None
    write_table(album.at(place, ".csv"), ["class"], [[name] for name in classes], classes, found.values, errors)
    write_arrays(album.at(place, ".npz"), arrays_of(ruler, found, features) | names)


def arrays_of(ruler: Ruler, found: "Distances", features: "Features") -> dict[str, Any]:
    """Gather what is written of distances.

    Args:
        ruler: measured.
        found: the distances.
        features: of any model in them.

    Returns:
        Arrays by name.
    """
    import numpy as np

    from salun.latent.wasserstein import LINES

    arrays = {
        "matrix": found.values,
        "classes": list(features.classes),
        "counts": np.bincount(features.labels, minlength=len(features.classes)),
        "samples": len(features.labels),
    }
    return arrays | ({"errors": found.errors, "lines": LINES} if ruler.sliced else {})


def panel(title: str, found: "Distances", features: "Features") -> "Panel":
    """Make distances between classes ready for drawing.

    Args:
        title: above them.
        found: (C, C).
        features: of any model in them.

    Returns:
        The panel.
    """
    from salun.plots.heatmap import Panel

    return Panel(title, found.values, features.classes, features.classes, forgotten_classes(features))


def scale_between_classes(label: str, several: "Sequence[Distances]") -> "Scale":
    """Make a scale from the smallest distance of two classes on, so that the zeros on the diagonal do not stretch it.

    Args:
        label: of the colour bar.
        several: (C, C) each.

    Returns:
        The scale.
    """
    import numpy as np

    from salun.plots.heatmap import Scale

    values = np.concatenate([found.values[~np.eye(len(found.values), dtype=bool)] for found in several])
    values = values[np.isfinite(values)]
    low = float(values.min(initial=np.inf))
    return Scale(label, low if low < values.max(initial=0) else 0, form="", rows="class", columns="class")


def keep(album: Album, panels: "Sequence[Panel]", scale: "Scale", title: str, caption: str, place: Path) -> None:
    """Draw and write heat maps.

    Args:
        album: gets the figure.
        panels: the matrices.
        scale: of all of them.
        title: above all.
        caption: below all.
        place: path in the album, without an ending.

    Raises:
        SalunError: it cannot be written.
    """
    from salun.plots.heatmap import heatmaps
    from salun.plots.style import styled

    with styled():
        album.keep(heatmaps(panels, scale, title, caption=caption), place)
