"""What `tsne` and `umap` share: fits of one model or of several together, and their figures."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salun.cli.viz.figures import FigureWriter
from salun.errors import SalunError
from salun.latent.embedding import Coordinates, Fit, embed_together, key_of, read_coordinates, write_coordinates
from salun.latent.groups import FeatureFile, comparable, gather, model_titles
from salun.reports.plots import scatter
from salun.reports.plots.animation import check_ffmpeg, write_animation
from salun.reports.plots.scatter import Cloud
from salun.reports.plots.style import shorten, styled

_JOINED = 2


@dataclass(frozen=True)
class Method:
    """How points are embedded."""

    name: str  # of the files
    title: str  # in figures
    fit: Fit  # gives coordinates in plane and space
    settings: dict[str, object]  # that decide the outcome, plain values
    fit_prototypes: bool = True  # whether prototypes are fitted among the samples


def check_flags(flags: argparse.Namespace) -> None:
    """Check the flags that both methods share, before anything is computed."""
    if flags.mp4:
        check_ffmpeg()
    if not 0 <= flags.seed < 2**32:
        raise SalunError(f"--seed {flags.seed}: must be from 0 to {2**32 - 1}")


def draw_all(flags: argparse.Namespace, figures: FigureWriter, entries: Sequence[FeatureFile], method: Method) -> int:
    """Embed and draw: each file by itself, or those that were named together in one space."""
    if len(flags.paths) < _JOINED:
        for entry in entries:
            _draw_models(flags, figures, [entry], method, Path())
        return 0
    for group in comparable(entries, strict=True):
        _draw_models(flags, figures, group.entries, method, Path(gather(flags.paths), group.name))
    return 0


def _draw_models(
    flags: argparse.Namespace, figures: FigureWriter, entries: Sequence[FeatureFile], method: Method, root: Path
) -> None:
    """Embed models in one space, and draw each of them and all of them."""
    found = _coordinates_of(figures, entries, method, root)
    with styled():
        named = list(zip(model_titles(entries), entries, found, strict=True))
        for name, entry, coordinates in named:
            _draw_one(flags, figures, name, entry, coordinates, method, root)
        if len(entries) > 1:
            clouds = [_cloud_of(name, entry, coordinates, False) for name, entry, coordinates in named]
            title = f"{method.title}, one fit for all models: {_about(entries[0])}"
            figures.keep(scatter.side_by_side(clouds, title), root / f"{method.name}_side_by_side")


def _coordinates_of(
    figures: FigureWriter, entries: Sequence[FeatureFile], method: Method, root: Path
) -> list[Coordinates]:
    """Give coordinates, fitted anew only where those that were kept are of something else."""
    models = [entry.features for entry in entries]
    key = key_of(models, {"method": method.name, **method.settings})
    files = [figures.at(root / entry.place / method.name, ".npz") for entry in entries]
    kept = [read_coordinates(file, key) for file in files]
    found = [coordinates for coordinates in kept if coordinates is not None]
    if len(found) < len(entries):
        found = embed_together(models, method.fit, method.fit_prototypes)
        for file, coordinates, features in zip(files, found, models, strict=True):
            write_coordinates(file, coordinates, features, key)
    return found


def _draw_one(
    flags: argparse.Namespace,
    figures: FigureWriter,
    name: str,
    entry: FeatureFile,
    coordinates: Coordinates,
    method: Method,
    root: Path,
) -> None:
    """Draw one model in the plane, in space, and turning."""
    place = root / entry.place / method.name
    title = f"{name}\n{method.title}: {_about(entry)}"
    cloud = _cloud_of(name, entry, coordinates, True)
    figures.keep(scatter.flat(_cloud_of(name, entry, coordinates, False), title), place.with_name(f"{method.name}_2d"))
    figures.keep(scatter.solid(cloud, title), place.with_name(f"{method.name}_3d"))
    for ending in (".gif", ".mp4") if flags.mp4 else (".gif",):
        path = figures.at(place, ending)
        write_animation(path, scatter.turning(cloud, title))
        print(path, flush=True)


def _cloud_of(name: str, entry: FeatureFile, coordinates: Coordinates, solid: bool) -> Cloud:
    """Put coordinates and marks together."""
    features = entry.features
    return Cloud(
        title=name,
        points=coordinates.solid if solid else coordinates.flat,
        labels=features.labels,
        forgotten=features.forgotten,
        classes=features.classes,
        prototypes=coordinates.solid_prototypes if solid else coordinates.flat_prototypes,
    )


def _about(entry: FeatureFile) -> str:
    """Say what a figure shows."""
    features, source = entry.features, entry.features.source
    what = f"{len(features.features)} {source.split} images"
    where = " on ".join(filter(None, (source.model, shorten(source.dataset, 30))))
    layer = "" if source.layer == "pre-head" else f"layer {shorten(source.layer, 30)}"
    return ", ".join(filter(None, (what, where, layer)))
