"""Data sets by name, as images for the Python face."""

import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from salun.data import sources
from salun.data.images import Images
from salun.data.sets import prepare
from salun.data.split import ForgetRequest, make_split


class _Parts(NamedTuple):
    """The two parts of a data set."""

    train: Images
    test: Images


def load(name: str, data_dir: str | Path = "data", *, download: bool = True) -> _Parts:
    """Load a data set by name.

    Args:
        name: as `salun-train --dataset` takes it, such as "cifar10" or "folder:PATH".
        data_dir: where data sets lie.
        download: whether an absent one may be fetched.

    Returns:
        Its parts `train` and `test`, normalised by the statistics of the training images, which are augmented as the
        data set allows. A warning says which images of a folder are the test part.

    Raises:
        SalunError: the name is unknown, or the data cannot be had.

    Example:
        >>> load("digits").train
        Images(1438 of 1 x 8 x 8 pixels, labels 0 to 9)
    """
    found = sources.load(name, Path(data_dir), download)
    for line in found.notices:
        warnings.warn(line, stacklevel=2)
    view = prepare(found, make_split(found, ForgetRequest()))
    parts = [
        Images(
            part.pixels,
            torch.arange(len(part.labels)),
            part.labels,
            torch.device("cpu"),
            view,
            part.names,
            found.classes,
        )
        for part in (found.train, found.test)
    ]
    return _Parts(*parts)
