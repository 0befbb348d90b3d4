"""Pixels that stay in their file, and are read image by image as batches ask for them."""

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    crops = False  # whether images for training are cropped as they are read
    kept_in: Path | None = None  # folder of what is computed of the images once; None where they are of several files

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
        self.kept_in = path.parent

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

    def identity(self, rows: Tensor) -> str:
        """Identify images, of a store that is `kept_in` a folder, by what their files are.

        Args:
            rows: (N,) int64.

        Returns:
            A part of a file name, another one when a file has changed.
        """
        return f"{self.path.stem}-{hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest()[:16]}"

    def read_ahead(
        self,
        batches: Sequence[Tensor],
        seeds: Sequence[Tensor] | None = None,  # noqa: ARG002 - of stores that crop
        own: slice = slice(None),  # noqa: ARG002 - of stores to which reading is dear
    ) -> Iterator[Tensor]:
        """Read batches in turn, each while those before it are in use.

        Args:
            batches: (B,) int64 rows of each.
            seeds: (B,) int64 of each, by which a store that `crops` draws the images' crops; None for whole images.
            own: which images of each batch are wanted; a store to which reading is dear may leave the others black.

        Yields:
            (B, C, H, W) uint8.

        Raises:
            SalunError: the images can no longer be read.
        """
        reading: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for rows in batches:
                reading.append(pool.submit(self.__getitem__, rows))
                if len(reading) > 1:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()

    def merged(self, stores: "Sequence[PixelFile]", order: Tensor) -> "PixelFile":
        """Put the images of several stores of this kind into another order, as `rearranged` does."""
        return _RearrangedPixels(stores, order)


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
    files = [store for store in stores if isinstance(store, PixelFile)]
    if not files:
        return torch.cat(tensors)[order.to(tensors[0].device)]
    if len({type(store) for store in stores}) == 1:
        return files[0].merged(files, order.cpu())
    return _RearrangedPixels(stores, order.cpu())
