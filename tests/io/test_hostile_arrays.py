import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Bomb, damaged, examples, memory_below, refused
from hypothesis import given
from hypothesis import strategies as st

from salun.data.memmap import PixelFile
from salun.experiments.margins import read_margins
from salun.experiments.outputs import kept_outputs, outputs_path
from salun.io.arrays import readable
from salun.latent.embedding import read_coordinates
from salun.latent.features import read_features, read_source

FILE = Path("a.npz")
PIXELS = Path("a.npy")
MIB = 2**20


def packed(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def outputs_arrays() -> dict[str, Any]:
    labels = np.arange(4, dtype=np.int64) % 3
    part = {"logits": np.eye(4, 3, dtype=np.float32), "labels": labels, "indices": np.arange(4, dtype=np.int64)}
    names = ("retain", "forget", "validation", "test", "forgotten_test")
    return {f"{name}/{key}": value for name in names for key, value in part.items()}


def features_arrays() -> dict[str, Any]:
    return {
        "features": np.eye(4, 5, dtype=np.float32),
        "labels": np.arange(4) % 3,
        "indices": np.arange(4),
        "logits": np.eye(4, 3, dtype=np.float32),
        "forgotten": np.zeros(4, dtype=bool),
        "prototypes": np.eye(3, 5, dtype=np.float32),
        "classes": ["a", "b", "c"],
        "source": '{"title": "a model"}',
    }


COORDINATES = {
    "flat": np.zeros((4, 2)),
    "solid": np.zeros((4, 3)),
    "flat_prototypes": np.zeros((0, 2)),
    "solid_prototypes": np.zeros((0, 3)),
    "key": "k",
}
MARGINS = {name: np.zeros(4, dtype=np.float32) for name in ("candidates", "witnesses", "test")}


@dataclass(frozen=True)
class Kind:
    """A kind of file: what a whole one holds, and how it is read; what cannot be read may be None instead."""

    arrays: dict[str, Any]
    read: Callable[[Path], Any]


def read_kept(path: Path) -> Any:
    """Outputs, from where a list of experiments keeps them."""
    place = outputs_path(Path(), "kept")
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, place)
    return kept_outputs(Path(), "kept")


KINDS = {
    "outputs": Kind(outputs_arrays(), read_kept),
    "features": Kind(features_arrays(), read_features),
    "source": Kind(features_arrays(), read_source),
    "coordinates": Kind(COORDINATES, lambda path: read_coordinates(path, "k")),
    "margins": Kind(MARGINS, read_margins),
}
kinds = pytest.mark.parametrize("name", KINDS)


def taken(kind: Kind, content: bytes) -> Any:
    """What is read; None where it is refused in one line, or passed over."""
    FILE.write_bytes(content)
    found: list[Any] = []
    refused(lambda: found.append(kind.read(FILE)))
    return found[0] if found else None


@kinds
def test_whole_files_are_taken(name: str) -> None:
    assert taken(KINDS[name], packed(KINDS[name].arrays)) is not None


@kinds
def test_damaged_files(name: str) -> None:
    kind = KINDS[name]

    @examples(30)
    @given(damaged(packed(kind.arrays)))
    def each(content: bytes) -> None:
        taken(kind, content)

    each()


ODD_ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.zeros((0, 2**40), dtype=np.float32),
        np.float32("nan"),
        np.full((4, 3), np.inf, dtype=np.float32),
        np.array(["x" * 5]),
        np.array([b"x"]),
        np.zeros(4, dtype=[("a", "f4")]),
        np.array("2000-01-01", dtype="M8[s]"),
        np.zeros((4, 3), dtype=complex),
        np.zeros((4, 3), dtype=">f4"),
        np.full(4, 2**63, dtype=np.uint64),
        np.full(4, -1),
        np.zeros((1,) * 32),
    ]
)


@kinds
def test_files_of_other_arrays(name: str) -> None:
    kind = KINDS[name]

    @examples(25)
    @given(st.dictionaries(st.sampled_from([*kind.arrays]), ODD_ARRAYS, min_size=1, max_size=2))
    def each(changed: dict[str, Any]) -> None:
        taken(kind, packed(kind.arrays | changed))

    each()


@kinds
def test_a_pickle_in_a_file_of_arrays_does_not_run(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for key in KINDS[name].arrays:
        content = packed(KINDS[name].arrays | {key: np.array([Bomb(mark)], dtype=object)})
        if taken(KINDS[name], content) is not None:
            assert name == "source"
            assert key != "source"
    assert not mark.exists()


def array_that_claims(shape: tuple[int, ...], kind: str = "<f4", held: int = 0) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue() + bytes(held)


@kinds
def test_arrays_that_claim_more_than_they_hold_or_unpack_to_no_end(name: str) -> None:
    bombs = [array_that_claims((75 * MIB,), held=300 * MIB)] if name == "outputs" else []
    for array in (
        *bombs,
        array_that_claims((2**40,)),
        array_that_claims((2**70,)),
        array_that_claims((-1,)),
        array_that_claims((2**40,), "<U0"),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{",
    ):
        out = io.BytesIO(packed(KINDS[name].arrays))
        with zipfile.ZipFile(out) as whole:
            kept = {member: whole.read(member) for member in whole.namelist()}
        key = next(iter(kept)) if name != "source" else "source.npy"
        with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as changed:
            for member, content in kept.items():
                changed.writestr(member, array if member == key else content)
        content = out.getvalue()
        with memory_below(20):
            assert taken(KINDS[name], content) is None


def pixels(shape: tuple[int, ...] = (3, 3, 8, 8)) -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))
    return out.getvalue()


def read_pixels() -> None:
    found = PixelFile(PIXELS)
    assert found[torch.arange(len(found))].shape == found.shape


@examples(40)
@given(damaged(pixels()))
def test_damaged_pixels(content: bytes) -> None:
    PIXELS.write_bytes(content)
    refused(read_pixels)


def test_pixels_that_claim_more_than_they_hold_or_are_a_pickle(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    out = io.BytesIO()
    np.save(out, np.array([Bomb(mark)] * 4, dtype=object), allow_pickle=True)
    claims = [array_that_claims((2**40, 3, 8, 8), "|u1"), array_that_claims((2, 3, 8, -8), "|u1", 384)]
    for content in (*claims, out.getvalue(), packed({"a": np.zeros(3)}), b""):
        PIXELS.write_bytes(content)
        assert refused(read_pixels)
    assert not mark.exists()


def test_what_raises_an_odd_error_is_told_in_one_line() -> None:
    for error in (MemoryError(), RecursionError("a\nb"), KeyError("x"), OverflowError("too\nlarge")):

        def broken(error: Exception = error) -> None:
            with readable(Path("a.npz"), "things"):
                raise error

        assert len(refused(broken)) == 1
