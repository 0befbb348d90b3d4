"""Pixels that stay in their file, and are read image by image as batches ask for them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from salun.errors import SalunError
from salun.io.arrays import check_header, read_header


class PixelFile:
    """A file of (N, C, H, W) uint8 pixels, indexed as a tensor is; nothing of it is kept in memory."""

    # Read, not mapped: pages of a mapped file count as the process's own, and a file cut off under a map kills it.

    ndim = 4
    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        """Look at a file."""
        try:
            with path.open("rb") as file:
                header = read_header(file)
            check_header(header, path.stat().st_size)
        except Exception as error:  # a broken header raises errors of every kind
            raise SalunError(f"{path}: damaged; delete it, and it is built again") from error
        if header.dtype != np.uint8 or len(header.shape) != self.ndim or header.by_columns:
            raise SalunError(f"{path}: holds no pixels; delete it, and it is built again")
        self.path, self.shape, self.begin = path, torch.Size(header.shape), header.begin

    def __len__(self) -> int:
        """Tell how many images there are."""
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read images."""
        length = math.prod(self.shape[1:])
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                for image, row in zip(images, rows.tolist(), strict=True):
                    file.seek(self.begin + row * length)
                    if file.readinto(image) != length:
                        raise EOFError(f"ends within image {row}")
        except (OSError, EOFError) as error:
            raise SalunError(f"{self.path}: can no longer be read: {error}") from error
        return torch.from_numpy(images)


class _RearrangedPixels(PixelFile):
    """Images of several stores, of which some stay in files, in an order of their own."""

    def __init__(self, stores: Sequence[Tensor | PixelFile], order: Tensor) -> None:
        self.stores, self.order = stores, order
        self.shape = torch.Size((len(order), *stores[0].shape[1:]))

    def __getitem__(self, rows: Tensor) -> Tensor:
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        wanted, first = self.order[rows.cpu()], 0
        for store in self.stores:
            here = (wanted >= first) & (wanted < first + len(store))
            images[here] = store[wanted[here] - first].cpu()
            first += len(store)
        return images


def rearranged(stores: Sequence[Tensor | PixelFile], order: Tensor) -> Tensor | PixelFile:
    """Put the images of several stores into another order.

    Args:
        stores: of images of one shape, in memory or in files.
        order: (N,) int64, places in the stores one behind the other.

    Returns:
        A store of N images: in memory where all are, else one that reads from the others.
    """
    tensors = [store for store in stores if isinstance(store, Tensor)]
    if len(tensors) < len(stores):
        return _RearrangedPixels(stores, order.cpu())
    return torch.cat(tensors)[order.to(tensors[0].device)]
