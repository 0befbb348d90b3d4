"""`salun-viz tsne`: the latent space in two and three dimensions."""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salun.cli.viz.embeddings import Method, check_films, check_seed, draw_all
from salun.cli.viz.figures import FigureWriter
from salun.latent import tsne
from salun.latent.embedding import COMPONENTS, directions, prototypes_of
from salun.latent.groups import read_entries
from salun.latent.tsne import check_perplexity

_GPU = Path("/dev/nvidiactl")


def run(flags: argparse.Namespace) -> int:
    """Embed features by t-SNE and draw them.

    Args:
        flags: of `viz_parser`.

    Returns:
        The exit status.

    Raises:
        SalunError: a flag or a file is refused.
    """
    check_films(flags)
    check_seed(flags.seed)
    figures = FigureWriter.of(flags)
    entries = read_entries(flags.paths, flags.samples)
    for entry in entries if len(flags.paths) < 2 else []:
        check_perplexity(flags.perplexity, len(entry.features.features) + len(prototypes_of(entry.features)))
    return draw_all(flags, figures, entries, _method_of(flags))


def _method_of(flags: argparse.Namespace) -> Method:
    """Set t-SNE up."""
    device = "cuda" if flags.backend in ("auto", "torch") and _has_gpu() else "cpu"

    def fit(points: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        near = directions(points, None if flags.no_pca else COMPONENTS, flags.seed)
        backend = tsne.settle_backend(flags.backend, len(near), device == "cuda")
        plane = tsne.in_plane(near, flags.perplexity, flags.seed, backend, device)
        return plane, tsne.in_space(near, plane, flags.perplexity, flags.seed)

    settings = {name: getattr(flags, name) for name in ("perplexity", "backend", "seed", "no_pca")}
    return Method("tsne", f"t-SNE, perplexity {flags.perplexity:g}", fit, settings | {"device": device})


def _has_gpu() -> bool:
    """Tell whether tensors can live on a GPU; torch, slow to import, is asked only where there is one."""
    if not _GPU.exists():
        return False
    import torch

    return torch.cuda.is_available()
