import functools
import gzip
import hashlib
import http.server
import pickle
import socket
import struct
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hostile import memory_below, refuses
from scipy.io import savemat
from torchvision import datasets

from salun.data.dataset import Dataset
from salun.data.download import fetch
from salun.data.sets import make_sets
from salun.data.sources import class_count, load, subclass_count
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.experiments.base_model import preparation_of
from salun.experiments.base_training import train_checkpoint
from salun.models.architecture import TINY
from salun.training.evaluate import accuracy, predict
from salun.training.recipe import Recipe

CPU = torch.device("cpu")
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUNDRED = [f"fine {number}" for number in range(100)]
CIFAR10_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
CIFAR100_FILES = ["train", "test"]


def python2(value: Any) -> bytes:
    """Pickle as Python 2's cPickle did at protocol 2: text is bytes, arrays name numpy.core."""
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(python2(item) for item in value) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value])
    if isinstance(value, np.ndarray):
        kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        rows, columns = (b"J" + struct.pack("<i", side) for side in value.shape)
        return start + b"(K\x01" + rows + columns + b"\x86" + kind + b"\x89" + python2(value.tobytes()) + b"tb"
    text = value.encode() if isinstance(value, str) else value
    return (b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))) + text


def dump_python2(entry: dict[str, Any]) -> bytes:
    return b"\x80\x02" + python2(entry) + b"."


def dump(entry: dict[str, Any], protocol: int, kind: str) -> bytes:
    def encoded(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        return [encoded(item) for item in value] if isinstance(value, list) else value

    if kind == "bytes":
        entry = {encoded(key): encoded(value) for key, value in entry.items()}
    return pickle.dumps(entry, protocol)


WRITERS = {"python2": dump_python2} | {
    f"protocol {protocol}, {kind} keys": functools.partial(dump, protocol=protocol, kind=kind)
    for protocol, kind in ((2, "str"), (2, "bytes"), (4, "bytes"), (5, "str"))
}


class Written:
    """A tiny CIFAR on disk, and what a reader must find in it."""

    def __init__(self, name: str, root: Path, write: Callable[[dict[str, Any]], bytes], images: int = 5) -> None:
        self.name = name
        ten = name == "cifar10"
        self.folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
        self.archive = root / ("cifar-10-python.tar.gz" if ten else "cifar-100-python.tar.gz")
        self.files = CIFAR10_FILES if ten else CIFAR100_FILES
        self.meta = "batches.meta" if ten else "meta"
        self.labels: dict[str, list[int]] = {}
        self.pixels: dict[str, np.ndarray] = {}
        self.folder.mkdir(parents=True)
        random = np.random.default_rng(len(name))
        for file in self.files:
            self.pixels[file] = random.integers(0, 256, (images, 3072), dtype=np.uint8)
            self.labels[file] = random.integers(0, 10 if ten else 100, images).tolist()
            entry = {"batch_label": "a batch", "filenames": ["x.png"] * images, "data": self.pixels[file]}
            if ten:
                entry["labels"] = self.labels[file]
            else:
                entry |= {"coarse_labels": [3] * images, "fine_labels": self.labels[file]}
            (self.folder / file).write_bytes(write(entry))
        names = {"label_names": TEN, "num_vis": 30} if ten else {"fine_label_names": HUNDRED, "coarse_label_names": TEN}
        (self.folder / self.meta).write_bytes(write(names))

    def pack(self) -> None:
        """Leave only the archive, as it is downloaded."""
        with tarfile.open(self.archive, "w:gz") as tar:
            tar.add(self.folder, self.folder.name)
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()

    def expected(self, part: str) -> tuple[np.ndarray, list[int]]:
        files = [file for file in self.files if file.startswith("test") == (part == "test")]
        images = []
        for row in np.concatenate([self.pixels[file] for file in files]):
            red, green, blue = row[:1024], row[1024:2048], row[2048:]
            images.append(np.stack([plane.reshape(32, 32) for plane in (red, green, blue)]))
        return np.stack(images), [label for file in files for label in self.labels[file]]


def assert_holds(dataset: Dataset, written: Written) -> None:
    for part, found in (("train", dataset.train), ("test", dataset.test)):
        pixels, labels = written.expected(part)
        assert found.pixels.dtype == torch.uint8
        assert found.labels.dtype == torch.int64
        assert np.array_equal(found.pixels.numpy(), pixels)
        assert found.labels.tolist() == labels


def write_svhn(root: Path, images: int = 6, compressed: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    written = {}
    for part in ("train", "test"):
        pixels = random.integers(0, 256, (32, 32, 3, images), dtype=np.uint8)
        labels = np.array([[10], [1], [9], [5], [10], [2]], np.uint8)[:images]
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels}, do_compression=compressed)
        written[part] = (pixels, labels)
    return written


