"""Image files that are decoded as batches ask for them, by several processes, for sets that no memory holds."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomResizedCrop

from salun.data.decode import decode_into_memory, decoded, fingerprint, fitted, unwarned
from salun.data.memmap import PixelFile
from salun.device import decoders, seeded_globally
from salun.errors import SalunError, first_line

_AT_ONCE = 32  # images that one process decodes before it hands them over
_AREA, _RATIO = [0.08, 1.0], [3 / 4, 4 / 3]  # of the part that a crop takes, as torchvision has them
_CPU = torch.device("cpu")
_Chunk = tuple[list[int], list[int] | None]  # rows and, for training, seeds of their crops


class StreamedFiles(PixelFile):
    """Image files, indexed as a tensor of their (N, 3, size, size) uint8 pixels is.

    For training, a random part of each image is scaled to the size (torchvision's `RandomResizedCrop`); otherwise its
    shorter side is, and the centre cut out.

    Args:
        root: folder that the names begin at.
        names: of N files; of them alone memory is taken, and none by objects that forked processes would copy.
        size: side in pixels.
        kept_in: folder of what is computed of the images once.
    """

    crops = True

    def __init__(self, root: Path, names: Sequence[str] | np.ndarray, size: int, kept_in: Path | None) -> None:
        self.root, self.size, self.kept_in = root, size, kept_in
        self.names = names if isinstance(names, np.ndarray) else np.array([os.fsencode(name) for name in names])
        self.shape = torch.Size((len(self.names), 3, size, size))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Decode whole images."""
        return decode_into_memory([self.file(row) for row in rows.tolist()], self.size)

    def identity(self, rows: Tensor) -> str:
        """Identify images by their files' paths, lengths and times of change."""
        return fingerprint([self.file(row) for row in rows.tolist()], self.size)

    def file(self, row: int) -> str:
        """Name an image's file."""
        return os.path.join(self.root, os.fsdecode(self.names[row]))

    def read_ahead(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None = None, own: slice = slice(None)
    ) -> Iterator[Tensor]:
        """Decode batches in turn by processes of their own, each while those before it are in use."""
        wanted = [_wanted(len(rows), own) for rows in batches]
        chunks = chain.from_iterable(
            _chunked(rows[at], None if seeds is None else seeds[number][at])
            for number, (rows, at) in enumerate(zip(batches, wanted, strict=True))
        )
        decoded = self._decoded(chunks, sum(map(len, wanted)))
        for rows, at in zip(batches, wanted, strict=True):
            blank = torch.empty if len(at) == len(rows) else torch.zeros
            images = blank((len(rows), *self.shape[1:]), dtype=torch.uint8)
            for places in at.split(_AT_ONCE):
                images[places] = next(decoded)
            yield images

    def _decoded(self, chunks: Iterator[_Chunk], count: int) -> Iterator[Tensor]:
        """Decode chunks in turn; the few of a single one are not worth a process."""
        workers = 0 if count <= _AT_ONCE else decoders()
        # Its own generator, as the loader would draw from the one that layers draw from.
        loader = DataLoader(_Chunks(self), None, sampler=chunks, num_workers=workers, generator=torch.Generator())
        try:
            for images in loader:
                if isinstance(images, str):
                    raise SalunError(images)
                yield images
        except RuntimeError as error:
            told = f"{self.root}: a process that decodes images ended: {first_line(error)}"
            raise SalunError(told) from error

    def merged(self, stores: Sequence[PixelFile], order: Tensor) -> PixelFile:
        """Put the files of several stores into another order."""
        streams = [store for store in stores if isinstance(store, StreamedFiles)]
        names = np.concatenate([store.names for store in streams])
        return StreamedFiles(self.root, names[order.numpy()], self.size, self.kept_in)


class _Chunks(Dataset[Tensor | str]):
    """What a process of the loader does."""

    def __init__(self, store: StreamedFiles) -> None:
        self.store = store

    def __getitem__(self, chunk: _Chunk) -> Tensor | str:
        """Decode images, or tell in a line why not: an error would come with the traces of two processes."""
        rows, seeds = chunk
        files, size = [self.store.file(row) for row in rows], self.store.size
        images = np.empty((len(files), 3, size, size), np.uint8)
        try:
            with unwarned(), seeded_globally(0, _CPU):
                for place, file in enumerate(files):
                    if seeds is not None:
                        torch.default_generator.manual_seed(seeds[place])
                    images[place] = fitted(file, size) if seeds is None else _cropped(file, size)
        except SalunError as error:
            return str(error)
        return torch.from_numpy(images)


def _cropped(file: str, size: int) -> np.ndarray:
    """Decode an image, and scale a part of it that torch's generator draws."""
    image = decoded(file)
    top, left, height, width = RandomResizedCrop.get_params(image, _AREA, _RATIO)
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box)).transpose(2, 0, 1)


def _wanted(count: int, own: slice) -> Tensor:
    """List the places of a batch that are wanted; where there are none, the first, which a process then has."""
    places = torch.arange(count)
    return places[own] if len(places[own]) else places[:1]


def _chunked(rows: Tensor, seeds: Tensor | None) -> Iterator[_Chunk]:
    """Part the images of a batch; one without images is a chunk without images."""
    for places in torch.arange(len(rows)).split(_AT_ONCE):
        yield rows[places].tolist(), None if seeds is None else seeds[places].tolist()
