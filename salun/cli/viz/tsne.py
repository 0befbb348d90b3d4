"""`salun-viz tsne`: the latent space in two and three dimensions."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from salun.cli.viz.album import FigureWriter
from salun.cli.viz.embeddings import Method, add_embedding_flags, check_films, check_seed, draw_all

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HELP = "t-SNE of features: plane, space, a rotation, and models side by side"
_GPU = Path("/dev/nvidiactl")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets the flags.
    """
    add_embedding_flags(parser)
    parser.add_argument("--perplexity", type=float, default=30.0, help="effective number of neighbours (default: 30)")
    parser.add_argument(
        "--backend",
        choices=("auto", "opentsne", "sklearn", "torch"),
        default="auto",
        help="what computes the plane; torch is exact, and auto's choice on a GPU (default: auto)",
    )


def draw(flags: argparse.Namespace) -> int:
    """Embed features by t-SNE and draw them.

    Args:
        flags: of the command line.

    Returns:
        The exit status.

    Raises:
        SalunError: a flag or a file is refused.
    """
    from salun.cli.viz.inputs import read_entries
    from salun.latent.embedding import prototypes_of
    from salun.latent.tsne import check_perplexity

    check_films(flags)
    check_seed(flags.seed)
    album = FigureWriter.of(flags)
    entries = read_entries(flags.paths, flags.samples)
    for entry in entries if len(flags.paths) < 2 else []:
        check_perplexity(flags.perplexity, len(entry.features.features) + len(prototypes_of(entry.features)))
    return draw_all(flags, album, entries, _method_of(flags))


def _method_of(flags: argparse.Namespace) -> Method:
    """Set t-SNE up."""
    from salun.latent import tsne
    from salun.latent.embedding import COMPONENTS, directions

    device = "cuda" if flags.backend in ("auto", "torch") and _has_gpu() else "cpu"

    def fit(points: "NDArray[np.float32]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
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
