"""Images as pixels on the device, and the sets and batches taken from them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from salun.data.folder import read_class_folders
from salun.data.memmap import PixelFile
from salun.data.transforms import Augment, Preparation, augmented, unit_interval
from salun.device import seeded, seeded_globally
from salun.errors import SalunError, first_line

_Ordered = list[tuple[Tensor, Tensor, Tensor]]  # positions, rows and labels of each batch


class _View(Protocol):
    """Turns stored pixels into model input."""

    def __call__(self, pixels: Tensor, generator: torch.Generator | None, /) -> Tensor:
        """Prepare images."""


class Batch(NamedTuple):
    """What one step sees."""

    x: Tensor  # (B, C, H, W) float32, ready for the model
    y: Tensor  # (B,) int64 labels
    at: Tensor  # (B,) int64 positions in the `Images` that the batch was taken from


@dataclass(frozen=True)
class Images:
    """A set of images: rows of a pixel store that several sets share."""

    pixels: Tensor | PixelFile  # (M, C, H, W) uint8, on the device or in a file; or float32 in [0, 1]
    rows: Tensor  # (N,) int64 on the store's device: each image's index in its part of the data set
    labels: Tensor  # (N,) int64 on `device`
    device: torch.device  # where batches go
    view: _View  # turns stored pixels into model input, augmented where it is given a generator
    names: Sequence[str] | None = None  # of the N images, such as their paths
    classes: tuple[str, ...] = ()  # class names, by label; empty where they are not known

    @classmethod
    def from_tensors(
        cls,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray | Sequence[int],
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        augment: Augment | None = None,
        classes: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> "Images":
        """Take images that are in memory.

        Args:
            x: (N, C, H, W) images. Floating-point values reach the model as they are; uint8 pixels are divided by 255.
            y: (N,) labels from 0.
            mean: of each channel, in the values that reach the model (uint8: in [0, 1]); subtracted.
            std: of each channel, likewise; divided by. Give both or neither.
            augment: of training batches: "crop_flip", a random crop after padding by an eighth of the side, and
                mirroring; or a function of a (B, C, H, W) float32 batch, such as a transform of torchvision.
            classes: class names, by label.
            names: of the N images, such as file names, by which `split` finds them.

        Returns:
            The images; `x` is not copied where it is float32 or uint8 already.

        Raises:
            SalunError: shapes, labels or values are not such.

        Examples:
            >>> Images.from_tensors(torch.rand(8, 3, 16, 16), [0, 1] * 4)
            Images(8 of 3 x 16 x 16 pixels, labels 0 to 1)
        """
        pixels, labels = _checked_pixels(_tensor_of("images", x)), _checked_labels(_tensor_of("labels", y))
        if len(pixels) != len(labels) or (names is not None and len(names) != len(labels)):
            named = "" if names is None else f", {len(names)} names"
            raise SalunError(f"images: {len(pixels)} images, {len(labels)} labels{named}: must be as many")
        if classes and int(labels.max()) >= len(classes):
            raise SalunError(f"images: label {int(labels.max())}, but {len(classes)} class names")
        view = augmented(_preparation(pixels, mean, std), augment, min(pixels.shape[2:]))
        rows = torch.arange(len(pixels), device=pixels.device)
        images = cls(pixels, rows, labels.to(pixels.device), pixels.device, view, names, tuple(classes))
        if callable(augment):
            _try_augmentation(images)
        return images

    @classmethod
    def from_dataset(cls, dataset: "Dataset[Any]", *, augment: Augment | None = None) -> "Images":
        """Read a torch data set once, item by item, into memory.

        Args:
            dataset: gives pairs of a (C, H, W) tensor and a label; random transforms would be drawn once and for all.
            augment: as `from_tensors` takes it.

        Returns:
            The images, in the order of the data set, with the class and file names that torchvision's ImageFolder has.

        Raises:
            SalunError: the items are no such pairs, or differ in shape.
        """
        if not hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
            raise SalunError(f"from_dataset: a {type(dataset).__name__}; must be a torch data set of pairs")
        return cls.from_loader(DataLoader(dataset, batch_size=256), augment=augment)

    @classmethod
    def from_loader(cls, loader: "DataLoader[Any]", *, augment: Augment | None = None) -> "Images":
        """Read a DataLoader once into memory.

        Args:
            loader: gives (B, C, H, W) tensors with (B,) labels. One that shuffles is read in the order of its data set;
                one with a sampler of its own in the sampler's order, which must take no image twice. Random transforms
                would be drawn once and for all: give the loader of plain images, and `augment`.
            augment: as `from_tensors` takes it.

        Returns:
            The images.

        Raises:
            SalunError: the batches are no such pairs, or differ in shape; or an image comes twice.
        """
        if not isinstance(loader, DataLoader):
            raise SalunError(f"from_loader: a {type(loader).__name__}; must be a DataLoader; from_tensors takes arrays")
        plain, known, order = loader, _Names(), _order_of(loader)
        if order is not None:
            known, size = _names_of(loader.dataset, order), loader.batch_size or 256
            workers, collate = loader.num_workers, loader.collate_fn
            plain = DataLoader(loader.dataset, size, sampler=order, num_workers=workers, collate_fn=collate)
        x, y = _read_pairs(plain)
        return cls.from_tensors(x, y, augment=augment, classes=known.classes, names=known.names)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        size: int | None = None,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        augment: Augment | None = None,
    ) -> "Images":
        """Decode the images of a folder, one folder a class, into memory.

        Args:
            path: the folder.
            size: side in pixels; the shorter side is scaled to it and the centre cut out. None: the images' own if all
                are alike, else 64.
            mean: as `from_tensors` takes it, and so `std` and `augment`.

        Returns:
            RGB images of [0, 1], numbered in turn over the classes; each is named by its path in the folder.

        Raises:
            SalunError: the folder is absent, is divided into parts, holds no images, or one of them cannot be decoded.
        """
        pixels, labels, classes, names = read_class_folders(Path(path), size)
        return cls.from_tensors(pixels, labels, mean=mean, std=std, augment=augment, classes=classes, names=names)

    def __repr__(self) -> str:
        """Tell how many images there are, of which shape."""
        shape = " x ".join(map(str, self.pixels.shape[1:]))
        labels = f"labels {int(self.labels.min())} to {int(self.labels.max())}" if len(self) else "no labels"
        return f"Images({len(self)} of {shape} pixels, {labels})"

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "Images":
        """Select the images at (K,) int64 positions in this set; no pixel is copied."""
        rows, labels = self.rows[positions.to(self.rows.device)], self.labels[positions.to(self.labels.device)]
        names = None if self.names is None else [self.names[place] for place in positions.tolist()]
        return replace(self, rows=rows, labels=labels, names=names)

    def relabel(self, labels: Tensor) -> "Images":
        """Give the images other labels: (N,) int64."""
        return replace(self, labels=labels.to(self.device))

    def join(self, other: "Images") -> "Images":
        """Put another set after this one; sets of different stores are copied into a new one."""
        labels = torch.cat([self.labels, other.labels])
        names = None if self.names is None or other.names is None else [*self.names, *other.names]
        if self.pixels is other.pixels:
            return replace(self, rows=torch.cat([self.rows, other.rows]), labels=labels, names=names)
        ours, theirs = self.pixels[self.rows], other.pixels[other.rows].to(self.pixels.device)
        if ours.dtype != theirs.dtype:
            ours, theirs = unit_interval(ours), unit_interval(theirs)
        pixels = torch.cat([ours, theirs])
        rows = torch.arange(len(pixels), device=pixels.device)
        return replace(self, pixels=pixels, rows=rows, labels=labels, names=names)

    def batches(
        self, size: int | list[int], generator: torch.Generator | None = None, own: slice = slice(None)
    ) -> "Batches":
        """Go once through the images.

        Args:
            size: images a batch, of which the last one may be smaller; or the size of each batch, in order.
            generator: shuffles and augments; without it the images come in order and plain.
            own: which images of each batch the caller looks at; others may be black where they would have to be read.
        """
        return Batches(self, size, generator, own)

    def moved(self, pixels: Tensor) -> Tensor:
        """Bring pixels to `device`, without waiting for CUDA to have taken them."""
        if self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True)


@dataclass(eq=False)
class Batches(Iterator[Batch]):
    """One pass through images, as `Images.batches` describes it; its order is drawn with the first batch."""

    images: Images
    size: int | list[int]
    generator: torch.Generator | None
    own: slice
    _left: Iterator[Batch] | None = field(default=None, init=False)

    def __next__(self) -> Batch:
        if self._left is None:
            self.skip(0)
        return next(cast(Iterator[Batch], self._left))

    def skip(self, count: int) -> None:
        """Draw the order, and leave out the first batches, whose images are neither read nor augmented."""
        ordered = self._ordered()
        seeds = self._crops([len(rows) for _, rows, _ in ordered])
        self._left = _read(self.images, ordered[count:], seeds and seeds[count:], self.generator, self.own)

    def _ordered(self) -> _Ordered:
        """Put the images into batches."""
        images, count, generator = self.images, len(self.images), self.generator
        order = torch.arange(count, device=images.device)
        if generator is not None:
            order = torch.randperm(count, generator=generator, device=generator.device).to(images.device)
        ordered = (order, images.rows[order.to(images.rows.device)], images.labels[order])
        sizes = self.size if isinstance(self.size, list) else min(self.size, max(count, 1))
        return list(zip(*(part.split(sizes) for part in ordered), strict=True))

    def _crops(self, sizes: list[int]) -> list[Tensor] | None:
        """Draw seeds of the images' crops, where their files are cropped."""
        store, generator = self.images.pixels, self.generator
        if generator is None or isinstance(store, Tensor) or not store.crops:
            return None
        drawn = torch.randint(2**31, (sum(sizes),), generator=generator, device=generator.device)
        return list(drawn.cpu().split(sizes))


