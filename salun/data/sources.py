"""Where images come from: bundled, downloaded, a folder, or generated."""

import io
import pickle
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F

from salun.data.folder import read_folder
from salun.data.parts import Dataset, Part, held_out
from salun.errors import SalunError, did_you_mean

DIGITS = tuple(str(digit) for digit in range(10))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, IndexError, EOFError, AssertionError, RuntimeError,
    AttributeError, ImportError, zlib.error, tarfile.TarError, pickle.UnpicklingError,
)  # fmt: skip


class Source(NamedTuple):
    """A named data set: how it is read, and how its training images may be augmented."""

    read: Callable[[Path, bool], Dataset]
    classes: int


def load(name: str, data_dir: Path = Path("data"), download: bool = True) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of `SOURCES`, `folder:PATH[:size=PIXELS]`, or
            `synthetic[:n=...,size=...,classes=...,noise=...,seed=...]`.
        data_dir: where downloaded data lie, and where large folders are cached.
        download: whether absent data may be fetched.

    Returns:
        Training and test part with their class names.

    Raises:
        SalunError: the name is unknown, or the data are absent and cannot be had, or unreadable.
    """
    kind, _, rest = name.partition(":")
    if kind == "folder":
        path, size = parse_folder(name)
        return read_folder(name, path, size, data_dir)
    if kind == "synthetic":
        return synthetic(name, **parse_synthetic(rest))
    if name not in SOURCES:
        raise SalunError(f"data set '{name}': unknown{did_you_mean(name, KINDS)}")
    return SOURCES[name].read(data_dir, download)


def class_count(name: str) -> int | None:
    """Tell the number of classes without reading the data.

    Args:
        name: a data set's name, as `load` takes it.

    Returns:
        The number, or None where only the data can tell (`folder:`).

    Raises:
        SalunError: the name is unknown or its options are wrong.
    """
    kind, _, rest = name.partition(":")
    if kind == "synthetic":
        return int(parse_synthetic(rest)["classes"])
    if kind == "folder":
        parse_folder(name)
        return None
    if name not in SOURCES:
        raise SalunError(f"data set '{name}': unknown{did_you_mean(name, KINDS)}")
    return SOURCES[name].classes


def parse_folder(name: str) -> tuple[Path, int | None]:
    """Split `folder:PATH[:size=PIXELS]`.

    Args:
        name: the data set's name.

    Returns:
        The folder, and the side in pixels where one is given.

    Raises:
        SalunError: no path, or a size outside 4..1024.
    """
    found = re.fullmatch(r"folder:(.+?)(?::size=(\w+))?", name)
    if found is None:
        raise SalunError(f"data set '{name}': name the folder, as in folder:PATH")
    path, size = found.groups()
    if size is None:
        return Path(path), None
    if not size.isdigit() or not 4 <= int(size) <= 1024:
        raise SalunError(f"data set '{name}': size={size}: must be a whole number of pixels from 4 to 1024")
    return Path(path), int(size)


def parse_synthetic(options: str) -> dict[str, Any]:
    """Read the options of `synthetic:`.

    Args:
        options: what follows the colon, as `n=5000,size=32`.

    Returns:
        The arguments of `synthetic`, complete.

    Raises:
        SalunError: an unknown option, or a value outside its bounds.
    """
    bounds = {"n": (20, 10**7), "size": (4, 512), "classes": (2, 1000), "noise": (0.0, 0.9), "seed": (0, 2**31)}
    settings: dict[str, Any] = {"n": 10_000, "size": 32, "classes": 10, "noise": 0.1, "seed": 0}
    for option in filter(None, options.split(",")):
        key, _, text = option.partition("=")
        if key not in bounds:
            raise SalunError(f"data set 'synthetic:{options}': option '{key}' unknown{did_you_mean(key, bounds)}")
        low, high = bounds[key]
        try:
            value = type(settings[key])(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise SalunError(f"data set 'synthetic:{options}': {key}={text}: must be a number from {low} to {high}")
        settings[key] = value
    if settings["n"] < 10 * settings["classes"]:
        raise SalunError(f"data set 'synthetic:{options}': n={settings['n']}: needs at least 10 images a class")
    return settings


def digits(data_dir: Path, download: bool) -> Dataset:
    """Read scikit-learn's bundled 8x8 digits: 1,797 real images, a stratified fifth of them for testing.

    Args:
        data_dir: not needed.
        download: not needed.

    Returns:
        1,438 training and 359 test images of one channel.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    test, train = held_out(labels, 0.2, seed=0)
    return Dataset("digits", Part(pixels[train], labels[train]), Part(pixels[test], labels[test]), DIGITS)


