from dataclasses import replace
from typing import Any

import pytest
import torch

from salun.data.images import Batch, Images, even_sizes, unit_interval
from salun.data.transforms import Preparation

CPU = torch.device("cpu")
PLAIN = Preparation((0.0, 0.0), (1.0, 1.0))
AUGMENTED = Preparation((0.2, 0.3), (0.5, 0.6), padding=2, flip=True)


def store(count: int, seed: int = 0, size: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (count, 2, size, size), dtype=torch.uint8, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(pixels: torch.Tensor, view: Preparation = PLAIN) -> Images:
    count = len(pixels)
    return Images(pixels, torch.arange(count), torch.arange(count) % 3, CPU, view)


def whole(batches: Any) -> Batch:
    return Batch(*(torch.cat(column) for column in zip(*batches, strict=True)))


@pytest.fixture
def ten() -> Images:
    return images(store(10))


class TestTake:
    @pytest.mark.parametrize("positions", [[0, 1, 2], [9, 0, 5], [3], [], [2, 2, 7]])
    def test_gives_the_images_in_that_order(self, ten: Images, positions: list[int]) -> None:
        taken = ten.take(torch.tensor(positions, dtype=torch.int64))
        assert len(taken) == len(positions)
        assert taken.labels.tolist() == [place % 3 for place in positions]
        assert torch.equal(taken.pixels[taken.rows], ten.pixels[positions])
        assert taken.pixels.data_ptr() == ten.pixels.data_ptr()  # no pixel is copied
        with pytest.raises(IndexError):
            ten.take(torch.tensor([10]))


class TestNames:
    def test_belong_to_the_images_of_a_set(self, ten: Images) -> None:
        named = replace(ten, names=list("abcdefghij"))
        taken = named.take(torch.tensor([9, 0, 5]))
        assert taken.names == ["j", "a", "f"]
        assert taken.take(torch.tensor([2])).names == ["f"]
        assert taken.join(named.take(torch.tensor([1]))).names == ["j", "a", "f", "b"]
        other = replace(images(store(2, seed=1)), names=["x", "y"])
        assert taken.join(other).names == ["j", "a", "f", "x", "y"]
        assert taken.join(ten).names is None


class TestJoin:
    def test_one_store_is_shared(self, ten: Images) -> None:
        other = ten.take(torch.tensor([2, 1, 9, 0])).take(torch.tensor([1, 2, 3]))
        joined = ten.take(torch.tensor([7, 1])).relabel(torch.tensor([8, 9])).join(other)
        assert joined.pixels.data_ptr() == ten.pixels.data_ptr()
        assert joined.rows.tolist() == [7, 1, 1, 9, 0]
        assert joined.labels.tolist() == [8, 9, 1, 0, 0]
        assert torch.equal(whole(joined.batches(2)).x, unit_interval(ten.pixels[[7, 1, 1, 9, 0]]))

    def test_different_stores(self, ten: Images) -> None:
        other = images(store(4, seed=1))
        joined = ten.take(torch.tensor([5, 3])).join(other.take(torch.tensor([2, 0, 2])))
        expected = torch.cat([ten.pixels[[5, 3]], other.pixels[[2, 0, 2]]])
        assert joined.pixels.dtype == torch.uint8
        assert torch.equal(whole(joined.batches(3)).x, unit_interval(expected))
        assert joined.labels.tolist() == [2, 0, 2, 0, 2]

    @pytest.mark.parametrize("computed_first", [False, True])
    def test_computed_images_with_stored_ones(self, ten: Images, computed_first: bool) -> None:
        computed = images(torch.rand(3, 2, 6, 6, generator=seeded(2)))
        sets = (computed, ten) if computed_first else (ten, computed)
        joined = sets[0].join(sets[1])
        assert joined.pixels.dtype == torch.float32
        assert torch.equal(whole(joined.batches(4)).x, torch.cat([unit_interval(part.pixels) for part in sets]))
        assert 0 <= joined.pixels.min() < joined.pixels.max() <= 1
        kept = [part.pixels.clone() for part in sets]
        joined.pixels.zero_()
        assert all(torch.equal(part.pixels, before) for part, before in zip(sets, kept, strict=True))

    @pytest.mark.parametrize("first", [False, True])
    def test_with_an_empty_set(self, ten: Images, first: bool) -> None:
        for empty in (ten.take(torch.empty(0, dtype=torch.int64)), images(store(0))):
            joined = empty.join(ten) if first else ten.join(empty)
            assert torch.equal(whole(joined.batches(4)).x, unit_interval(ten.pixels))


class TestBatches:
    @pytest.mark.parametrize("shuffled", [False, True])
    @pytest.mark.parametrize(
        ("count", "size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 2**70, [3]), (0, 4, [])]
    )
    def test_every_image_once(self, count: int, size: int, sizes: list[int], shuffled: bool) -> None:
        found = list(images(store(count)).batches(size, seeded(0) if shuffled else None))
        assert [len(batch.x) for batch in found if len(batch.x)] == sizes
        assert sorted(at for batch in found for at in batch.at.tolist()) == list(range(count))

    @pytest.mark.parametrize("generator", [None, 3])
    def test_parts_of_a_batch_belong_together(self, ten: Images, generator: int | None) -> None:
        chosen = ten.take(torch.tensor([9, 3, 3, 0, 6])).relabel(torch.tensor([10, 11, 12, 13, 14]))
        for batch in chosen.batches(2, None if generator is None else seeded(generator)):
            assert torch.equal(batch.x, unit_interval(ten.pixels[chosen.rows[batch.at]]))
            assert torch.equal(batch.y, batch.at + 10)
            assert batch.x.dtype == torch.float32
            assert batch.y.dtype == torch.int64

    def test_come_in_order_and_plain_without_a_generator(self) -> None:
        chosen = images(store(20), AUGMENTED)
        once, again = whole(chosen.batches(3)), whole(chosen.batches(7))
        assert once.at.tolist() == list(range(20))
        assert torch.equal(once.x, again.x)
        assert torch.equal(once.x, AUGMENTED(chosen.pixels))

    def test_are_shuffled_and_augmented_by_the_generator_alone(self) -> None:
        chosen, generator = images(store(50), AUGMENTED), seeded(5)
        one, later = whole(chosen.batches(8, generator)), whole(chosen.batches(8, generator))
        assert not torch.equal(one.at, later.at)  # the next epoch differs
        undisturbed = torch.get_rng_state()
        same, other = whole(chosen.batches(8, seeded(5))), whole(chosen.batches(8, seeded(6)))
        assert torch.equal(one.x, same.x)
        assert torch.equal(one.at, same.at)
        assert not torch.equal(one.at, other.at)
        assert not torch.equal(one.at, torch.arange(50))
        plain = whole(chosen.batches(8))
        assert not torch.equal(one.x, plain.x[one.at])
        assert torch.equal(torch.get_rng_state(), undisturbed)


def test_unit_interval_leaves_computed_images_alone() -> None:
    computed = torch.rand(2, 1, 3, 3)
    assert torch.equal(unit_interval(computed), computed)
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(unit_interval(levels), torch.arange(256) / 255)


@pytest.mark.parametrize(
    ("count", "most", "fewest", "wanted"),
    [
        (260, 256, 1, [130, 130]), (101, 11, 1, [11] + 9 * [10]), (130, 64, 1, [44, 43, 43]), (5, 256, 4, [5]),
        (9, 4, 4, [5, 4]), (3, 2, 4, [3]), (1, 1, 1, [1]),
    ],
)  # fmt: skip
def test_even_sizes_differ_by_one_image_at_most(count: int, most: int, fewest: int, wanted: list[int]) -> None:
    assert even_sizes(count, most, fewest) == wanted
