"""Where images come from: bundled, downloaded, a folder, or generated."""

import gzip
import io
import re
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from salun.data.dataset import Dataset, Subset, held_out
from salun.data.folder import read_folder
from salun.data.matlab import read_matrices
from salun.data.pickles import as_text, unpickle, whole_numbers
from salun.errors import SalunError, did_you_mean
from salun.io.limits import MIB, check_length
from salun.registry import claim, file_of, load_installed

_DIGITS = tuple(str(digit) for digit in range(10))
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
DOWNLOAD_TIMEOUT = 20.0
_LARGEST_SYNTHETIC = 64 * 2**30
# CIFAR-100's training batch is the largest, of 155 MB; an archive unpacks to 186 MB, SVHN's training part to 225 MB.
LARGEST_BATCH = 512 * MIB
LARGEST_ARCHIVE = 1024 * MIB
LARGEST_MATRICES = 1024 * MIB
_GZIPPED = b"\x1f\x8b"
_OPEN = {"folder": "folder:PATH", "synthetic": "synthetic"}


_Read = Callable[[Path, bool], Dataset]


class _Source(NamedTuple):
    """A named data set.

    Attributes:
        read: gives it, of the folder of data and whether absent data may be fetched.
        classes: number of classes.
        home: the module that it stands in.
    """

    read: _Read
    classes: int
    home: str = __name__


def dataset(name: str, *, classes: int) -> Callable[[_Read], _Read]:
    """Register a data set.

    Args:
        name: as in JSON and on the command line.
        classes: number of classes.

    Returns:
        A decorator for a function of the folder of data and whether absent data may be fetched, which gives the
        data set under that very name.

    Raises:
        TypeError: the name or the number cannot be one.
        SalunError: the name is taken.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name in _OPEN or classes < 1:
        raise TypeError(f"data set '{name}' of {classes} classes: needs a name of letters and digits, and classes")

    def register(read: _Read) -> _Read:
        claim("data set", name, read.__module__, {known: source.home for known, source in SOURCES.items()})
        SOURCES[name] = _Source(read, classes, read.__module__)
        return read

    return register


def load(name: str, data_dir: Path = Path("data"), download: bool = True, *, skip_corrupt: bool = False) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of `SOURCES` or of an installed package, `folder:PATH[:size=PIXELS]`, or
            `synthetic[:n=...,size=...,classes=...,noise=...,seed=...]`.
        data_dir: where downloaded data lie, and where large folders are cached.
        download: whether absent data may be fetched.
        skip_corrupt: whether images of a folder that cannot be decoded are left out; they are named in `skipped`.

    Returns:
        Training and test part with their class names.

    Raises:
        SalunError: the name is unknown, or the data are absent and cannot be had, unreadable, or not as registered.
    """
    kind, _, rest = name.partition(":")
    if kind == "folder":
        path, size = _parse_folder(name)
        return read_folder(name, path, size, data_dir, skip_corrupt)
    if kind == "synthetic":
        return _synthetic(name, **_parse_synthetic(rest))
    source = _find_source(name)
    found = source.read(data_dir, download)
    if source.home != __name__:
        _check_read(name, source, found)
    return found


def _check_read(name: str, source: _Source, found: object) -> None:
    """Check that a function outside this file gave the data set that it is registered for."""
    place = f"data set '{name}': the function of {file_of(source.home)} gave"
    if not isinstance(found, Dataset):
        raise SalunError(f"{place} a {type(found).__name__}; it must return a salun.data.dataset.Dataset")
    if (found.name, len(found.classes)) != (name, source.classes):
        raise SalunError(f"{place} '{found.name}' of {len(found.classes)} classes; registered are {source.classes}")
    for part in (found.train, found.test):
        if (part.pixels.dtype, part.labels.dtype) != (torch.uint8, torch.int64):
            types = f"pixels of {part.pixels.dtype} and labels of {part.labels.dtype}"
            raise SalunError(f"{place} {types}; they must be torch.uint8 and torch.int64")


def _find_source(name: str) -> _Source:
    """Look a data set up by name; installed packages are asked where the name is not one of ours."""
    if name not in SOURCES:
        load_sources()
    if name not in SOURCES:
        raise SalunError(f"data set '{name}': unknown{did_you_mean(name, [*SOURCES, *_OPEN.values()])}")
    return SOURCES[name]


def load_sources() -> None:
    """Import the data sets that installed packages add."""
    load_installed("salun.datasets")


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
        return int(_parse_synthetic(rest)["classes"])
    if kind == "folder":
        _parse_folder(name)
        return None
    return _find_source(name).classes


def _parse_folder(name: str) -> tuple[Path, int | None]:
    """Split `folder:PATH[:size=PIXELS]`."""
    found = re.fullmatch(r"folder:(.+?)(?::size=(\w+))?", name)
    if found is None:
        raise SalunError(f"data set '{name}': name the folder, as in folder:PATH")
    path, size = found.groups()
    if size is None:
        return Path(path).expanduser(), None
    if not size.isdecimal() or not 4 <= int(size) <= 1024:
        raise SalunError(f"data set '{name}': size={size}: must be a whole number of pixels from 4 to 1024")
    return Path(path).expanduser(), int(size)


