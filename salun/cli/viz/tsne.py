"""`salun-viz tsne`: the latent space in two and three dimensions."""

import argparse

import numpy as np
from numpy.typing import NDArray

from salun.cli.viz.embeddings import Method, check_flags, draw_all
from salun.cli.viz.figures import FigureWriter
from salun.latent.embedding import COMPONENTS, directions, prototypes_of
from salun.latent.groups import read_entries
from salun.latent.tsne import check_perplexity, in_plane, in_space

_Floats = NDArray[np.float64]


def run(flags: argparse.Namespace) -> int:
    """Embed features by t-SNE and draw them."""
    check_flags(flags)
    figures = FigureWriter.of(flags)
    entries = read_entries(flags.paths, flags.samples)
    for entry in entries if len(flags.paths) < 2 else []:
        check_perplexity(flags.perplexity, len(entry.features.features) + len(prototypes_of(entry.features)))

    def fit(points: NDArray[np.float32]) -> tuple[_Floats, _Floats]:
        near = directions(points, None if flags.no_pca else COMPONENTS, flags.seed)
        plane = in_plane(near, flags.perplexity, flags.seed)
        return plane, in_space(near, plane, flags.perplexity, flags.seed)

    settings = {name: getattr(flags, name) for name in ("perplexity", "seed", "no_pca")}
    method = Method("tsne", f"t-SNE, perplexity {flags.perplexity:g}", fit, settings)
    return draw_all(flags, figures, entries, method)
