"""`salun-viz umap`: the latent space in two and three dimensions."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from salun.cli.arguments import notice, positive
from salun.cli.viz.album import FigureWriter
from salun.cli.viz.embeddings import Method, add_embedding_flags, check_films, check_seed, draw_all

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from salun.cli.viz.inputs import Entry

HELP = "UMAP of features: plane, space, a rotation, and models side by side"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets the flags.
    """
    add_embedding_flags(parser)
    parser.add_argument(
        "--neighbours", type=positive, default=15, metavar="N", help="size of a neighbourhood (default: 15)"
    )
    parser.add_argument(
        "--min-dist", type=float, default=0.1, metavar="X", help="how close points may lie, 0 to 1 (default: 0.1)"
    )
    parser.add_argument(
        "--notebook",
        action="store_true",
        help="the SalUn notebook's figure: of all samples of a file 2,000, equally many of each class; features as "
        "they are, 9 neighbours, distance 0.45, seed 2048",
    )


def draw(flags: argparse.Namespace) -> int:
    """Embed features by UMAP and draw them.

    Args:
        flags: of the command line.

    Returns:
        The exit status.

    Raises:
        SalunError: a flag or a file is refused.
    """
    from salun.cli.viz.inputs import read_entries
    from salun.latent.umap import check_neighbours

    method = _notebook_method(flags) if flags.notebook else _method_of(flags)
    check_films(flags)
    album = FigureWriter.of(flags)
    entries = read_entries(flags.paths, None if flags.notebook else flags.samples)
    if flags.notebook:
        entries = [_notebook_entry(entry) for entry in entries]
    for entry in entries:
        check_neighbours(int(str(method.settings["neighbours"])), len(entry.features.features))
    return draw_all(flags, album, entries, method)


def _method_of(flags: argparse.Namespace) -> Method:
    """Set UMAP up."""
    from salun.errors import SalunError
    from salun.latent.embedding import COMPONENTS, directions
    from salun.latent.umap import umap

    if not 0 <= flags.min_dist <= 1:
        raise SalunError(f"--min-dist {flags.min_dist:g}: must be from 0 to 1")
    check_seed(flags.seed)

    def fit(points: "NDArray[np.float32]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        near = directions(points, None if flags.no_pca else COMPONENTS, flags.seed)
        plane, space = (umap(near, axes, flags.neighbours, flags.min_dist, flags.seed) for axes in (2, 3))
        return plane, space

    settings = {name: getattr(flags, name) for name in ("neighbours", "min_dist", "seed", "no_pca")}
    return Method("umap", f"UMAP, {flags.neighbours} neighbours", fit, settings, fit_prototypes=False)


def _notebook_method(flags: argparse.Namespace) -> Method:
    """Set UMAP up as the SalUn notebook does."""
    from salun.errors import SalunError
    from salun.latent.umap import NOTEBOOK_DISTANCE, NOTEBOOK_NEIGHBOURS, NOTEBOOK_SEED, umap

    defaults = argparse.ArgumentParser()
    add_flags(defaults)
    for name in ("samples", "seed", "neighbours", "min_dist", "no_pca"):
        if getattr(flags, name) != defaults.get_default(name):
            raise SalunError(f"--{name.replace('_', '-')} and --notebook exclude each other: the notebook has its own")

    def fit(points: "NDArray[np.float32]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        settings = (NOTEBOOK_NEIGHBOURS, NOTEBOOK_DISTANCE, NOTEBOOK_SEED)
        return umap(points, 2, *settings), umap(points, 3, *settings)

    settings: dict[str, object] = {
        "neighbours": NOTEBOOK_NEIGHBOURS,
        "min_dist": NOTEBOOK_DISTANCE,
        "seed": NOTEBOOK_SEED,
        "notebook": True,
    }
    return Method("umap_notebook", "UMAP as in the notebook", fit, settings)


def _notebook_entry(entry: "Entry") -> "Entry":
    """Keep the notebook's samples: equally many of each class, drawn with its seed."""
    import numpy as np
    import torch

    from salun.errors import SalunError
    from salun.latent.subset import NOTEBOOK_COUNT, notebook_subset

    features = entry.features
    if features.source.split != "train":
        raise SalunError(f"{entry.path}: holds {features.source.split} images; --notebook draws training images")
    chosen = features.at(notebook_subset(torch.from_numpy(features.labels), len(features.classes)).numpy())
    if len(chosen.labels) < NOTEBOOK_COUNT // len(features.classes) * len(features.classes):
        notice(f"{entry.path}: {len(features.labels)} images allow {len(chosen.labels)} of the notebook's 2,000")
    none = np.empty((len(features.classes), 0), dtype=np.float32)
    return replace(entry, features=replace(chosen, prototypes=none))
