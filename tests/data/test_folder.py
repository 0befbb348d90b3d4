import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import refuses
from PIL import Image

from salun.data.dataset import Dataset, Subset
from salun.data.memmap import PixelFile
from salun.data.sets import make_sets, prepare, to_device
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError

CPU = torch.device("cpu")
LIMIT = "SALUN_MEMORY_LIMIT"


def picture(seed: int, width: int = 8, height: int = 8, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fill(root: Path, classes: dict[str, int], side: int = 8, start: int = 0) -> dict[tuple[str, str], np.ndarray]:
    """Write `count` pictures a class, as 00.png, 01.png, ...; and say what was written."""
    written = {}
    for name, count in classes.items():
        for number in range(count):
            written[name, f"{number:02}.png"] = picture(start + len(written), side, side)
            write(root / name / f"{number:02}.png", written[name, f"{number:02}.png"])
    return written


def found(dataset: Dataset, part: str) -> set[tuple[str, bytes]]:
    labels = getattr(dataset, part).labels
    return {
        (dataset.classes[label], image.permute(1, 2, 0).numpy().tobytes())
        for image, label in zip(pixels(getattr(dataset, part)), labels.tolist(), strict=True)
    }


def pixels(part: Subset) -> torch.Tensor:
    return part.pixels[torch.arange(len(part.labels))]


def in_file(dataset: Dataset, part: str = "train") -> bool:
    return isinstance(getattr(dataset, part).pixels, PixelFile)


def as_set(written: dict[tuple[str, str], np.ndarray]) -> set[tuple[str, bytes]]:
    return {(name, pixels.tobytes()) for (name, _), pixels in written.items()}


def one_line(name: str, data_dir: Path = Path("data")) -> str:
    return refuses("", lambda: load(name, data_dir))


Limit = Callable[[int], None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Set how many bytes of pixels may be in memory."""
    return lambda size: monkeypatch.setenv(LIMIT, str(size))


@pytest.fixture(params=[None, 100])
def either_way(request: pytest.FixtureRequest, limit: Limit) -> None:
    """With the pixels in memory, and with them in a file."""
    if request.param:
        limit(request.param)


class TestLayout:
    def test_with_train_and_test(self, tmp_path: Path) -> None:
        train = fill(tmp_path / "x" / "train", {"cat": 4, "ant": 4, "bee": 4})
        test = fill(tmp_path / "x" / "test", {"ant": 2, "cat": 3}, start=100)
        dataset = load(f"folder:{tmp_path / 'x'}")
        assert dataset.classes == ("ant", "bee", "cat")
        assert found(dataset, "train") == as_set(train)
        assert found(dataset, "test") == as_set(test)
        assert sorted(dataset.test.labels.tolist()) == [0, 0, 2, 2, 2]
        assert (dataset.channels, dataset.size, dataset.flip) == (3, 8, True)
        assert not in_file(dataset)
        labels = dataset.train.labels  # every run of indices holds all classes
        assert all(set(labels[place : place + 3].tolist()) == {0, 1, 2} for place in range(10))

    @pytest.mark.parametrize("folder", [".", "train"])
    def test_without_a_test_folder(self, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        written = fill(tmp_path / folder, {"dog": 10, "ant": 20, "cat": 30})
        monkeypatch.setenv("HOME", str(tmp_path))
        dataset = load("folder:~")
        assert dataset.classes == ("ant", "cat", "dog")
        assert found(dataset, "train") | found(dataset, "test") == as_set(written)
        assert len(found(dataset, "train") & found(dataset, "test")) == 0
        assert dataset.train.labels.bincount().tolist() == [16, 24, 8]
        assert dataset.test.labels.bincount().tolist() == [4, 6, 2]

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        written = fill(tmp_path, {"train": 5, "car": 5, "test": 5})
        dataset = load(f"folder:{tmp_path}")
        assert dataset.classes == ("car", "test", "train")
        assert found(dataset, "train") | found(dataset, "test") == as_set(written)

    def test_other_and_hidden_files_are_left_out_and_folders_of_a_class_taken_in(self, tmp_path: Path) -> None:
        written = fill(tmp_path, {"a": 5, "b": 5})
        written["a", "deeper"] = picture(900)
        write(tmp_path / "a" / "part" / "deeper" / "1.PNG", written["a", "deeper"])
        (tmp_path / "notes.txt").write_text("no class")
        (tmp_path / "a" / "labels.csv").write_text("no image")
        (tmp_path / "a" / "._00.png").write_text("a system's own")
        (tmp_path / "a" / "folder.png").mkdir()
        write(tmp_path / "b" / ".ipynb_checkpoints" / "00.png", picture(901))
        write(tmp_path / ".cache" / "00.png", picture(902))
        dataset = load(f"folder:{tmp_path}")
        assert dataset.classes == ("a", "b")
        assert found(dataset, "train") | found(dataset, "test") == as_set(written)

    @pytest.mark.usefixtures("either_way")
    def test_odd_names(self, tmp_path: Path) -> None:
        root = tmp_path / "my photos: 100% [of] übung"
        names = ["größe", "two words", "a:b", "-dash", "#1", "'quoted'"]
        written = fill(root, dict.fromkeys(names, 5))
        os.rename(root / "two words" / "00.png", os.fsencode(root / "two words") + b"/caf\xe9.png")
        dataset = load(f"folder:{root}")
        assert dataset.classes == tuple(sorted(names))
        assert found(dataset, "train") | found(dataset, "test") == as_set(written)

    def test_a_folder_that_cannot_be_listed_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(tmp_path / "x", {"a": 5, "b": 5})
        (tmp_path / "x/b/closed").mkdir()
        listed = os.scandir

        def refuse(folder: str) -> Any:
            if str(folder).endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return listed(folder)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(SalunError, match=r"x/b/closed: cannot be listed: Permission denied$"):
            load(f"folder:{tmp_path / 'x'}")

    @pytest.mark.usefixtures("either_way")
    def test_symlinks(self, tmp_path: Path) -> None:
        written = fill(tmp_path / "store", {"one": 5, "two": 5})
        root = tmp_path / "view"
        (root / "b").mkdir(parents=True)
        (root / "a").symlink_to(tmp_path / "store" / "one")
        for file in (tmp_path / "store" / "two").iterdir():
            (root / "b" / file.name).symlink_to(file)
        (root / "b" / "broken.png").symlink_to(tmp_path / "nowhere.png")
        (root / "b" / "loop").symlink_to(root / "b")
        (tmp_path / "link").symlink_to(root)
        dataset = load(f"folder:{tmp_path / 'link'}")
        renamed = {({"one": "a", "two": "b"}[name], file): pixels for (name, file), pixels in written.items()}
        assert found(dataset, "train") | found(dataset, "test") == as_set(renamed)


class TestSize:
    @pytest.mark.parametrize(
        ("sides", "odd", "asked", "size"),
        [
            ((11, 11), (11, 11), "", 11), ((12, 8), (12, 8), "", 64), ((8, 8), (8, 8), ":size=20", 20),
            ((8, 8), (9, 8), "", 64), ((8, 8), (9, 9), "", 64),
        ],
    )  # fmt: skip
    def test_equal_and_mixed_sizes(
        self, tmp_path: Path, sides: tuple[int, int], odd: tuple[int, int], asked: str, size: int
    ) -> None:
        for number in range(10):
            write(tmp_path / "ab"[number % 2] / f"{number}.png", picture(number, *(odd if number == 9 else sides)))
        dataset = load(f"folder:{tmp_path}{asked}")
        assert dataset.train.pixels.shape == (8, 3, size, size)
        assert dataset.test.pixels.shape == (2, 3, size, size)
        assert dataset.padding == size // 8

    @pytest.mark.parametrize("upright", [False, True])
    def test_centre_is_cut_out(self, tmp_path: Path, upright: bool) -> None:
        pixels = np.zeros((20, 60, 3), np.uint8)
        pixels[:, :20, 0] = pixels[:, 20:40, 1] = pixels[:, 40:, 2] = 255
        for name in "ab":
            for number in range(3):
                write(tmp_path / name / f"{number}.png", pixels.transpose(1, 0, 2) if upright else pixels)
        dataset = load(f"folder:{tmp_path}:size=10")
        inner = dataset.train.pixels[:, :, 1:-1, 1:-1]
        assert (inner[:, 1] == 255).all()
        assert (inner[:, [0, 2]] == 0).all()

    def test_test_images_take_the_training_size(self, tmp_path: Path) -> None:
        fill(tmp_path / "train", {"a": 3, "b": 3}, side=8)
        fill(tmp_path / "test", {"a": 3, "b": 3}, side=17)
        assert load(f"folder:{tmp_path}").test.pixels.shape == (6, 3, 8, 8)


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


KINDS: dict[str, Callable[[np.ndarray], tuple[Image.Image, np.ndarray]]] = {
    "grayscale": lambda p: (Image.fromarray(p), grey(p)),
    "grayscale and alpha": lambda p: (Image.fromarray(np.stack([p, p * 0 + 255], axis=2), "LA"), grey(p)),
    "16 bit grayscale": lambda p: (Image.fromarray(p.astype(np.uint16) * 256 + 7), grey(p)),
    "RGBA": lambda p: (Image.fromarray(np.stack([p, p, p, p * 0 + 255], axis=2), "RGBA"), grey(p)),
    "half transparent": lambda p: (Image.fromarray(np.stack([p, p, p, p * 0 + 99], axis=2), "RGBA"), grey(p)),
    "palette": lambda p: (Image.fromarray(p).convert("P"), grey(p)),
    "black and white": lambda p: (Image.fromarray(p > 127), grey(((p > 127) * 255).astype(np.uint8))),
}


class TestContent:
    @pytest.mark.filterwarnings("ignore:'mode' parameter")
    @pytest.mark.parametrize("kind", KINDS)
    def test_modes(self, tmp_path: Path, kind: str) -> None:
        expected = set()
        for name in "ab":
            for number in range(5):
                image, colours = KINDS[kind](picture(number + 10 * ord(name), channels=1))
                (tmp_path / name).mkdir(exist_ok=True)
                image.save(tmp_path / name / f"{number}.png")
                expected.add((name, colours.tobytes()))
        dataset = load(f"folder:{tmp_path}")
        assert found(dataset, "train") | found(dataset, "test") == expected

    @pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp", "tif", "ppm", "gif"])
    def test_formats(self, tmp_path: Path, suffix: str) -> None:
        for name, level in (("dark", 30), ("light", 220)):
            for number in range(5):
                write(tmp_path / name / f"{number}.{suffix}", np.full((8, 8, 3), level, np.uint8))
        dataset = load(f"folder:{tmp_path}")
        means = dataset.train.pixels.float().mean((1, 2, 3))
        assert (means - torch.tensor([30.0, 220.0])[dataset.train.labels]).abs().max() < 3

    @pytest.mark.usefixtures("either_way")
    @pytest.mark.parametrize(
        "content", [b"not an image", b"\xff\xd8\xff\xe0", None], ids=["text", "jpeg start", "half"]
    )
    def test_corrupt_image(self, tmp_path: Path, content: bytes | None) -> None:
        fill(tmp_path / "x", {"a": 8, "b": 8})
        bad = tmp_path / "x" / "b" / "03.png"
        whole = bad.read_bytes()
        bad.write_bytes(content or whole[: len(whole) // 2])
        assert str(bad) in one_line(f"folder:{tmp_path / 'x'}", tmp_path / "data")
        assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]

    def test_floating_point_pixels(self, tmp_path: Path) -> None:
        fill(tmp_path, {"a": 5, "b": 5})
        Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a" / "float.tif")
        assert "float.tif" in one_line(f"folder:{tmp_path}")


class TestRefused:
    @pytest.mark.parametrize("path", ["x" * 5000, "a\0b", ".", "nowhere", __file__])
    def test_path_that_holds_no_classes(self, path: str) -> None:
        assert path in one_line(f"folder:{path}")

    @pytest.mark.parametrize(
        ("folders", "words"),
        [
            ({}, ["0 class"]),
            ({"only": 9}, ["1 class"]),
            ({"a": 2, "b": 2}, []),  # too few for a test part
            ({"a": 5, "b": 5, "nothing": 0}, ["/nothing"]),
            ({"train/a": 5, "train/b": 5, "train/nothing": 0, "test/a": 5}, ["train/nothing"]),
            ({"train/a": 5, "train/b": 5, "test/a": 5, "test/nothing": 0}, ["test/nothing"]),
            ({"train/a": 5, "train/b": 5, "test/a": 5, "test/zebra": 5}, ["test/zebra", "train"]),
        ],
    )
    def test_classes_that_cannot_be_used(self, tmp_path: Path, folders: dict[str, int], words: list[str]) -> None:
        (tmp_path / "x").mkdir()
        fill(tmp_path / "x", folders)
        for name in folders:
            (tmp_path / "x" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "x" / name / "readme.txt").write_text("")
        message = one_line(f"folder:{tmp_path / 'x'}")
        assert all(word in message for word in [str(tmp_path / "x"), *words])

    @pytest.mark.parametrize("limit", ["2GB", "-1", "1.5", "", "²"])
    def test_memory_limit_that_is_no_number(self, tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(tmp_path, {"a": 5, "b": 5})
        monkeypatch.setenv(LIMIT, limit)
        assert LIMIT in one_line(f"folder:{tmp_path}")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder whose images differ by class, large for a limit of 1000 bytes."""
    for label, name in enumerate(("a", "b")):
        for number in range(40):
            write(tmp_path / "large" / name / f"{number:02}.png", picture(number) // 2 + 120 * label)
    return tmp_path / "large"


class TestBeyondMemory:
    def test_same_pixels_as_in_memory(self, tmp_path: Path, large: Path, limit: Limit) -> None:
        limit(64 * 3 * 8 * 8)
        plain = load(f"folder:{large}", tmp_path / "data")
        assert not in_file(plain)
        assert not (tmp_path / "data").exists()
        limit(64 * 3 * 8 * 8 - 1)
        stored = load(f"folder:{large}", tmp_path / "data")
        assert in_file(stored)
        for part in ("train", "test"):
            assert torch.equal(pixels(getattr(stored, part)), pixels(getattr(plain, part)))
            assert torch.equal(getattr(stored, part).labels, getattr(plain, part).labels)
        one, other = (make_split(dataset, ForgetRequest(share=0.5)) for dataset in (plain, stored))
        assert (one.fingerprint, one.forget_fingerprint) == (other.fingerprint, other.forget_fingerprint)
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert sum(np.load(file, mmap_mode="r").nbytes for file in files) == 64 * 3 * 8 * 8

    def test_is_built_once(self, tmp_path: Path, large: Path, limit: Limit) -> None:
        limit(1000)
        first = load(f"folder:{large}", tmp_path / "data")
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")}
        for path in large.rglob("*.png"):
            status = path.stat()
            content = bytearray(path.read_bytes())
            content[-20:] = bytes(20)  # its pixels can no longer be decoded
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        second = load(f"folder:{large}", tmp_path / "data")
        assert torch.equal(pixels(first.train), pixels(second.train))
        assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.npy")}

    def test_is_built_again_for_another_size_or_image(self, tmp_path: Path, large: Path, limit: Limit) -> None:
        limit(1000)
        before = load(f"folder:{large}", tmp_path / "data")
        assert load(f"folder:{large}:size=12", tmp_path / "data").size == 12
        assert load(f"folder:{large}", tmp_path / "data").size == 8
        for path in large.rglob("*.png"):
            write(path, np.full((8, 8, 3), 77, np.uint8))
        after = load(f"folder:{large}", tmp_path / "data")
        assert (pixels(after.train) == 77).all()
        assert not (pixels(before.train) == 77).all()

    def test_large_test_part_alone(self, tmp_path: Path, limit: Limit) -> None:
        fill(tmp_path / "x" / "train", {"a": 2, "b": 2})
        fill(tmp_path / "x" / "test", {"a": 9, "b": 9})
        limit(1000)
        stored = load(f"folder:{tmp_path / 'x'}", tmp_path / "data")
        assert in_file(stored, "test")
        assert not in_file(stored, "train")

    def test_damaged_file_is_named(self, tmp_path: Path, large: Path, limit: Limit) -> None:
        limit(1000)
        load(f"folder:{large}", tmp_path / "data")
        for share in (0.0, 0.5):
            for path in (tmp_path / "data").rglob("*.npy"):
                whole = path.read_bytes()
                path.write_bytes(whole[: int(share * len(whole))])
                assert path.name in one_line(f"folder:{large}", tmp_path / "data")
                path.write_bytes(whole)
        load(f"folder:{large}", tmp_path / "data")

    def test_folder_that_cannot_be_written(self, tmp_path: Path, large: Path, limit: Limit) -> None:
        limit(1000)
        (tmp_path / "data").write_text("a file")
        assert str(tmp_path / "data") in one_line(f"folder:{large}", tmp_path / "data")

    def test_is_never_all_in_memory(self, tmp_path: Path, limit: Limit) -> None:
        fill(tmp_path / "x", {"a": 60, "b": 60})
        load(f"folder:{tmp_path / 'x'}:size=64")
        limit(1000)
        tracemalloc.start()
        dataset = load(f"folder:{tmp_path / 'x'}:size=64", tmp_path / "data")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < pixels(dataset.train).numel() / 3

    def test_is_prepared_and_batched_the_same(self, tmp_path: Path, large: Path, limit: Limit) -> None:
        def batches() -> tuple[bool, torch.Tensor]:
            dataset = to_device(load(f"folder:{large}", tmp_path / "data"), CPU)
            split = make_split(dataset, ForgetRequest((1,)))
            sets = make_sets(dataset, split, prepare(dataset, split), CPU)
            every = (sets.train, sets.forget, sets.retain, sets.validation, sets.forgotten_test)
            generator = torch.Generator().manual_seed(0)
            return in_file(dataset), torch.cat([batch.x for images in every for batch in images.batches(16, generator)])

        from_memory, plain = batches()
        limit(1000)
        from_file, stored = batches()
        assert (from_memory, from_file) == (False, True)
        assert torch.equal(plain, stored)
