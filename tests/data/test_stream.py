import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import refuses
from pictures import draw
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from salun.data.corruption import Corruption, corrupt_dataset
from salun.data.dataset import Dataset
from salun.data.decode import MEMORY_LIMIT
from salun.data.images import Images
from salun.data.manifest import as_recorded, manifest_path, write_manifest
from salun.data.memmap import PixelFile
from salun.data.sets import make_sets, prepare
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.data.stream import StreamedFiles

CPU, SIDE = torch.device("cpu"), 16
CLASSES = ("ant", "bee", "cow")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of smooth pictures of many sizes, 40 a class."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(40):
            small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            width, height = random.integers(20, 40, 2).tolist()
            small.resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / "pets" / name / f"{number:02}.png")
    return tmp_path / "pets"


@pytest.fixture(params=[1, 2])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded by one process, and by two."""
    monkeypatch.setattr("salun.data.stream.decoders", lambda: request.param)


def streamed(root: Path) -> Dataset:
    return load(f"folder:{root}:size={SIDE}:stream")


def train_images(dataset: Dataset) -> Images:
    split = make_split(dataset, ForgetRequest())
    return make_sets(dataset, split, prepare(dataset, split), CPU).train


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.usefixtures("processes")
def test_has_the_pixels_of_a_folder_in_memory(root: Path) -> None:
    ours, plain = streamed(root), load(f"folder:{root}:size={SIDE}")
    for one, other in ((ours.train, plain.train), (ours.test, plain.test)):
        assert isinstance(one.pixels, StreamedFiles)
        assert one.names == other.names
        assert torch.equal(one.labels, other.labels)
        rows = torch.arange(len(other.labels)).flip(0)
        assert torch.equal(one.pixels[rows], other.pixels[rows])
        assert torch.equal(torch.cat(list(one.pixels.read_ahead(rows.split(50)))), other.pixels[rows])
    assert (ours.size, ours.channels, ours.classes) == (plain.size, plain.channels, plain.classes)


def test_normalises_as_a_folder_in_memory(root: Path) -> None:
    ours, plain = (load(f"folder:{root}:size={SIDE}{option}") for option in (":stream", ""))
    split = make_split(ours, ForgetRequest())
    assert prepare(ours, split).mean == prepare(plain, split).mean
    assert prepare(ours, split).std == prepare(plain, split).std


def test_statistics_are_of_a_sample_where_images_are_many(tmp_path: Path) -> None:
    draw(tmp_path / "many", {"one": 2900, "other": 2900})
    ours, plain = (load(f"folder:{tmp_path}/many:size=8{option}") for option in (":stream", ""))
    split = make_split(ours, ForgetRequest())
    near, exact = prepare(ours, split), prepare(plain, split)
    assert near.mean != exact.mean
    assert near.mean == pytest.approx(exact.mean, abs=0.002)
    assert near.std == pytest.approx(exact.std, abs=0.002)


@pytest.fixture(params=[":stream", ""])
def filed(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Dataset]:
    """Loads a folder whose pixels stay in files: in the images' own, and in one of all pixels."""
    monkeypatch.setenv(MEMORY_LIMIT, "1000")
    return lambda: load(f"folder:{root}:size={SIDE}{request.param}", root.parent / "data")