def cifar(name: str, data_dir: Path, download: bool) -> Dataset:
    """Read CIFAR-10 or CIFAR-100 in the format of its authors (Krizhevsky, 2009).

    torchvision's class names the files and downloads them; the batches are decoded here, because
    they are pickles and theirs would run whatever code a file holds.

    Args:
        name: "cifar10" or "cifar100".
        data_dir: holds the folder or the archive as downloaded.
        download: whether the archive may be fetched.

    Returns:
        3x32x32 images with fine labels.

    Raises:
        SalunError: a file is absent or unreadable.
    """
    from torchvision import datasets

    ten = name == "cifar10"
    layout, label_key = (datasets.CIFAR10, "labels") if ten else (datasets.CIFAR100, "fine_labels")
    folder, archive = data_dir / layout.base_folder, data_dir / layout.filename
    if not folder.is_dir() and not archive.is_file():
        what = f"{layout.filename} (or its folder {layout.base_folder}/)"
        fetch(name, data_dir, what, download, lambda root: layout(root, download=True))

    def part(files: list[list[str]]) -> Part:
        entries = [unpickle(open_member(folder, archive, file)) for file, _ in files]
        pixels = np.concatenate([np.asarray(entry["data"], np.uint8).reshape(-1, 3, 32, 32) for entry in entries])
        labels = np.concatenate([np.asarray(entry[label_key], np.int64) for entry in entries])
        return Part(torch.from_numpy(pixels), torch.from_numpy(labels))

    with readable(name, folder if folder.is_dir() else archive):
        meta = unpickle(open_member(folder, archive, layout.meta["filename"]))
        classes = tuple(str(label) for label in meta[layout.meta["key"]])
        return Dataset(name, part(layout.train_list), part(layout.test_list), classes, padding=4, flip=True)


def svhn(data_dir: Path, download: bool) -> Dataset:
    """Read SVHN's cropped digits, its own training and test part (Netzer et al., 2011).

    Args:
        data_dir: holds `train_32x32.mat` and `test_32x32.mat`, or a folder `svhn` that does.
        download: whether the files may be fetched.

    Returns:
        3x32x32 images; the files' label 10 is the digit 0.

    Raises:
        SalunError: a file is absent or unreadable.
    """
    from scipy.io import loadmat
    from torchvision.datasets import SVHN

    files = [SVHN.split_list[part][1] for part in ("train", "test")]
    folder = data_dir / "svhn" if (data_dir / "svhn").is_dir() else data_dir
    if not all((folder / file).is_file() for file in files):
        parts = ("train", "test")
        fetch("svhn", folder, " and ".join(files), download, lambda root: [SVHN(root, p, download=True) for p in parts])

    def part(file: str) -> Part:
        content = loadmat(str(folder / file), variable_names=["X", "y"])
        labels = content["y"].astype(np.int64).reshape(-1) % 10
        pixels = np.ascontiguousarray(np.asarray(content["X"], np.uint8).transpose(3, 2, 0, 1))
        return Part(torch.from_numpy(pixels), torch.from_numpy(labels))

    with readable("svhn", folder):
        return Dataset("svhn", part(files[0]), part(files[1]), DIGITS)


def mnist(name: str, data_dir: Path, download: bool) -> Dataset:
    """Read MNIST or Fashion-MNIST through torchvision (LeCun et al., 1998; Xiao et al., 2017).

    Args:
        name: "mnist" or "fashion_mnist".
        data_dir: holds torchvision's layout, `MNIST/raw/train-images-idx3-ubyte` and so on.
        download: whether the files may be fetched.

    Returns:
        1x28x28 images.

    Raises:
        SalunError: a file is absent or unreadable.
    """
    from torchvision.datasets import MNIST, FashionMNIST

    layout, classes = (MNIST, DIGITS) if name == "mnist" else (FashionMNIST, FASHION)
    raw = data_dir / layout.__name__ / "raw"
    files = [Path(file).stem for file, _ in layout.resources]
    if not all((raw / file).is_file() for file in files):
        fetch(
            name, data_dir, f"{layout.__name__}/raw/{{{','.join(files)}}}", download, lambda r: layout(r, download=True)
        )
    with readable(name, raw):
        parts = [layout(data_dir, train=train) for train in (True, False)]
        train, test = (Part(part.data[:, None], part.targets.long()) for part in parts)
        return Dataset(name, train, test, classes)


