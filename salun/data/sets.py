"""The image sets that one forgetting problem is made of, ready for the device."""

import json
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import Tensor

from salun.data.dataset import Corrupted, Dataset, Subset
from salun.data.images import Images
from salun.data.memmap import PixelFile
from salun.data.split import Split, without
from salun.data.transforms import Preparation, channel_statistics
from salun.errors import SalunError
from salun.io.files import write_text

_Statistics = tuple[list[float], list[float]]  # mean and deviation of each channel
_KEPT = TypeAdapter(tuple[list[FiniteFloat], list[FiniteFloat]])
_SAMPLE = 4096  # images whose channels give mean and deviation, where each must be decoded for it


@dataclass(frozen=True)
class _CorruptedSets:
    """The images that a corruption concerns."""

    found: Images  # the forget set with its true labels
    undiscovered: Images  # the corrupted images of the retain set, with their true labels
    triggered: Images  # test images of other classes with the trigger, and its target as label; empty of other kinds
    clean: Images  # the retain set without the undiscovered images


@dataclass(frozen=True)
class Sets:
    """What a model is trained on, unlearns, and is measured on; validation and test lack the forgotten classes."""

    train: Images  # forget and retain together
    forget: Images  # to be forgotten
    retain: Images  # to be kept
    validation: Images  # held out of training
    test: Images  # of the remaining classes
    forgotten_test: Images  # test images of the forgotten classes
    corrupted: _CorruptedSets | None = None  # where training images were corrupted
    earlier: tuple[Images, ...] = ()  # training images that each earlier request named


def to_device(dataset: Dataset, device: torch.device) -> Dataset:
    """Move a data set's labels to the device, and its pixels unless they stay in a file."""

    def moved(part: Subset) -> Subset:
        pixels = part.pixels if isinstance(part.pixels, PixelFile) else part.pixels.to(device)
        return part._replace(pixels=pixels, labels=part.labels.to(device))

    return replace(dataset, train=moved(dataset.train), test=moved(dataset.test))


def prepare(dataset: Dataset, split: Split, resize: int | None = None) -> Preparation:
    """Work out how a data set's pixels become model input.

    Args:
        dataset: the data.
        split: its training split gives mean and standard deviation; of images that must be decoded for it, a part.
        resize: side in pixels that the model wants, where it is not the images' own.
    """
    rows = split.train.to(dataset.train.pixels.device)
    if isinstance(dataset.train.pixels, PixelFile) and dataset.train.pixels.crops:
        rows = rows[torch.arange(_SAMPLE) * len(rows) // _SAMPLE].unique()
    mean, std = _statistics(dataset.train.pixels, rows)
    return Preparation(tuple(mean), tuple(std), dataset.padding, dataset.flip, resize)


def _statistics(pixels: Tensor | PixelFile, rows: Tensor) -> _Statistics:
    """Find mean and standard deviation of the channels; those of images in files are kept while these do not change."""
    if not isinstance(pixels, PixelFile) or pixels.kept_in is None:
        return channel_statistics(pixels, rows)
    path = pixels.kept_in / f"{pixels.identity(rows)}.json"
    with suppress(OSError, ValueError):
        kept = _KEPT.validate_json(path.read_bytes())
        if [len(part) for part in kept] == 2 * [pixels.shape[1]]:
            return kept
    found = channel_statistics(pixels, rows)
    with suppress(SalunError):  # data may lie where nothing can be written
        write_text(path, json.dumps(found) + "\n")
    return found


def make_sets(dataset: Dataset, split: Split, preparation: Preparation, device: torch.device) -> Sets:
    """Take the sets of one split from a data set.

    Args:
        dataset: the data, as `to_device` left them.
        split: which image belongs where.
        preparation: how pixels become model input.
        device: where batches go.

    Returns:
        The sets; they share the data set's pixels.
    """

    done = dataset.corrupted

    def taken(part: Subset, indices: Tensor) -> Images:
        rows, labels = indices.to(part.pixels.device), part.labels[indices.to(part.labels.device)]
        return Images(part.pixels, rows, labels.to(device), device, preparation)

    def corrupted_sets(done: Corrupted) -> _CorruptedSets:
        true, tested, others = dataset.train._replace(labels=done.labels), dataset.test, split.test[:0]
        if done.target is not None and done.triggered is not None:
            others = split.test[tested.labels.cpu()[split.test] != done.target]
            tested = Subset(done.triggered, torch.full_like(tested.labels, done.target))
        return _CorruptedSets(
            found=taken(true, split.forget),
            undiscovered=taken(true, split.undiscovered),
            triggered=taken(tested, others),
            clean=taken(dataset.train, without(split.retain, split.undiscovered)),
        )

    return Sets(
        train=taken(dataset.train, split.train),
        forget=taken(dataset.train, split.forget),
        retain=taken(dataset.train, split.retain),
        validation=taken(dataset.train, split.validation),
        test=taken(dataset.test, split.test),
        forgotten_test=taken(dataset.test, split.forgotten_test),
        corrupted=None if done is None else corrupted_sets(done),
        earlier=tuple(taken(dataset.train, other.forget) for other in split.earlier),
    )
