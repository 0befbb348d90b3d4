from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import refuses

from salun.data.images import Batch, Images
from salun.data.memmap import PixelFile
from salun.data.sets import share
from salun.data.shard import PixelShare
from salun.data.transforms import Preparation

CPU = torch.device("cpu")
COUNT = 50
AUGMENTED = Preparation((0.2, 0.3), (0.5, 0.6), padding=2, flip=True, resize=9)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def store() -> torch.Tensor:
    return torch.randint(0, 256, (COUNT, 2, 6, 6), dtype=torch.uint8, generator=seeded(0))


def some(pixels: torch.Tensor | PixelFile, rows: torch.Tensor) -> Images:
    return Images(pixels, rows, rows % 7, CPU, AUGMENTED)


def shared(images: Images, rank: int, processes: int) -> Images:
    return share(images, images, rank, processes)[0]


@pytest.mark.parametrize("size", [1, 7, 16, 100])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_portions_together_are_the_batches_of_one_process(store: torch.Tensor, processes: int, size: int) -> None:
    images = some(store, torch.randperm(COUNT, generator=seeded(5))[:41])
    alone, generators = seeded(1), [seeded(1) for _ in range(processes)]
    streams = [
        shared(images, rank, processes).portions(size, generator, rank, processes)
        for rank, generator in enumerate(generators)
    ]
    for whole, portions in zip(images.batches(size, alone), zip(*streams, strict=True), strict=True):
        assert {portion.whole for _, portion in portions} == {len(whole.x)}
        assert sum(portion.own for _, portion in portions) == len(whole.x)
        assert all(len(batch.x) == len(batch.y) == len(batch.at) == max(own, 1) for batch, (own, _) in portions)
        x, y, at = (torch.cat(column) for column in zip(*(batch for batch, (own, _) in portions if own), strict=True))
        order, expected = at.argsort(), whole.at.argsort()
        assert torch.equal(at[order], whole.at[expected])
        assert torch.equal(y[order], whole.y[expected])
        assert torch.equal(x[order], whole.x[expected])
    assert all(torch.equal(generator.get_state(), alone.get_state()) for generator in generators)


def test_one_that_does_not_count_is_the_processes_own(store: torch.Tensor) -> None:
    images = some(store, torch.arange(COUNT))
    stream = shared(images, 1, 2).portions(1, seeded(0), 1, 2)
    spares = [(batch.at, batch.y) for batch, (own, _) in stream if not own]
    assert len(spares) == COUNT // 2
    assert all(int(at) % 2 == 1 and int(y) == int(at) % 7 for at, y in spares)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_shares_of_pixels_are_each_a_part_and_all_together(store: torch.Tensor, processes: int) -> None:
    shares = [PixelShare(store, rank, processes, CPU) for rank in range(processes)]
    assert sum(part.pixels.untyped_storage().nbytes() for part in shares) == store.nbytes
    for rank, part in enumerate(shares):
        rows = torch.arange(rank, COUNT, processes).flip(0)
        assert torch.equal(part[rows], store[rows])
        assert (len(part), part.shape, part.dtype, part.ndim) == (COUNT, store.shape, store.dtype, 4)
        with pytest.raises(IndexError, match=f"process {rank} of {processes}"):
            part[torch.tensor([rank + 1])]


def test_pixels_in_a_file_stay_there(store: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "pixels.npy"
    np.save(path, store.numpy())
    filed = some(PixelFile(path), torch.arange(COUNT))
    kept = shared(filed, 1, 3)
    assert kept.pixels is filed.pixels
    copied = shared(some(store, torch.arange(COUNT)), 1, 3)
    streams = [images.portions(8, seeded(2), 1, 3) for images in (kept, copied)]
    for (one, own), (other, same) in zip(*streams, strict=True):
        assert own == same
        assert all(torch.equal(mine, others) for mine, others in zip(one, other, strict=True))


def test_two_sets_share_one_copy(store: torch.Tensor) -> None:
    first, second = share(some(store, torch.arange(40)), some(store, torch.arange(40, COUNT)), 0, 2)
    assert first.pixels is second.pixels
    held = second.take(second.held(0, 2))
    batches = [Batch(*batch) for batch in held.batches(3)]
    assert torch.cat([batch.y for batch in batches]).tolist() == [row % 7 for row in range(40, COUNT, 2)]


def test_more_processes_than_images_are_refused(store: torch.Tensor) -> None:
    images = some(store, torch.tensor([0, 2, 4]))
    refuses("2 processes for 3 training images: one would hold none", lambda: share(images, images, 0, 2))