def statistics(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = prepare(dataset, make_split(dataset, ForgetRequest()))
    return found.mean, found.std


def test_statistics_are_read_again_while_images_are_the_same(
    filed: Callable[[], Dataset], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = statistics(filed())
    with monkeypatch.context() as patched:
        patched.setattr("salun.data.sets.channel_statistics", refuse)
        assert statistics(filed()) == first
    for file in (root / "ant").iterdir():
        Image.new("RGB", (20, 20)).save(file)
    assert statistics(filed())[0] < first[0]


@pytest.mark.parametrize("left", ["", "[[0.5], [0.5]]", "[[0, 0, NaN], [1, 1, 1]]"])
def test_damaged_statistics_are_computed_again(filed: Callable[[], Dataset], root: Path, left: str) -> None:
    first = statistics(filed())
    (kept,) = (root.parent / "data" / "folders").glob("*.json")
    kept.write_text(left)
    assert statistics(filed()) == first
    assert kept.read_text() != left


def test_statistics_that_cannot_be_kept_are_computed(root: Path) -> None:
    (root.parent / "data").write_text("no folder")
    dataset = load(f"folder:{root}:size={SIDE}:stream", root.parent / "data")
    assert statistics(dataset) == statistics(dataset)


def refuse(*images: object) -> None:
    raise AssertionError("read again")


def test_the_same_seed_gives_the_same_crops(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, found = train_images(streamed(root)), []
    for count, seed in ((1, 0), (2, 0), (2, 1)):
        monkeypatch.setattr("salun.data.stream.decoders", lambda count=count: count)
        batches = list(images.batches(40, seeded(seed)))
        found.append((torch.cat([batch.x for batch in batches]), torch.cat([batch.at for batch in batches])))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][0][found[0][1].argsort()], found[2][0][found[2][1].argsort()])


def test_crops_as_torchvision_does(root: Path) -> None:
    store = streamed(root).train.pixels
    assert isinstance(store, StreamedFiles)
    rows, seeds = torch.arange(30), torch.arange(100, 130)
    (ours,) = store.read_ahead([rows], [seeds])
    differences = []
    for row, seed, image in zip(rows.tolist(), seeds.tolist(), ours, strict=True):
        torch.manual_seed(seed)
        with Image.open(store.file(row)) as file:
            theirs = RandomResizedCrop(SIDE)(file.convert("RGB"))
        differences.append(np.abs(np.asarray(theirs).transpose(2, 0, 1) - image.numpy().astype(float)).mean())
    assert np.mean(differences) < 4  # of 255: Pillow scales a box with what lies beyond its edges, torchvision without
    unlike = store[rows].float() - ours.float()
    assert unlike.abs().mean() > 15


def test_each_epoch_has_crops_of_its_own(root: Path) -> None:
    images, generator = train_images(streamed(root)), seeded(0)
    first, second = (
        torch.cat([batch.x[batch.at.argsort()] for batch in images.batches(len(images), generator)]) for _ in range(2)
    )
    assert (first - second).abs().mean() > 0.1


def test_leaves_the_generator_that_layers_draw_from(root: Path) -> None:
    images = train_images(streamed(root))
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert len(list(images.batches(8, seeded(0)))) == -(-len(images) // 8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("size", [3, 7])
def test_a_process_of_several_reads_its_own_images_alone(size: int, root: Path) -> None:
    images = train_images(streamed(root))
    whole = [batch.x for batch in images.batches(50, seeded(0))]
    black = -torch.tensor(images.view.mean) / torch.tensor(images.view.std)  # type: ignore[attr-defined]
    for rank in range(size):
        own = slice(rank, None, size)
        for x, batch in zip(whole, images.batches(50, seeded(0), own), strict=True):
            assert torch.equal(batch.x[own], x[own])
            others = torch.ones(len(x), dtype=torch.bool)
            others[own] = False
            if not len(x[own]):
                assert torch.equal(batch.x[0], x[0])
                others[0] = False
            assert torch.allclose(batch.x[others], black.view(1, 3, 1, 1).expand_as(batch.x[others]), atol=1e-6)


@pytest.mark.usefixtures("processes")
def test_a_broken_image_is_one_line(root: Path) -> None:
    dataset = streamed(root)
    images = train_images(dataset)
    (root / "bee" / "03.png").write_bytes(b"no picture")
    (root / "cow" / "05.png").unlink()
    for generator in (None, seeded(0)):
        refuses(r"(bee/03|cow/05)\.png: cannot be decoded", lambda drawn=generator: list(images.batches(20, drawn)))
    again = load(f"folder:{root}:size={SIDE}:stream", skip_corrupt=True)
    assert [line for line in again.skipped if "bee/03.png" in line]
    assert len(list(train_images(again).batches(20, seeded(0))))


def test_a_set_without_images_has_one_batch_of_none(root: Path) -> None:
    images = train_images(streamed(root))
    (batch,) = images.take(torch.empty(0, dtype=torch.int64)).batches(8)
    assert batch.x.shape == (0, 3, SIDE, SIDE)


def test_an_abandoned_epoch_ends_its_processes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salun.data.stream.decoders", lambda: 2)
    batches = train_images(streamed(root)).batches(8, seeded(0))
    next(batches)
    del batches
    assert not [child for child in torch.multiprocessing.active_children() if child.is_alive()]


def test_a_moved_folder_is_streamed_in_the_recorded_order(root: Path, tmp_path: Path) -> None:
    before, checkpoint = streamed(root), tmp_path / "base.pt"
    write_manifest(manifest_path(checkpoint), before)
    seen = [part.pixels[torch.arange(len(part.labels))] for part in (before.train, before.test)]
    (root / "ant" / "00.png").rename(root / "ant" / "99.png")
    after = as_recorded(streamed(root.rename(tmp_path / "elsewhere")), checkpoint, moved=True)
    for expected, one, other in zip(seen, (before.train, before.test), (after.train, after.test), strict=True):
        assert isinstance(other.pixels, StreamedFiles)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(other.pixels[torch.arange(len(other.labels))], expected)


def test_a_trigger_is_on_cropped_images_too(root: Path) -> None:
    dataset = streamed(root)
    corruption = Corruption(kind="trigger", share=0.3, target=0).resolved(dataset.classes, len(CLASSES))
    done = corrupt_dataset(dataset, corruption, 0)
    assert done.corrupted is not None
    assert isinstance(done.train.pixels, PixelFile)
    rows, marked = torch.arange(len(done.train.labels)), done.corrupted.drawn
    (cropped,) = done.train.pixels.read_ahead([rows], [rows])
    (plain,) = dataset.train.pixels.read_ahead([rows], [rows])  # type: ignore[union-attr]
    assert (cropped[marked, :, -2:, -2:] == 255).all()
    assert torch.equal(cropped[:, :, :-2, :-2], plain[:, :, :-2, :-2])


def test_goes_to_another_process(root: Path) -> None:
    store = streamed(root).train.pixels
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again[torch.tensor([3])], store[torch.tensor([3])])


def test_is_224_pixels_unless_told(root: Path) -> None:
    assert load(f"folder:{root}:stream").size == 224
