import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import refuses

from salun.data.images import Images, unit_interval
from salun.data.memmap import PixelFile

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)


@pytest.fixture
def stored(tmp_path: Path) -> PixelFile:
    np.save(tmp_path / "pixels.npy", PIXELS)
    return PixelFile(tmp_path / "pixels.npy")


@pytest.mark.parametrize("rows", [[0], [6, 0, 3], [2, 2], list(range(7)), []])
def test_is_indexed_as_the_tensor(rows: list[int], stored: PixelFile) -> None:
    whole, at = torch.from_numpy(PIXELS), torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(stored[at], whole[at])
    assert (len(stored), stored.shape, stored.ndim) == (len(whole), whole.shape, whole.ndim)
    assert (stored.dtype, stored.device) == (whole.dtype, whole.device)


def test_goes_to_another_process(stored: PixelFile) -> None:
    assert torch.equal(pickle.loads(pickle.dumps(stored))[torch.tensor([3])], torch.from_numpy(PIXELS[3:4]))


def test_joins_a_set_in_memory(stored: PixelFile) -> None:
    def view(pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return unit_interval(pixels)

    whole, rows, cpu = torch.from_numpy(PIXELS), torch.tensor([5, 1]), torch.device("cpu")
    sets = [Images(pixels, rows, rows, cpu, view) for pixels in (stored, whole)]
    (batch,) = sets[0].join(sets[1]).batches(10)
    assert torch.equal(batch.x, unit_interval(whole[torch.tensor([5, 1, 5, 1])]))


@pytest.mark.parametrize(
    "content",
    [
        PIXELS[0], PIXELS.astype(np.float32), np.asfortranarray(PIXELS), np.array([{}], dtype=object),
    ],
)  # fmt: skip
def test_holds_something_else(content: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", content)
    refuses(r"pixels\.npy: .*delete it", lambda: PixelFile(tmp_path / "pixels.npy"))


@pytest.mark.parametrize("left", [0, 1, 47])
def test_cut_off_while_it_is_used(left: int, stored: PixelFile) -> None:
    with stored.path.open("r+b") as file:
        file.truncate(stored.begin + 2 * 48 + left)
    assert torch.equal(stored[torch.tensor([1])], torch.from_numpy(PIXELS[1:2]))
    refuses(r"pixels\.npy: can no longer be read", lambda: stored[torch.tensor([2])])
    stored.path.unlink()
    refuses(r"pixels\.npy: can no longer be read", lambda: stored[torch.tensor([1])])