def write_idx(root: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    raw = root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    written = {}
    for start, count in (("train", 12), ("t10k", 7)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        (raw / f"{start}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{start}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
        written["train" if start == "train" else "test"] = (pixels, labels)
    return written


def one_line(name: str, root: Path, **options: Any) -> str:
    return refuses("", lambda: load(name, root, **options))


class TestCifar:
    @pytest.mark.parametrize(
        ("name", "writer", "packed"),
        [
            *(("cifar10", writer, False) for writer in WRITERS),
            *(
                (name, "python2", packed)
                for name, packed in (("cifar10", True), ("cifar100", False), ("cifar100", True))
            ),
            ("cifar100", "protocol 5, str keys", True),
        ],
    )
    def test_labels_pixels_and_names(self, tmp_path: Path, name: str, writer: str, packed: bool) -> None:
        written = Written(name, tmp_path / "data", WRITERS[writer])
        if packed:
            written.pack()
        dataset = load(name, tmp_path / "data", download=False)
        assert_holds(dataset, written)
        assert dataset.classes == tuple(TEN if name == "cifar10" else HUNDRED)
        assert (dataset.channels, dataset.size, dataset.padding, dataset.flip) == (3, 32, 4, True)
        assert class_count(name) == len(dataset.classes)

    def test_coarse_labels(self, tmp_path: Path) -> None:
        written = Written("cifar100", tmp_path, WRITERS["python2"])
        dataset = load("cifar20", tmp_path, download=False)
        assert (set(dataset.test.labels.tolist()), dataset.classes, class_count("cifar20")) == ({3}, tuple(TEN), 20)
        assert (dataset.subclasses, subclass_count("cifar20")) == (tuple(HUNDRED), 100)
        fine = [part.fine.tolist() for part in (dataset.train, dataset.test) if part.fine is not None]
        assert fine == [written.labels["train"], written.labels["test"]]

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_other_arrays(self, tmp_path: Path, protocol: int) -> None:
        written = Written("cifar10", tmp_path, WRITERS["python2"])
        changed = {
            "data_batch_1": {"data": np.asfortranarray(written.pixels["data_batch_1"])},
            "data_batch_2": {"labels": np.array(written.labels["data_batch_2"], np.int64)},
            "data_batch_3": {"labels": [np.int64(label) for label in written.labels["data_batch_3"]]},
            "data_batch_4": {"labels": np.array(written.labels["data_batch_4"], ">i4")},
            "test_batch": {"labels": tuple(written.labels["test_batch"])},
        }
        for file, entry in changed.items():
            whole = {"data": written.pixels[file], "labels": written.labels[file]} | entry
            (written.folder / file).write_bytes(pickle.dumps(whole, protocol))
        assert_holds(load("cifar10", tmp_path), written)

    @pytest.mark.parametrize(("name", "packed"), [("cifar10", False), ("cifar100", True)])
    def test_missing_file(self, tmp_path: Path, name: str, packed: bool) -> None:
        written = Written(name, tmp_path, WRITERS["python2"])
        gone = written.files[-2]
        (written.folder / gone).unlink()
        if packed:
            written.pack()
        message = one_line(name, tmp_path)
        assert gone in message
        assert written.archive.name in message

    @pytest.mark.parametrize(
        "entry",
        [
            ["not", "a", "dictionary"], None, {}, {"data": np.zeros((2, 3072), np.uint8)}, {"labels": [1, 2]},
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
            {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]},
            {"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]},
            {"data": np.zeros((2, 3072), np.int64), "labels": [1, 2]},
            {"data": np.array([None] * 3072, object), "labels": [1]}, {"data": "text", "labels": [1]},
            {"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]},
            {"data": np.zeros((1, 3072), np.uint8), "labels": 3},
        ],
    )  # fmt: skip
    def test_wrong_content(self, tmp_path: Path, entry: Any) -> None:
        written = Written("cifar10", tmp_path, WRITERS["python2"])
        (written.folder / "data_batch_2").write_bytes(pickle.dumps(entry))
        assert "data_batch_2" in one_line("cifar10", tmp_path)

    def test_leaves_the_global_generators_alone(self, tmp_path: Path) -> None:
        Written("cifar10", tmp_path, WRITERS["python2"])
        torch.manual_seed(3)
        np.random.seed(3)
        undisturbed = torch.rand(1).item(), np.random.rand()
        torch.manual_seed(3)
        np.random.seed(3)
        for name in ("cifar10", "digits", "synthetic:n=40,size=4,classes=2"):
            load(name, tmp_path)
        assert (torch.rand(1).item(), np.random.rand()) == undisturbed


class TestSvhn:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("inside", [".", "svhn"])
    def test_labels_and_pixels(self, tmp_path: Path, inside: str, compressed: bool) -> None:
        written = write_svhn(tmp_path / inside, compressed=compressed)
        dataset = load("svhn", tmp_path, download=False)
        for part, found in (("train", dataset.train), ("test", dataset.test)):
            pixels, _ = written[part]
            assert found.pixels.shape == (6, 3, 32, 32)
            for image in range(6):
                for colour in range(3):
                    assert np.array_equal(found.pixels[image, colour].numpy(), pixels[:, :, colour, image])
            assert found.labels.tolist() == [0, 1, 9, 5, 0, 2]
        assert dataset.classes == tuple("0123456789")
        assert (dataset.padding, dataset.flip) == (0, False)

    def test_missing_part_is_the_one_that_is_named(self, tmp_path: Path) -> None:
        write_svhn(tmp_path)
        (tmp_path / "test_32x32.mat").unlink()
        message = one_line("svhn", tmp_path, download=False)
        assert "test_32x32.mat" in message
        assert "train_32x32.mat" not in message


class TestMnist:
    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_labels_and_pixels(self, tmp_path: Path, name: str) -> None:
        written = write_idx(tmp_path, "MNIST" if name == "mnist" else "FashionMNIST")
        dataset = load(name, tmp_path, download=False)
        for part, found in (("train", dataset.train), ("test", dataset.test)):
            pixels, labels = written[part]
            assert found.pixels.dtype == torch.uint8
            assert np.array_equal(found.pixels[:, 0].numpy(), pixels)
            assert found.labels.tolist() == labels.tolist()
        assert (dataset.channels, dataset.size, len(dataset.classes)) == (1, 28, 10)
        assert dataset.classes[9] == ("9" if name == "mnist" else "Ankle boot")

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_compressed_files_are_read_as_they_come(self, tmp_path: Path, name: str, debian: Path) -> None:
        written = write_idx(tmp_path, "MNIST" if name == "mnist" else "FashionMNIST")
        (raw,) = tmp_path.glob("*/raw")
        for file in [*raw.iterdir()][: 4 if name == "fashion_mnist" else 3]:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        if name == "fashion_mnist":
            debian.parent.mkdir(parents=True)
            raw.rename(debian)
        found = load(name, tmp_path, download=False)
        assert np.array_equal(found.train.pixels[:, 0].numpy(), written["train"][0])
        assert found.test.labels.tolist() == written["test"][1].tolist()

    @pytest.mark.parametrize(("count", "held"), [(12, 100 * 2**20), (2**30, 2**10), (12, 9407)])
    def test_compressed_files_that_claim_something_else(self, tmp_path: Path, count: int, held: int) -> None:
        write_idx(tmp_path, "MNIST")
        file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
        file.unlink()
        packed = gzip.compress(struct.pack(">IIII", 2051, count, 28, 28) + bytes(held))
        file.with_name(f"{file.name}.gz").write_bytes(packed)
        with memory_below(10):
            assert f"{file.name}.gz cannot be read" in one_line("mnist", tmp_path, download=False)


WRITE: dict[str, Callable[[Path], Any]] = {
    "cifar10": lambda root: Written("cifar10", root, WRITERS["python2"]),
    "cifar100": lambda root: Written("cifar100", root, WRITERS["protocol 4, bytes keys"]).pack(),
    "svhn": write_svhn,
    "mnist": functools.partial(write_idx, name="MNIST"),
}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", ["cifar-10-batches-py/data_batch_3", "cifar-10-batches-py/batches.meta"]),
        ("cifar100", ["cifar-100-python.tar.gz"]),
        ("svhn", ["train_32x32.mat", "test_32x32.mat"]),
        ("mnist", ["MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"]),
    ],
)
def test_truncated_file(tmp_path: Path, name: str, files: list[str], share: float) -> None:
    for file in files:
        WRITE[name](tmp_path / file)
        bad = tmp_path / file / file
        whole = bad.read_bytes()
        bad.write_bytes(whole[: int(share * len(whole))])
        assert str(bad) in one_line(name, tmp_path / file)


ABSENT = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "svhn": "train_32x32.mat",
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "fashion_mnist": "FashionMNIST/raw/t10k-labels-idx1-ubyte",
    "cifar20": "cifar-100-python.tar.gz",
    "tiny_imagenet": "tiny-imagenet-200",
    "imagenette": "imagenette2-160",
}


@pytest.fixture(autouse=True)
def debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where Debian's package would put Fashion-MNIST, whether this machine has it or not."""
    shared = tmp_path.with_name(f"{tmp_path.name}-share")
    monkeypatch.setenv("XDG_DATA_DIRS", str(shared))
    return shared / "datasets" / "fashion-mnist"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A web server on this machine: the paths that it knows, and how it answers each."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    answers: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            if callable(answer):
                answer(self)
                return
            self.send_response(200 if answer is not None else 404)
            self.send_header("Content-Length", str(len(answer or b"")))
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    answers["address"] = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(datasets.CIFAR10, "url", answers["address"] + "/cifar")
    yield answers
    server.shutdown()
    server.server_close()


def cut_short(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b"x" * 40000)


def not_http(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Answer with something that is no answer, as a broken gateway does."""
    handler.wfile.write(b"welcome to the hotel\r\n\r\n")


def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Accept the request and never answer."""
    time.sleep(3)


class TestAbsent:
    @pytest.mark.parametrize("name", ABSENT)
    def test_says_where_what_and_the_way_out(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        tried = []

        def refuse(*_: Any, **__: Any) -> None:
            tried.append(name)
            raise URLError("no network")

        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        (tmp_path / "some").mkdir()
        (tmp_path / "some" / "mine.txt").write_text("mine")
        for data in (tmp_path / "some", tmp_path / "some" / "where"):
            for download in (False, True):
                message = one_line(name, data, download=download)
                assert all(part in message for part in (str(data), ABSENT[name], "--dataset digits"))
                assert ("no network" in message or "Error downloading" in message) == download == bool(tried)
                tried.clear()
        assert [path.name for path in tmp_path.rglob("*")] == ["some", "mine.txt"]
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("answer", [cut_short, not_http, b"<html>please log in</html>", None])
    def test_failed_download_leaves_nothing(self, tmp_path: Path, answer: Any, served: dict[str, Any]) -> None:
        served["/cifar"] = answer
        message = one_line("cifar10", tmp_path / "data")
        assert "could not be downloaded" in message
        assert "--dataset digits" in message
        assert not list(tmp_path.iterdir())
        assert socket.getdefaulttimeout() is None

    def test_silent_server_is_given_up(self, tmp_path: Path, served: dict[str, Any]) -> None:
        served["/cifar"] = silent
        begun = time.perf_counter()
        get = functools.partial(datasets.CIFAR10, download=True)
        refuses("timed out", lambda: fetch("cifar10", tmp_path / "data", "the archive", True, get, timeout=0.2))
        assert time.perf_counter() - begun < 2.5
        assert not list(tmp_path.iterdir())

    def test_interrupted_download_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(urllib.request, "urlopen", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load("cifar10", tmp_path / "data")
        assert not list(tmp_path.iterdir())


class TestDownload:
    def test_cifar_is_fetched_once(
        self, tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = Written("cifar10", tmp_path / "origin", WRITERS["python2"])

        def listed(files: list[str]) -> list[list[str]]:
            return [[file, hashlib.md5((written.folder / file).read_bytes()).hexdigest()] for file in files]

        monkeypatch.setattr(datasets.CIFAR10, "train_list", listed(CIFAR10_FILES[:5]))
        monkeypatch.setattr(datasets.CIFAR10, "test_list", listed(CIFAR10_FILES[5:]))
        meta = {"filename": written.meta, "key": "label_names", "md5": listed([written.meta])[0][1]}
        monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
        written.pack()
        served["/cifar"] = written.archive.read_bytes()
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(served["/cifar"]).hexdigest())
        data = tmp_path / "new" / "data"
        assert_holds(load("cifar10", data), written)
        assert sorted(path.name for path in data.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
        served.pop("/cifar")
        assert_holds(load("cifar10", data), written)

    def test_svhn_lacking_one_part_fetches_that_one(
        self, tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = write_svhn(tmp_path)
        content = (tmp_path / "test_32x32.mat").read_bytes()
        (tmp_path / "test_32x32.mat").unlink()
        served["/test"] = content
        lists = {
            "train": [served["address"] + "/train", "train_32x32.mat", hashlib.md5(b"another").hexdigest()],
            "test": [served["address"] + "/test", "test_32x32.mat", hashlib.md5(content).hexdigest()],
        }
        monkeypatch.setattr(datasets.SVHN, "split_list", lists)
        dataset = load("svhn", tmp_path)
        for part, found in (("train", dataset.train), ("test", dataset.test)):
            assert np.array_equal(found.pixels.numpy(), written[part][0].transpose(3, 2, 0, 1))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]

    def test_missing_file_is_added_to_the_others(
        self, tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = write_idx(tmp_path, "MNIST")
        raw = tmp_path / "MNIST" / "raw"
        resources = []
        for file, _ in datasets.MNIST.resources:
            packed = gzip.compress((raw / Path(file).stem).read_bytes())
            served[f"/{file}"] = packed
            resources.append((file, hashlib.md5(packed).hexdigest()))
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        monkeypatch.setattr(datasets.MNIST, "mirrors", [served["address"] + "/"])
        (raw / "t10k-labels-idx1-ubyte").unlink()
        dataset = load("mnist", tmp_path)
        assert dataset.test.labels.tolist() == written["test"][1].tolist()
        assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]
        assert [path.name for path in (tmp_path / "MNIST").iterdir()] == ["raw"]


class TestDigits:
    @pytest.mark.parametrize("found", [True, False])
    def test_all_images_once(self, monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
        from sklearn.datasets import load_digits

        if not found:
            monkeypatch.setattr("salun.data.builtin.find_spec", lambda name: None)
        torch.manual_seed(7)
        np.random.seed(7)
        digits, bundled = load("digits"), load_digits()
        assert (digits.train.pixels.shape, digits.train.pixels.dtype) == ((1438, 1, 8, 8), torch.uint8)
        assert digits.classes == tuple("0123456789")
        assert len(digits.train.labels) + len(digits.test.labels) == 1797
        known = sorted(
            (label, *np.round(image * 255 / 16).astype(int).flatten())
            for image, label in zip(bundled.images, bundled.target, strict=True)
        )
        found = sorted(
            (label, *image.flatten().tolist())
            for part in (digits.train, digits.test)
            for image, label in zip(part.pixels, part.labels.tolist(), strict=True)
        )
        assert found == known


class TestSynthetic:
    @pytest.mark.parametrize(
        ("name", "images", "size", "classes"),
        [
            ("synthetic:n=100,size=8,classes=4", 100, 8, 4),
            ("synthetic:size=16,n=120", 120, 16, 10),
            ("synthetic:n=20,size=4,classes=2,noise=0,seed=9", 20, 4, 2),
            ("synthetic", 10_000, 32, 10),
        ],
    )
    def test_options(self, name: str, images: int, size: int, classes: int) -> None:
        dataset = load(name)
        assert dataset.train.pixels.shape == (images, 3, size, size)
        assert len(dataset.classes) == classes == class_count(name)
        assert (dataset.name, dataset.padding, dataset.flip) == (name, size // 8, True)
        assert set(dataset.test.labels.tolist()) == set(range(classes))

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ("n=many", "n=many"), ("n=10", "n=10"), ("n=1e4", "n=1e4"), ("n", "n="), ("n=25,classes=3", "n=25"),
            ("size=3", "size=3"), ("size=8.0", "size=8.0"), ("n=10000000,size=512", "n=10000000"),
            ("classes=1", "classes=1"), ("noise=1", "noise=1"), ("noise=nan", "noise=nan"), ("seed=-1", "seed=-1"),
            ("clases=3", "classes"), ("=3", "accepted"),
        ],
    )  # fmt: skip
    def test_wrong_options(self, tmp_path: Path, options: str, named: str) -> None:
        message = one_line(f"synthetic:{options}", tmp_path)
        assert named in message
        assert "synthetic" in message
        with pytest.raises(SalunError):
            class_count(f"synthetic:{options}")

    def test_is_a_function_of_its_seed(self) -> None:
        def drawn(seed: int, disturbance: int) -> Dataset:
            torch.manual_seed(disturbance)
            return load(f"synthetic:n=60,size=8,classes=3,seed={seed}")

        one, same, other = drawn(1, 5), drawn(1, 6), drawn(2, 5)
        for part in ("train", "test"):
            assert torch.equal(getattr(one, part).pixels, getattr(same, part).pixels)
            assert torch.equal(getattr(one, part).labels, getattr(same, part).labels)
            assert not torch.equal(getattr(one, part).pixels, getattr(other, part).pixels)

    def test_wrong_labels_are_in_the_training_part_only(self) -> None:
        clean = load("synthetic:n=4000,size=4,classes=5,noise=0")
        noisy = load("synthetic:n=4000,size=4,classes=5,noise=0.5")
        assert torch.equal(clean.train.pixels, noisy.train.pixels)
        assert torch.equal(clean.test.pixels, noisy.test.pixels)
        assert torch.equal(clean.test.labels, noisy.test.labels)
        changed = (clean.train.labels != noisy.train.labels).double().mean().item()
        assert abs(changed - 0.5 * 4 / 5) < 0.03
        wrong = noisy.train.labels[clean.train.labels != noisy.train.labels]
        assert set(wrong.tolist()) == set(range(5))

    def test_is_learnable_in_a_few_epochs(self) -> None:
        dataset = load("synthetic:n=600,size=8,classes=3,noise=0.2")
        assert len(dataset.train.pixels.flatten(1).unique(dim=0)) == 600
        recipe = Recipe(epochs=4, lr=0.1, batch_size=32, schedule="cosine")
        split = make_split(dataset, ForgetRequest())
        checkpoint, _ = train_checkpoint(TINY, dataset, split, recipe, CPU)
        sets = make_sets(dataset, split, preparation_of(checkpoint, dataset, split), CPU)
        model = checkpoint.restore()
        assert accuracy(predict(model, sets.test)) > 0.8
        assert accuracy(predict(model, sets.train)) < 0.95


class TestNames:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("cifar", "cifar10"), ("CIFAR10", "cifar10"), ("cifar-100", "cifar100"),
            ("fashion-mnist", "fashion_mnist"), ("digit", "digits"), ("", "digits"), ("imagenet", "imagenette"),
            ("places", "accepted"),
        ],
    )  # fmt: skip
    def test_unknown_name(self, tmp_path: Path, name: str, hint: str) -> None:
        assert hint in one_line(name, tmp_path)
        refuses("unknown", lambda: class_count(name))
        assert class_count("folder:somewhere") is None

    def test_stratified_subset(self) -> None:
        whole, part = load("digits"), load("digits:n=500")
        assert (part.name, len(part.train.labels), part.classes) == ("digits:n=500", 500, whole.classes)
        share = 500 / len(whole.train.labels)
        wanted = share * torch.bincount(whole.train.labels)
        assert (torch.bincount(part.train.labels) - wanted).abs().max() <= 1
        found = {image.numpy().tobytes() for image in part.train.pixels}
        assert found < {image.numpy().tobytes() for image in whole.train.pixels}
        assert torch.equal(part.test.pixels, whole.test.pixels)
        assert torch.equal(load("digits:n=500").train.pixels, part.train.pixels)
        assert any("500 of 1438" in line for line in part.notices)
        assert (class_count("digits:n=500"), subclass_count("digits_grouped:n=500")) == (10, 10)
        assert len(load("digits_grouped:n=300").train.fine) == 300

    @pytest.mark.parametrize("option", ["n=99", "n=1438", "n=", "n=-5", "m=500", "", "n=5e2", "n=200:x"])
    def test_wrong_subset(self, tmp_path: Path, option: str) -> None:
        assert f"digits:{option}" in one_line(f"digits:{option}", tmp_path)

    @pytest.mark.parametrize("name", ["folder:", "folder:x:size=3", "folder:x:size=2000", "folder:x:size=²", "folder"])
    def test_wrong_folder_name(self, tmp_path: Path, name: str) -> None:
        assert name in one_line(name, tmp_path)
        with pytest.raises(SalunError):
            class_count(name)
