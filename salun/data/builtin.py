"""Readers of the data sets that the package knows by name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salun.data.cifar import LARGEST_ARCHIVE, as_text, read_batch, whole_numbers
from salun.data.dataset import Dataset, Subset, held_out
from salun.data.download import fetch
from salun.data.folder import read_folder
from salun.data.idx import read_idx
from salun.data.sources import dataset
from salun.errors import SalunError
from salun.io.limits import check_length

_DIGITS = tuple(str(digit) for digit in range(10))
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_TINY_IMAGENET = "tiny-imagenet-200", "90528d7ca1a48142e341f4ef8d21d0de"  # its folder, and the MD5 sum of its archive


@dataset("digits", classes=10)
def _digits(data_dir: Path, download: bool) -> Dataset:
    """Read scikit-learn's bundled 8x8 digits: 1,797 real images, a stratified fifth of them for testing."""
    images, target = _digits_table()
    pixels = torch.from_numpy(np.round(images * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(target.astype(np.int64))
    test, train = held_out(labels, 0.2, seed=0)
    return Dataset("digits", Subset(pixels[train], labels[train]), Subset(pixels[test], labels[test]), _DIGITS)


@dataset("digits_grouped", classes=3, subclasses=10)
def _digits_grouped(data_dir: Path, download: bool) -> Dataset:
    """Read the digits in three groups by their strokes: loops (0, 6, 8, 9), lines (1, 4, 7) and curves (2, 3, 5)."""
    found = _digits(data_dir, download)
    groups = torch.tensor([0, 1, 2, 2, 1, 2, 0, 1, 0, 0])
    train, test = (part._replace(labels=groups[part.labels], fine=part.labels) for part in (found.train, found.test))
    return Dataset("digits_grouped", train, test, ("loops", "lines", "curves"), subclasses=_DIGITS)


def _digits_table() -> tuple[np.ndarray, np.ndarray]:
    """Read scikit-learn's table of digits, without importing it, which takes two seconds, where that can be."""
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        table = Path(folder, "datasets", "data", "digits.csv.gz")
        if table.is_file():
            rows = np.loadtxt(table, delimiter=",")
            return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target


@dataset("cifar10", classes=10)
def _cifar10(data_dir: Path, download: bool) -> Dataset:
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, "labels", data_dir, download)


@dataset("cifar100", classes=100)
def _cifar100(data_dir: Path, download: bool) -> Dataset:
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, "fine_labels", data_dir, download)


@dataset("cifar20", classes=20, subclasses=100)
def _cifar20(data_dir: Path, download: bool) -> Dataset:
    """Read CIFAR-100 with its twenty coarse labels; its hundred fine ones are the subclasses."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar20", CIFAR100, "coarse_labels", data_dir, download, "fine_labels")


def _cifar(
    name: str, layout: Any, label_key: str, data_dir: Path, download: bool, fine_key: str | None = None
) -> Dataset:
    """Read CIFAR-10 or CIFAR-100 in the format of its authors (Krizhevsky, 2009)."""
    folder, archive = data_dir / layout.base_folder, data_dir / layout.filename
    if not folder.is_dir() and not archive.is_file():
        files = f"{layout.filename} (or its folder {layout.base_folder}/)"
        fetch(name, data_dir, files, download, lambda root: layout(root, download=True))

    @contextmanager
    def batch(file: str) -> Iterator[dict[str, Any]]:
        if folder.is_dir() and not (folder / file).is_file():
            raise SalunError(f"data set '{name}': {folder / file} is missing; unpack {archive.name} again")
        with _unbroken(name, (folder if folder.is_dir() else archive / folder.name) / file):
            yield read_batch(folder, archive, file)

    def subset(file: str) -> Subset:
        with batch(file) as entry:
            found = _subset(whole_numbers(entry["data"]).reshape(-1, 3, 32, 32), whole_numbers(entry[label_key]))
            fine = None if fine_key is None else torch.from_numpy(whole_numbers(entry[fine_key]).astype(np.int64))
            return found._replace(fine=fine)

    def joined(files: list[list[str]]) -> Subset:
        parts = [subset(file) for file, _ in files]
        fine = [part.fine for part in parts if part.fine is not None]
        pixels, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("pixels", "labels"))
        return Subset(pixels, labels, fine=torch.cat(fine) if fine else None)

    with batch(layout.meta["filename"]) as entry:
        names = [entry[f"{key[:-1]}_names"] if key else () for key in (label_key, fine_key)]
        classes, subclasses = [tuple(map(as_text, found)) for found in names]
    train, test = joined(layout.train_list), joined(layout.test_list)
    return Dataset(name, train, test, classes, padding=4, flip=True, subclasses=subclasses)


@dataset("svhn", classes=10)
def _svhn(data_dir: Path, download: bool) -> Dataset:
    """Read SVHN's cropped digits, its own training and test part (Netzer et al., 2011)."""
    from scipy.io import loadmat
    from torchvision.datasets import SVHN

    files = {part: SVHN.split_list[part][1] for part in ("train", "test")}
    folder = data_dir / "svhn" if (data_dir / "svhn").is_dir() else data_dir
    missing = {part: file for part, file in files.items() if not (folder / file).is_file()}
    if missing:
        absent = " and ".join(missing.values())
        fetch("svhn", folder, absent, download, lambda root: [SVHN(root, part, download=True) for part in missing])

    def subset(file: str) -> Subset:
        with _unbroken("svhn", folder / file):
            check_length(folder / file, LARGEST_ARCHIVE)
            content = loadmat(folder / file, variable_names=["X", "y"])
            return _subset(content["X"].transpose(3, 2, 0, 1), content["y"].reshape(-1) % 10)

    return Dataset("svhn", subset(files["train"]), subset(files["test"]), _DIGITS)