def synthetic(name: str, *, n: int, size: int, classes: int, noise: float, seed: int) -> Dataset:
    """Generate a learnable CIFAR-shaped data set with wrong labels to memorise.

    An image is its class's smooth pattern plus pixel noise. The share `noise` of the training labels
    is drawn anew, so that fitting them takes memory and membership attacks find something.

    Args:
        name: what the data set is called.
        n: training images; a fifth of it is added for testing.
        size: side in pixels.
        classes: number of classes.
        noise: share of the training labels that is random.
        seed: of all of it.

    Returns:
        3-channel images.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(classes, 3, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)

    def part(count: int, noise: float) -> Part:
        labels = torch.arange(count) % classes
        pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)
        for rows in torch.arange(count).split(4096):
            grain = torch.randn(len(rows), 3, size, size, generator=generator)
            pixels[rows] = (128 + 32 * patterns[labels[rows]] + 40 * grain).clamp(0, 255).byte()
        drawn = torch.randint(0, classes, (count,), generator=generator)
        wrong = torch.rand(count, generator=generator) < noise
        return Part(pixels, torch.where(wrong, drawn, labels))

    names = tuple(f"class {number}" for number in range(classes))
    return Dataset(name, part(n, noise), part(max(n // 5, classes), 0.0), names, padding=size // 8, flip=True)


def fetch(name: str, folder: Path, files: str, download: bool, get: Callable[[str], object]) -> None:
    """Download absent data beside their place and move them in whole.

    Args:
        name: the data set.
        folder: where it was looked for.
        files: what is missing, as the error shows it.
        download: whether fetching is allowed.
        get: downloads into the folder it is given.

    Raises:
        SalunError: it is not allowed, or did not succeed.
    """
    absent = f"data set '{name}' is not in {folder}"
    remedy = f"put {files} there, or use --dataset digits, which needs no download"
    if not download:
        raise SalunError(f"{absent}: {remedy}")
    with tempfile.TemporaryDirectory(prefix="salun-download-") as staging:
        try:
            get(staging)
            folder.mkdir(parents=True, exist_ok=True)
            for item in Path(staging).iterdir():
                shutil.move(str(item), folder / item.name)
        except (URLError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SalunError(f"{absent} and could not be downloaded ({reason}): {remedy}") from error


@contextmanager
def readable(name: str, place: Path) -> Iterator[None]:
    """Turn whatever a broken data file raises into one line that names it.

    Args:
        name: the data set.
        place: where its files lie.

    Raises:
        SalunError: in place of what the block raised.
    """
    try:
        yield
    except UNREADABLE as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SalunError(f"data set '{name}' in {place} cannot be read: {detail}") from error


def open_member(folder: Path, archive: Path, file: str) -> IO[bytes]:
    """Open a file of a data set, unpacked or inside its archive.

    Args:
        folder: the unpacked folder.
        archive: the tar file, read in place where the folder is absent.
        file: name inside the folder.

    Returns:
        An open binary file.

    Raises:
        SalunError: the file is in neither.
    """
    if folder.is_dir():
        if not (folder / file).is_file():
            raise SalunError(f"{folder / file}: missing; unpack {archive.name} again in {folder.parent}")
        return (folder / file).open("rb")
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"{folder.name}/{file}")
        if member is None:
            raise SalunError(f"{archive}: holds no file {folder.name}/{file}")
        return io.BytesIO(member.read())


def unpickle(file: IO[bytes]) -> dict[str, Any]:
    """Decode one CIFAR batch, which is a pickled dictionary, without running code from it.

    Args:
        file: an open binary file; it is closed.

    Returns:
        The dictionary, keys as text.

    Raises:
        pickle.UnpicklingError: the file asks for anything but arrays, numbers, text and lists.
    """
    with file:
        content = ArraysOnly(file, encoding="latin1").load()
    return {key if isinstance(key, str) else key.decode(): value for key, value in content.items()}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that can build numpy arrays and nothing else."""

    allowed = re.compile(
        r"numpy\.(ndarray|dtype)|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|_codecs\.encode"
    )

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name that the file mentions.

        Args:
            module: its module.
            name: its name there.

        Returns:
            The object.

        Raises:
            pickle.UnpicklingError: the name is not one that arrays need.
        """
        if not self.allowed.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"refuses to load {module}.{name}: not an array")
        return super().find_class(module, name)


SOURCES = {
    "digits": Source(digits, 10),
    "cifar10": Source(partial(cifar, "cifar10"), 10),
    "cifar100": Source(partial(cifar, "cifar100"), 100),
    "svhn": Source(svhn, 10),
    "mnist": Source(partial(mnist, "mnist"), 10),
    "fashion_mnist": Source(partial(mnist, "fashion_mnist"), 10),
}
KINDS = (*SOURCES, "folder:PATH", "synthetic")
