"""`salun-viz umap`: the latent space in two and three dimensions."""

import argparse
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from salun.cli.parsers import UMAP_DEFAULTS
from salun.cli.status import notice
from salun.cli.viz.embeddings import Method, check_flags, draw_all
from salun.cli.viz.figures import FigureWriter
from salun.errors import SalunError
from salun.latent.embedding import COMPONENTS, directions
from salun.latent.groups import FeatureFile, read_entries
from salun.latent.subset import NOTEBOOK_COUNT, notebook_subset
from salun.latent.umap import NOTEBOOK_DISTANCE, NOTEBOOK_NEIGHBOURS, NOTEBOOK_SEED, check_neighbours, umap


def run(flags: argparse.Namespace) -> int:
    """Embed features by UMAP and draw them."""
    method = _notebook_method(flags) if flags.notebook else _method_of(flags)
    check_flags(flags)
    figures = FigureWriter.of(flags)
    entries = read_entries(flags.paths, None if flags.notebook else flags.samples)
    if flags.notebook:
        entries = [_notebook_entry(entry) for entry in entries]
    for entry in entries:
        check_neighbours(int(str(method.settings["neighbours"])), len(entry.features.features))
    return draw_all(flags, figures, entries, method)


def _method_of(flags: argparse.Namespace) -> Method:
    """Set UMAP up."""
    if not 0 <= flags.min_dist <= 1:
        raise SalunError(f"--min-dist {flags.min_dist:g}: must be from 0 to 1")

    def fit(points: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        near = directions(points, None if flags.no_pca else COMPONENTS, flags.seed)
        plane, space = (umap(near, axes, flags.neighbours, flags.min_dist, flags.seed) for axes in (2, 3))
        return plane, space

    settings = {name: getattr(flags, name) for name in ("neighbours", "min_dist", "seed", "no_pca")}
    return Method("umap", f"UMAP, {flags.neighbours} neighbours", fit, settings, fit_prototypes=False)


def _notebook_method(flags: argparse.Namespace) -> Method:
    """Set UMAP up as the SalUn notebook does."""
    for name, default in UMAP_DEFAULTS.items():
        if getattr(flags, name) != default:
            raise SalunError(f"--{name.replace('_', '-')} and --notebook exclude each other: the notebook has its own")

    def fit(points: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        settings = (NOTEBOOK_NEIGHBOURS, NOTEBOOK_DISTANCE, NOTEBOOK_SEED)
        return umap(points, 2, *settings), umap(points, 3, *settings)

    settings: dict[str, object] = {
        "neighbours": NOTEBOOK_NEIGHBOURS,
        "min_dist": NOTEBOOK_DISTANCE,
        "seed": NOTEBOOK_SEED,
        "notebook": True,
    }
    return Method("umap_notebook", "UMAP as in the notebook", fit, settings)


def _notebook_entry(entry: FeatureFile) -> FeatureFile:
    """Keep the notebook's samples: equally many of each class, drawn with its seed."""
    features = entry.features
    if features.source.split != "train":
        raise SalunError(f"{entry.path}: holds {features.source.split} images; --notebook draws training images")
    chosen = features.at(notebook_subset(torch.from_numpy(features.labels), len(features.classes)).numpy())
    if len(chosen.labels) < NOTEBOOK_COUNT // len(features.classes) * len(features.classes):
        notice(f"{entry.path}: {len(features.labels)} images allow {len(chosen.labels)} of the notebook's 2,000")
    none = np.empty((len(features.classes), 0), dtype=np.float32)
    return replace(entry, features=replace(chosen, prototypes=none))