@dataset("mnist", classes=10)
def _mnist(data_dir: Path, download: bool) -> Dataset:
    from torchvision.datasets import MNIST

    return _idx("mnist", MNIST, _DIGITS, data_dir, download)


@dataset("fashion_mnist", classes=10)
def _fashion_mnist(data_dir: Path, download: bool) -> Dataset:
    from torchvision.datasets import FashionMNIST

    return _idx("fashion_mnist", FashionMNIST, _FASHION, data_dir, download)


def _idx(name: str, layout: Any, classes: tuple[str, ...], data_dir: Path, download: bool) -> Dataset:
    """Read MNIST or Fashion-MNIST, compressed or not (LeCun et al., 1998; Xiao et al., 2017)."""
    raw = data_dir / layout.__name__ / "raw"
    files = [Path(file).stem for file, _ in layout.resources]
    # Debian's packages put data sets into folders such as /usr/share/datasets/fashion-mnist.
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    places = [raw, *(Path(folder, "datasets", name.replace("_", "-")) for folder in shared.split(":"))]
    missing = [[file for file in files if _as_it_came(folder / file) is None] for folder in places]
    if all(missing):
        absent = " and ".join(f"{layout.__name__}/raw/{file}" for file in missing[0])
        fetch(name, data_dir, absent, download, lambda root: layout(root, download=True))
        missing[0] = []
    folder = places[missing.index([])]

    def content(file: str, axes: int) -> np.ndarray:
        path = _as_it_came(folder / file) or folder / file
        with _unbroken(name, path):
            return read_idx(path, axes)

    def subset(start: str) -> Subset:
        pixels, labels = content(f"{start}-images-idx3-ubyte", 3), content(f"{start}-labels-idx1-ubyte", 1)
        with _unbroken(name, folder / f"{start}-labels-idx1-ubyte"):
            return _subset(pixels[:, None], labels)

    return Dataset(name, subset("train"), subset("t10k"), classes)


def _as_it_came(file: Path) -> Path | None:
    """Find a file, unpacked or with `.gz` after its name."""
    return next((path for path in (file, file.with_name(f"{file.name}.gz")) if path.is_file()), None)


@dataset("tiny_imagenet", classes=200)
def _tiny_imagenet(data_dir: Path, download: bool) -> Dataset:
    """Read TinyImageNet as it unpacks; the test part is `val/`, as `test/` has no labels (Le and Yang, 2015)."""
    from torchvision.datasets.utils import download_and_extract_archive

    folder, md5 = _TINY_IMAGENET
    address = f"http://cs231n.stanford.edu/{folder}.zip"
    if not (data_dir / folder).is_dir():
        get = partial(download_and_extract_archive, address, md5=md5, remove_finished=True)
        fetch("tiny_imagenet", data_dir, f"the folder {folder}/ of {address}", download, get)
    return read_folder("tiny_imagenet", data_dir / folder, 64, data_dir)


@dataset("imagenette", classes=10)
def _imagenette(data_dir: Path, download: bool) -> Dataset:
    """Read Imagenette, ten classes of ImageNet, 128 pixels a side of its archive of 160 (Howard, 2019)."""
    from torchvision.datasets import Imagenette

    folder = data_dir / "imagenette2-160"
    if not folder.is_dir():
        get = partial(Imagenette, size="160px", download=True)
        fetch("imagenette", data_dir, f"the folder {folder.name}/", download, get)
    found = read_folder("imagenette", folder, 128, data_dir)
    with _unbroken("imagenette", folder):
        names = Imagenette(str(data_dir), size="160px").classes
    return replace(found, classes=tuple(name for name, *_ in names))


def _subset(pixels: np.ndarray, labels: np.ndarray) -> Subset:
    """Check the arrays of one file and make them a part of a data set."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"its pixels are {pixels.dtype}, not uint8")
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f"it holds {len(pixels)} images and labels of shape {labels.shape}")
    return Subset(torch.from_numpy(np.array(pixels, order="C")), torch.from_numpy(labels.astype(np.int64)))


@contextmanager
def _unbroken(name: str, file: Path) -> Iterator[None]:
    """Turn whatever a broken data file raises into one line that names it."""
    try:
        yield
    except SalunError:
        raise
    except Exception as error:  # decoders raise errors of every kind on a broken file
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SalunError(f"data set '{name}': {file} cannot be read: {detail}") from error
