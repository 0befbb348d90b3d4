"""What `tsne` and `umap` share: flags, fits of one model or of several together, and their figures."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salun.cli.arguments import positive
from salun.cli.viz.album import FigureWriter, add_figure_flags
from salun.cli.viz.matrices import titles_of

if TYPE_CHECKING:
    from salun.cli.viz.inputs import Entry
    from salun.latent.embedding import Coordinates, Fit
    from salun.reports.plots.scatter import Cloud

_JOINED = 2


@dataclass(frozen=True)
class Method:
    """How points are embedded.

    Attributes:
        name: of the files.
        title: in figures.
        fit: gives coordinates in plane and space.
        settings: that decide the outcome, plain values.
        fit_prototypes: whether prototypes are fitted among the samples.
    """

    name: str
    title: str
    fit: "Fit"
    settings: dict[str, object]
    fit_prototypes: bool = True


def add_embedding_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that both methods take.

    Args:
        parser: gets the flags.
    """
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="FOLDER|FILE",
        help="features; several together are embedded in one space (default: each file under features/ by itself)",
    )
    parser.add_argument(
        "-S", "--samples", type=positive, default=3000, metavar="N", help="first N of each file (default: 3000)"
    )
    parser.add_argument("--no-pca", action="store_true", help="do not reduce features to 50 dimensions first")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all randomness (default: 0)")
    parser.add_argument("--mp4", action="store_true", help="write the rotation as a film too; needs ffmpeg")
    add_figure_flags(parser)


def check_films(flags: argparse.Namespace) -> None:
    """Check before anything is computed that the films asked for can be made.

    Args:
        flags: of the command line.

    Raises:
        SalunError: there is no ffmpeg.
    """
    from salun.reports.plots.film import check_film

    if flags.mp4:
        check_film()


def check_seed(seed: int) -> None:
    """Check a seed.

    Args:
        seed: of the command line.

    Raises:
        SalunError: it is out of range.
    """
    from salun.errors import SalunError

    if not 0 <= seed < 2**32:
        raise SalunError(f"--seed {seed}: must be from 0 to {2**32 - 1}")


def draw_all(flags: argparse.Namespace, album: FigureWriter, entries: "Sequence[Entry]", method: Method) -> int:
    """Embed and draw: each file by itself, or those that were named together in one space.

    Args:
        flags: of the command line.
        album: gets the figures.
        entries: the features.
        method: how they are embedded.

    Returns:
        The exit status.

    Raises:
        SalunError: files named together cannot be compared, or there are too few points.
    """
    from salun.cli.viz.inputs import comparable, gather

    if len(flags.paths) < _JOINED:
        for entry in entries:
            _draw_models(flags, album, [entry], method, Path())
        return 0
    for group in comparable(entries, strict=True):
        _draw_models(flags, album, group.entries, method, Path(gather(flags.paths), group.name))
    return 0


def _draw_models(
    flags: argparse.Namespace, album: FigureWriter, entries: "Sequence[Entry]", method: Method, root: Path
) -> None:
    """Embed models in one space, and draw each of them and all of them."""
    from salun.reports.plots import scatter
    from salun.reports.plots.style import styled

    found = _coordinates_of(album, entries, method, root)
    with styled():
        named = list(zip(titles_of(entries), entries, found, strict=True))
        for name, entry, coordinates in named:
            _draw_one(flags, album, name, entry, coordinates, method, root)
        if len(entries) > 1:
            clouds = [_cloud_of(name, entry, coordinates, False) for name, entry, coordinates in named]
            title = f"{method.title}, one fit for all models: {_about(entries[0])}"
            album.keep(scatter.side_by_side(clouds, title), root / f"{method.name}_side_by_side")


def _coordinates_of(album: FigureWriter, entries: "Sequence[Entry]", method: Method, root: Path) -> "list[Coordinates]":
    """Give coordinates, fitted anew only where those that were kept are of something else."""
    from salun.latent.embedding import embed_together, key_of, read_coordinates, write_coordinates

    models = [entry.features for entry in entries]
    key = key_of(models, {"method": method.name, **method.settings})
    files = [album.at(root / entry.place / method.name, ".npz") for entry in entries]
    kept = [read_coordinates(file, key) for file in files]
    found = [coordinates for coordinates in kept if coordinates is not None]
    if len(found) < len(entries):
        found = embed_together(models, method.fit, method.fit_prototypes)
        for file, coordinates, features in zip(files, found, models, strict=True):
            write_coordinates(file, coordinates, features, key)
    return found


def _draw_one(
    flags: argparse.Namespace,
    album: FigureWriter,
    name: str,
    entry: "Entry",
    coordinates: "Coordinates",
    method: Method,
    root: Path,
) -> None:
    """Draw one model in the plane, in space, and turning."""
    from salun.reports.plots import film, scatter

    place = root / entry.place / method.name
    title = f"{name}\n{method.title}: {_about(entry)}"
    cloud = _cloud_of(name, entry, coordinates, True)
    album.keep(scatter.flat(_cloud_of(name, entry, coordinates, False), title), place.with_name(f"{method.name}_2d"))
    album.keep(scatter.solid(cloud, title), place.with_name(f"{method.name}_3d"))
    kinds = {".gif": film.write_gif} | ({".mp4": film.write_mp4} if flags.mp4 else {})
    for ending, write in kinds.items():
        path = album.at(place, ending)
        write(path, scatter.turning(cloud, title))
        print(path, flush=True)


def _cloud_of(name: str, entry: "Entry", coordinates: "Coordinates", solid: bool) -> "Cloud":
    """Put coordinates and marks together."""
    from salun.reports.plots.scatter import Cloud

    features = entry.features
    return Cloud(
        title=name,
        points=coordinates.solid if solid else coordinates.flat,
        labels=features.labels,
        forgotten=features.forgotten,
        classes=features.classes,
        prototypes=coordinates.solid_prototypes if solid else coordinates.flat_prototypes,
    )


def _about(entry: "Entry") -> str:
    """Say what a figure shows."""
    from salun.reports.plots.style import shorten

    features, source = entry.features, entry.features.source
    what = f"{len(features.features)} {source.split} images"
    where = " on ".join(filter(None, (source.model, shorten(source.dataset, 30))))
    layer = "" if source.layer == "pre-head" else f"layer {shorten(source.layer, 30)}"
    return ", ".join(filter(None, (what, where, layer)))
