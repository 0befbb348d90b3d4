import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile import damaged, examples, memory_below, refused
from hypothesis import given
from PIL import Image

from salun.data.dataset import Dataset
from salun.data.sources import load

ROOT = Path("x")
BAD = ROOT / "b" / "03.png"


def packed(kind: str, frames: int = 1) -> bytes:
    random = np.random.default_rng(0)
    first, *others = [Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(frames)]
    out = io.BytesIO()
    more = {"save_all": True, "append_images": others} if others else {}
    first.save(out, format=kind, **more)
    return out.getvalue()


WHOLE = {kind: packed(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")}
WHOLE |= {f"{kind} of three": packed(kind, 3) for kind in ("GIF", "WEBP", "PNG", "TIFF")}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    """Two classes of six images."""
    for number in range(6):
        for name in "ab":
            path = ROOT / name / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(WHOLE["PNG"])


def images(skip_corrupt: bool = False) -> Dataset:
    return load("folder:x", Path("data"), skip_corrupt=skip_corrupt)


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_images(kind: str) -> None:
    @examples(20)
    @given(damaged(WHOLE[kind]))
    def each(content: bytes) -> None:
        BAD.write_bytes(content)
        lines = refused(images)
        assert all(str(BAD) in line for line in lines)
        found = images(skip_corrupt=True)
        assert len(found.skipped) == len(lines)
        assert len(found.train.labels) + len(found.test.labels) == 12 - len(lines)
        assert not Path("data").exists()

    each()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def gif_of(width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00" + bytes(6)
    return head + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\x00\x02\x02\x4c\x01\x00;"


side = int(89_478_485**0.5) + 1  # one more than the pixels that are decoded
ZEROS = zlib.compress(bytes(50_000_000), 9)
BOMBS = {
    "too many pixels": png_of(side, side, chunk(b"IDAT", zlib.compress(b""))),
    "far too many pixels": png_of(2**31 - 1, 2**31 - 1, chunk(b"IDAT", zlib.compress(b""))),
    "a huge GIF": gif_of(60_000, 60_000),
    "a text that unpacks to no end": png_of(8, 8, chunk(b"zTXt", b"a\0\0" + ZEROS), chunk(b"IDAT", zlib.compress(b""))),
    "a profile that unpacks to no end": png_of(8, 8, chunk(b"iCCP", b"a\0\0" + ZEROS)),
    "a program for a printer": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(mark) (w) file\n",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_decompression_bombs_and_programs(kind: str) -> None:
    BAD.write_bytes(BOMBS[kind])
    with memory_below(60):
        lines = refused(images)
    assert len(lines) == 1
    assert str(BAD) in lines[0]
    assert len(images(skip_corrupt=True).skipped) == 1
    assert sorted(os.listdir()) == ["x"]


def test_many_corrupt_images_are_named_up_to_a_number_and_counted() -> None:
    for number in range(20):
        (ROOT / "a" / f"bad{number:02}.png").write_bytes(b"")
    found = images(skip_corrupt=True)
    assert len(found.skipped) == 20
    _, *named, rest = found.notices
    assert len(named) == 10
    assert all(f"bad{number:02}.png" in line for number, line in enumerate(named))
    assert "10 more" in rest
    assert len(found.train.labels) + len(found.test.labels) == 12


def test_what_is_skipped_makes_another_data_set_and_nothing_skipped_the_same() -> None:
    whole = images()
    assert images(skip_corrupt=True).train.pixels.equal(whole.train.pixels)
    assert whole.skipped == ()
    assert whole.notices == ["folder:x: test part: a stratified fifth of 12 images, drawn by seed 0"]
    BAD.write_bytes(b"")
    assert len(images(skip_corrupt=True).train.labels) != len(whole.train.labels)


def test_a_class_of_corrupt_images_alone_is_refused() -> None:
    for path in (ROOT / "b").iterdir():
        path.write_bytes(b"")
    (line,) = refused(lambda: images(skip_corrupt=True))
    assert str(ROOT / "b") in line


def test_corrupt_images_of_the_test_part_are_skipped_too(tmp_path: Path) -> None:
    os.rename("x", "train")
    Path("x").mkdir()
    os.rename("train", "x/train")
    for name in "ab":
        (ROOT / "test" / name).mkdir(parents=True)
        (ROOT / "test" / name / "1.png").write_bytes(WHOLE["PNG"])
    (ROOT / "test" / "a" / "2.png").write_bytes(b"no image")
    assert len(refused(images)) == 1
    found = images(skip_corrupt=True)
    assert (len(found.train.labels), len(found.test.labels), len(found.skipped)) == (12, 2, 1)


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_pipes_devices_and_links_that_lead_to_themselves_are_no_images(skip_corrupt: bool) -> None:
    os.mkfifo(ROOT / "a" / "pipe.png")
    (ROOT / "a" / "zeros.png").symlink_to("/dev/zero")
    (ROOT / "a" / "loop.png").symlink_to("loop.png")
    (ROOT / "b" / "up").symlink_to(ROOT.resolve())
    (ROOT / "c").symlink_to("c")
    found: list[Dataset] = []
    assert not refused(lambda: found.append(images(skip_corrupt)))
    assert len(found[0].train.labels) + len(found[0].test.labels) == 12
    assert found[0].skipped == ()
