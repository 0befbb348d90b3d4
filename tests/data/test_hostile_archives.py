import functools
import gzip
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Bomb, damaged, examples, memory_below, refused
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from salun.data.sources import load

DATA = Path("data")
FOLDER = "cifar-10-batches-py"
ARCHIVE = DATA / "cifar-10-python.tar.gz"
MIB = 2**20


def batch(**changed: Any) -> bytes:
    return pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]} | changed, 2)


FILES = {f"data_batch_{number}": batch() for number in range(1, 6)} | {
    "test_batch": batch(),
    "batches.meta": pickle.dumps({"label_names": [str(label) for label in range(10)]}, 2),
}


def archive_of(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in others:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def cifar(content: bytes) -> list[str]:
    DATA.mkdir(exist_ok=True)
    ARCHIVE.write_bytes(content)
    lines = refused(lambda: load("cifar10", DATA, download=False))
    assert sorted(DATA.rglob("*")) == [ARCHIVE]
    return lines


def unpacked(files: dict[str, bytes]) -> list[str]:
    (DATA / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (DATA / FOLDER / name).write_bytes(content)
    return refused(lambda: load("cifar10", DATA, download=False))


def test_whole_files_are_taken() -> None:
    assert not cifar(archive_of(FILES))
    assert not cifar(gzip.compress(archive_of(FILES)))
    assert not unpacked(FILES)


@examples(25)
@given(damaged(gzip.compress(archive_of(FILES))))
def test_a_damaged_archive(content: bytes) -> None:
    cifar(content)


@examples(25)
@given(damaged(archive_of(FILES)))
def test_a_damaged_tar(content: bytes) -> None:
    cifar(content)


@examples(60)
@given(damaged(FILES["test_batch"]))
def test_a_damaged_batch(content: bytes) -> None:
    unpacked(FILES | {"test_batch": content})


ODD = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([np.zeros((2, 3072), np.uint8), np.zeros(2, np.int64), np.zeros(2, np.float32), 2**80]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)


@examples(40)
@given(st.fixed_dictionaries({}, optional={"data": ODD, "labels": ODD, "label_names": ODD}), st.sampled_from([*FILES]))
def test_batches_of_other_content(changed: dict[str, Any], file: str) -> None:
    unpacked(FILES | {file: batch(**changed)})


class Harm:
    """Calls something where it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.made = call, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_does_not_run(tmp_path: Path, protocol: int, packed: bool) -> None:
    mark = tmp_path / "mark"
    harms = [
        Harm(Path.touch, mark),
        Harm(os.system, f"touch {mark}"),
        Harm(eval, f"open({str(mark)!r}, 'w')"),
        Harm(np.save, str(mark), [1]),
        Harm(functools.partial, os.system, f"touch {mark}"),
    ]
    for file, harm in [*((file, harms[0]) for file in FILES), *(("test_batch", harm) for harm in harms)]:
        content = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "label_names": [], "more": harm}
        files = FILES | {file: pickle.dumps(content, protocol)}
        (line,) = cifar(gzip.compress(archive_of(files))) if packed else unpacked(files)
        assert file in line
        assert "refuses to load" in line
    assert not list(tmp_path.glob("mark*"))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, size
    return found


LEADING_OUT = [
    member("../outside"), member("/tmp/outside"), member(f"{FOLDER}/../../outside"),
    member("link", tarfile.SYMTYPE, "/"), member("hard", tarfile.LNKTYPE, "../outside"),
    member("pipe", tarfile.FIFOTYPE), member("device", tarfile.CHRTYPE),
]  # fmt: skip


def test_members_that_lead_out_of_the_folder_are_never_unpacked() -> None:
    before = sorted(Path().rglob("*"))
    assert not cifar(archive_of(FILES, *LEADING_OUT))
    assert sorted(Path().rglob("*")) == sorted([*before, DATA, ARCHIVE])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_in_place_of_a_batch(kind: bytes) -> None:
    others = {name: content for name, content in FILES.items() if name != "test_batch"}
    for target in ("/etc/passwd", f"{FOLDER}/test_batch", f"{FOLDER}/data_batch_1"):
        assert cifar(archive_of(others, member(f"{FOLDER}/test_batch", kind, target)))


def test_archives_that_unpack_to_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salun.data.cifar.LARGEST_ARCHIVE", 20 * MIB)
    monkeypatch.setattr("salun.data.cifar.LARGEST_BATCH", 5 * MIB)
    long_name = tarfile.TarInfo("x")
    long_name.type, long_name.size = tarfile.XHDTYPE, 30 * MIB
    for content in (
        archive_of(FILES, member("large", size=30 * MIB)),
        archive_of(FILES, long_name),
        archive_of(FILES | {"test_batch": bytes(6 * MIB)}),
        archive_of(FILES | {"batches.meta": bytes(6 * MIB)}),
    ):
        packed = gzip.compress(content)
        with memory_below(25):
            assert cifar(packed)
    with (DATA / "hole").open("wb") as file:
        file.truncate(2**40)
    ARCHIVE.unlink()
    (DATA / FOLDER).mkdir()
    for name in FILES:
        (DATA / FOLDER / name).symlink_to((DATA / "hole").resolve())
    assert "MiB" in refused(lambda: load("cifar10", DATA, download=False))[0]


def test_a_batch_that_asks_for_the_same_bytes_again_and_again() -> None:
    text = pickle.BINUNICODE + struct.pack("<I", MIB) + b"a" * MIB + b"q\x00"
    again = b"".join(b"c_codecs\nencode\nh\x00U\x06latin1\x86R0" for _ in range(2000))
    content = b"\x80\x02" + text + b"0" + again + b"}."
    assert "more memory" in unpacked(FILES | {"test_batch": content})[0]


def matrices(compressed: bool = True) -> bytes:
    out = io.BytesIO()
    savemat(out, {"X": np.zeros((32, 32, 3, 3), np.uint8), "y": np.ones((3, 1))}, do_compression=compressed)
    return out.getvalue()


def svhn(content: bytes) -> list[str]:
    DATA.mkdir(exist_ok=True)
    for part in ("train", "test"):
        (DATA / f"{part}_32x32.mat").write_bytes(content if part == "test" else matrices())
    return refused(lambda: load("svhn", DATA, download=False))


@examples(40)
@given(damaged(matrices()))
def test_damaged_matrices(content: bytes) -> None:
    svhn(content)


@examples(60)
@given(damaged(matrices(compressed=False)))
def test_damaged_plain_matrices(content: bytes) -> None:
    svhn(content)


def test_matrices_that_are_none() -> None:
    assert not svhn(matrices())
    pixels, labels = np.zeros((32, 32, 3, 4), np.uint8), np.ones((4, 1), np.uint8)
    contents: list[dict[str, Any]] = [{"X": pixels}, {"y": labels}, {"X": pixels, "y": labels[:3]}]
    contents += [{"X": pixels.astype(float), "y": labels}, {"X": pixels[:, :, 0, 0], "y": np.ones((32, 1), np.uint8)}]
    contents += [{"X": odd, "y": [[1]]} for odd in ({"a": 1}, "text", [[1 + 2j]], np.array([["x"]], object))]
    for content in contents:
        savemat(out := io.BytesIO(), content)
        (line,) = svhn(out.getvalue())
        assert "test_32x32.mat" in line


def idx(*sides: int, held: int | None = None) -> bytes:
    count = int(np.prod(sides)) if held is None else held
    return struct.pack(f">I{len(sides)}I", 2048 + len(sides), *sides) + bytes(count)


def mnist(images: bytes, labels: bytes) -> list[str]:
    raw = DATA / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return refused(lambda: load("mnist", DATA, download=False))


@examples(40)
@given(st.one_of(st.tuples(damaged(idx(3, 8, 8)), st.just(idx(3))), st.tuples(st.just(idx(3, 8, 8)), damaged(idx(3)))))
def test_damaged_index_files(pair: tuple[bytes, bytes]) -> None:
    mnist(*pair)


def test_index_files_that_claim_more_than_they_hold() -> None:
    assert not mnist(idx(3, 8, 8), idx(3))
    for images in (idx(2**32 - 1, 8, 8, held=64), idx(2**16, 2**16, 2**31, held=64), idx(4, 8, 8, held=192), b""):
        assert mnist(images, idx(3))
    for labels in (idx(2**32 - 1, held=3), idx(2, held=3), b"\0\0\x08\x01"):
        assert mnist(idx(3, 8, 8), labels)


@pytest.mark.parametrize("read", [svhn, lambda content: mnist(content, idx(3))])
def test_a_pickle_in_place_of_numbers_does_not_run(tmp_path: Path, read: Callable[[bytes], list[str]]) -> None:
    mark = tmp_path / "mark"
    assert read(pickle.dumps(Bomb(mark)))
    assert not mark.exists()