def _parse_synthetic(options: str) -> dict[str, Any]:
    """Read the options of `synthetic:`."""
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
    if (pixels := 3 * settings["n"] * settings["size"] ** 2) > _LARGEST_SYNTHETIC:
        raise SalunError(f"data set 'synthetic:{options}': would take {pixels / 2**30:.0f} GiB; at most 64 are made")
    return settings


def _digits(data_dir: Path, download: bool) -> Dataset:
    """Read scikit-learn's bundled 8x8 digits: 1,797 real images, a stratified fifth of them for testing."""
    images, target = digits_table()
    pixels = torch.from_numpy(np.round(images * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(target.astype(np.int64))
    test, train = held_out(labels, 0.2, seed=0)
    return Dataset("digits", Subset(pixels[train], labels[train]), Subset(pixels[test], labels[test]), _DIGITS)


def digits_table() -> tuple[np.ndarray, np.ndarray]:
    """Read the digits that scikit-learn brings along, without importing it where that can be, which takes two seconds.

    Returns:
        (1797, 64) pixels from 0 to 16, and as many labels.
    """
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        table = Path(folder, "datasets", "data", "digits.csv.gz")
        if table.is_file():
            rows = np.loadtxt(table, delimiter=",")
            return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target


def _cifar(name: str, data_dir: Path, download: bool) -> Dataset:
    """Read CIFAR-10 or CIFAR-100 in the format of its authors (Krizhevsky, 2009)."""
    from torchvision import datasets

    ten = name == "cifar10"
    layout, label_key = (datasets.CIFAR10, "labels") if ten else (datasets.CIFAR100, "fine_labels")
    folder, archive = data_dir / layout.base_folder, data_dir / layout.filename
    if not folder.is_dir() and not archive.is_file():
        what = f"{layout.filename} (or its folder {layout.base_folder}/)"
        _fetch(name, data_dir, what, download, lambda root: layout(root, download=True))

    def batch(file: str) -> Subset:
        with _readable(name, folder, archive, file) as opened:
            entry = unpickle(opened)
            return _part_of(whole_numbers(entry["data"]).reshape(-1, 3, 32, 32), whole_numbers(entry[label_key]))

    def part(files: list[list[str]]) -> Subset:
        pixels, labels = zip(*(batch(file) for file, _ in files), strict=True)
        return Subset(torch.cat(pixels), torch.cat(labels))

    with _readable(name, folder, archive, layout.meta["filename"]) as opened:
        classes = tuple(as_text(label) for label in unpickle(opened)[layout.meta["key"]])
    return Dataset(name, part(layout.train_list), part(layout.test_list), classes, padding=4, flip=True)


def _svhn(data_dir: Path, download: bool) -> Dataset:
    """Read SVHN's cropped digits, its own training and test part (Netzer et al., 2011)."""
    from torchvision.datasets import SVHN

    files = {part: SVHN.split_list[part][1] for part in ("train", "test")}
    folder = data_dir / "svhn" if (data_dir / "svhn").is_dir() else data_dir
    missing = {part: file for part, file in files.items() if not (folder / file).is_file()}
    if missing:
        what = " and ".join(missing.values())
        _fetch("svhn", folder, what, download, lambda root: [SVHN(root, part, download=True) for part in missing])

    def part(file: str) -> Subset:
        with _unbroken("svhn", folder / file):
            check_length(folder / file, LARGEST_MATRICES)
            content = read_matrices(folder / file, ("X", "y"), LARGEST_MATRICES)
            return _part_of(content["X"].transpose(3, 2, 0, 1), content["y"].reshape(-1) % 10)

    return Dataset("svhn", part(files["train"]), part(files["test"]), _DIGITS)


def _mnist(name: str, data_dir: Path, download: bool) -> Dataset:
    """Read MNIST or Fashion-MNIST through torchvision (LeCun et al., 1998; Xiao et al., 2017)."""
    from torchvision.datasets import MNIST, FashionMNIST
    from torchvision.datasets.mnist import read_image_file, read_label_file

    layout, classes = (MNIST, _DIGITS) if name == "mnist" else (FashionMNIST, _FASHION)
    raw = data_dir / layout.__name__ / "raw"
    missing = [file for file in (Path(file).stem for file, _ in layout.resources) if not (raw / file).is_file()]
    if missing:
        what = " and ".join(f"{layout.__name__}/raw/{file}" for file in missing)
        _fetch(name, data_dir, what, download, lambda root: layout(root, download=True))

    def part(start: str) -> Subset:
        images, answers = raw / f"{start}-images-idx3-ubyte", raw / f"{start}-labels-idx1-ubyte"
        for file in (images, answers):
            check_length(file, LARGEST_BATCH)
        with _unbroken(name, images):
            pixels = read_image_file(str(images)).numpy()[:, None]
        with _unbroken(name, answers):
            return _part_of(pixels, read_label_file(str(answers)).numpy())

    return Dataset(name, part("train"), part("t10k"), classes)


def _part_of(pixels: np.ndarray, labels: np.ndarray) -> Subset:
    """Check the arrays of one file and make them a part of a data set."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"its pixels are {pixels.dtype}, not uint8")
    if labels.shape != pixels.shape[:1]:
        raise ValueError(f"it holds {len(pixels)} images and labels of shape {labels.shape}")
    return Subset(torch.from_numpy(np.array(pixels, order="C")), torch.from_numpy(labels.astype(np.int64)))


def _synthetic(name: str, *, n: int, size: int, classes: int, noise: float, seed: int) -> Dataset:
    """Generate a learnable CIFAR-shaped data set with wrong labels to memorise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(classes, 3, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)

    def part(count: int, noise: float) -> Subset:
        labels = torch.arange(count) % classes
        pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)
        for rows in torch.arange(count).split(4096):
            grain = torch.randn(len(rows), 3, size, size, generator=generator)
            pixels[rows] = (128 + 32 * patterns[labels[rows]] + 40 * grain).clamp(0, 255).byte()
        drawn = torch.randint(0, classes, (count,), generator=generator)
        wrong = torch.rand(count, generator=generator) < noise
        return Subset(pixels, torch.where(wrong, drawn, labels))

    names = tuple(f"class {number}" for number in range(classes))
    return Dataset(name, part(n, noise), part(max(n // 5, classes), 0.0), names, padding=size // 8, flip=True)


def _fetch(name: str, folder: Path, files: str, download: bool, get: Callable[[str], object]) -> None:
    """Download absent data beside their place and move them in whole."""
    absent = f"data set '{name}' is not in {folder}"
    remedy = f"put {files} there, or use --dataset digits, which needs no download"
    if not download:
        raise SalunError(f"{absent}: {remedy}")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as staging:
            with _impatient(DOWNLOAD_TIMEOUT):
                get(staging)
            _move_files(Path(staging), folder)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SalunError(f"{absent} and could not be downloaded ({reason}): {remedy}") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _move_files(source: Path, target: Path) -> None:
    """Move all files of a folder to the same places in another one."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)


@contextmanager
def _impatient(seconds: float) -> Iterator[None]:
    """Let connections that say nothing fail, which torchvision would wait for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


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


@contextmanager
def _readable(name: str, folder: Path, archive: Path, file: str) -> Iterator[IO[bytes]]:
    """Open a file of a data set, unpacked or inside its archive, to be decoded in the block."""
    if folder.is_dir():
        if not (folder / file).is_file():
            raise SalunError(f"data set '{name}': {folder / file} is missing; unpack {archive.name} again")
        check_length(folder / file, LARGEST_BATCH)
        with _unbroken(name, folder / file), (folder / file).open("rb") as opened:
            yield opened
        return
    with _unbroken(name, archive / folder.name / file), _unpacked(archive) as tar:
        member = _find_member(tar, f"{folder.name}/{file}")
        content = tar.extractfile(member)
        if content is None or member.size > LARGEST_BATCH:
            raise ValueError("not a file, or too large for one of that data set")
        with content:
            yield content


@contextmanager
def _unpacked(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive, compressed or not, whose content is read in place: nothing of it is ever written to the disk."""
    with archive.open("rb") as raw:
        packed = raw.read(len(_GZIPPED)) == _GZIPPED
        raw.seek(0)
        with _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw) as content, tarfile.open(fileobj=content) as tar:
            yield tar


class _Bounded(io.BufferedIOBase):
    """A file that ends with an error where it is longer than an archive may be, whoever reads it."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self.file = file

    def read(self, size: int | None = -1) -> bytes:
        """Read on."""
        left = LARGEST_ARCHIVE - self.file.tell()
        wanted = left + 1 if size is None or size < 0 else size
        if min(wanted, LARGEST_BATCH) > left:
            raise ValueError("the archive unpacks to more than such a one holds")
        return self.file.read(min(wanted, LARGEST_BATCH))

    def seek(self, place: int, whence: int = 0) -> int:
        """Go elsewhere."""
        if whence or place > LARGEST_ARCHIVE:
            raise ValueError("the archive unpacks to more than such a one holds")
        return self.file.seek(place)

    def tell(self) -> int:
        """Tell the place."""
        return self.file.tell()


def _find_member(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    """Find a plain file of an archive."""
    for member in tar:
        if member.name.removeprefix("./") == name:
            if not member.isreg() or member.issparse():
                raise ValueError("not a plain file")
            return member
    raise ValueError(f"the archive holds no {name}")


SOURCES: dict[str, _Source] = {
    "digits": _Source(_digits, 10),
    "cifar10": _Source(partial(_cifar, "cifar10"), 10),
    "cifar100": _Source(partial(_cifar, "cifar100"), 100),
    "svhn": _Source(_svhn, 10),
    "mnist": _Source(partial(_mnist, "mnist"), 10),
    "fashion_mnist": _Source(partial(_mnist, "fashion_mnist"), 10),
}