def _read(
    images: Images, ordered: _Ordered, seeds: list[Tensor] | None, generator: torch.Generator | None, own: slice
) -> Iterator[Batch]:
    """Take batches, those of a file while earlier ones are in use; a pass that is dropped ends this too."""
    store, rows = images.pixels, [rows for _, rows, _ in ordered]
    taken = (store[each] for each in rows)
    pixels = taken if isinstance(store, Tensor) else store.read_ahead(rows, seeds, own)
    for (at, _, y), stored in zip(ordered, pixels, strict=True):
        yield Batch(images.view(images.moved(stored), generator), y, at)


def even_sizes(count: int, most: int, fewest: int = 1) -> list[int]:
    """Divide images into batches that differ by one image at most, so that each may count alike.

    Args:
        count: images, at least 1.
        most: images a batch.
        fewest: images a batch, at most `most`; where no division keeps to both, batches are below twice this.

    Returns:
        The size of each batch.
    """
    parts = max(1, min(-(-count // most), count // fewest))
    return [count // parts + (place < count % parts) for place in range(parts)]


def _tensor_of(what: str, given: Any) -> Tensor:
    """Read a user's array."""
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SalunError(f"{what}: a {type(given).__name__}; must be a tensor or an array of numbers") from error


def _preparation(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Preparation:
    """Check mean and standard deviation of the channels against the values that reach the model."""
    top, channels = 1.0 if pixels.dtype == torch.uint8 else math.inf, pixels.shape[1]
    found = {}
    for what, given in (("mean", mean), ("std", std)):
        values = _tensor_of(what, given).double()
        if values.ndim != 1 or len(values) not in (0, channels):
            raise SalunError(f"images: {what} of {values.numel()} channels for images of {channels}")
        found[what] = tuple(values.tolist())
        least = 0.0 if what == "std" else 1.0 - top
        for value in found[what]:
            if not math.isfinite(value) or not least <= value <= top or (what == "std" and not value):
                accepted = {"std": "above 0, at most", "mean": "from 0 to"}[what] + " 1"
                if top > 1:
                    accepted = {"std": "above 0", "mean": "a finite number"}[what]
                raise SalunError(f"images: {what}={value:g}: must be {accepted}, in the values that reach the model")
    if bool(found["mean"]) != bool(found["std"]):
        raise SalunError("images: one of mean= and std= alone; give both or neither")
    return Preparation(found["mean"] or (0.0,) * channels, found["std"] or (1.0,) * channels)


def _try_augmentation(images: Images) -> None:
    """Augment two images by a user's function, which must give a batch like the one that it is given."""
    few = images.take(torch.arange(min(2, len(images))))
    with seeded_globally(0, images.device):
        plain = next(few.batches(2)).x
        try:
            x = next(few.batches(2, seeded(0, images.device))).x
        except Exception as error:  # a user's function may raise anything
            raise SalunError(f"augment: cannot take a batch of {tuple(plain.shape)}: {first_line(error)}") from error
    if not isinstance(x, Tensor) or x.shape != plain.shape or not x.is_floating_point():
        given = f"shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise SalunError(
            f"augment: gives {given} for a batch of shape {tuple(plain.shape)}, {plain.dtype}: must be alike"
        )


def _order_of(loader: "DataLoader[Any]") -> list[int] | None:
    """List the images that a loader reads, by place in its data set; None where it alone knows."""
    data: Any = loader.dataset
    chosen = loader.batch_sampler if loader.batch_size is None else loader.sampler
    if chosen is None or isinstance(data, IterableDataset):
        return None
    if isinstance(chosen, RandomSampler) and chosen.num_samples >= len(data):
        return list(range(len(data)))
    taken = [place for batch in chosen for place in batch] if loader.batch_size is None else chosen
    order: list[Any] = [place.item() if isinstance(place, Tensor) else place for place in taken]
    if repeated := len(order) - len(set(order)):
        kind = type(chosen).__name__
        told = f"its {kind} takes {repeated} of {len(order)} images a second time"
        raise SalunError(f"from_loader: {told}; give a loader without it, or Images.from_dataset(loader.dataset)")
    return order


def _read_pairs(loader: "DataLoader[Any]") -> tuple[Tensor, Tensor]:
    """Read all batches of a loader: images and labels."""
    pixels, labels = [], []
    try:
        for batch in loader:
            if isinstance(batch, dict):
                raise TypeError(f"they are dictionaries of {', '.join(map(repr, batch))}; give a collate_fn")
            pixels.append(torch.as_tensor(batch[0]))
            labels.append(torch.as_tensor(batch[1]))
        return torch.cat(pixels), torch.cat(labels)
    except (TypeError, KeyError, IndexError, ValueError, RuntimeError) as error:
        told = "images: the data must give pairs of image tensor and label, all alike"
        raise SalunError(f"{told}: {first_line(error)}") from error


def _checked_pixels(x: Tensor) -> Tensor:
    """Bring a user's images to uint8 or float32, or say what is wrong with them."""
    if x.ndim != 4 or not x.numel():
        raise SalunError(f"images: shape {tuple(x.shape)}: must be (N, C, H, W), not empty")
    if x.dtype == torch.uint8:
        return x
    if not x.dtype.is_floating_point:
        raise SalunError(f"images: values of {x.dtype}: must be floating-point, or uint8 pixels from 0 to 255")
    pixels = x.detach().float()
    if not bool(pixels.isfinite().all()):
        raise SalunError("images: some values are no finite numbers")
    return pixels


def _checked_labels(y: Tensor) -> Tensor:
    """Bring a user's labels to int64, or say what is wrong with them."""
    if y.ndim != 1 or y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise SalunError(f"images: labels of shape {tuple(y.shape)} and {y.dtype}: must be (N,) whole numbers")
    if len(y) and int(y.min()) < 0:
        raise SalunError(f"images: label {int(y.min())}: labels count from 0")
    return y.to(torch.int64)


class _Names(NamedTuple):
    """What a torch data set knows of its images by name."""

    classes: Sequence[str] = ()
    names: Sequence[str] | None = None


def _names_of(dataset: Any, order: Sequence[int]) -> _Names:
    """Find class names, and file names in an order, as torchvision's data sets have them."""
    classes, samples, root = (getattr(dataset, name, None) for name in ("classes", "samples", "root"))
    named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    names = None
    if isinstance(samples, list) and isinstance(root, str | Path) and len(samples) == len(dataset):
        names = [Path(samples[place][0]).relative_to(root).as_posix() for place in order]
    return _Names(classes if named and classes else (), names)
