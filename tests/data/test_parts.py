import numpy as np
import pytest
import torch

from salun.data.dataset import Dataset, Subset, held_out
from salun.errors import SalunError


def part(images: int = 4, labels: int | None = None, shape: tuple[int, ...] = (3, 8, 8), largest: int = 1) -> Subset:
    known = torch.arange(images if labels is None else labels) % (largest + 1)
    return Subset(torch.zeros(images, *shape, dtype=torch.uint8), known)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (part(4, 3), part(), ["training part", "4 images", "3 labels"]),
        (part(), part(2, 5), ["test part", "2 images", "5 labels"]),
        (part(0), part(), ["training part", "empty"]),
        (part(), part(0), ["test part", "empty"]),
        (part(largest=2), part(), ["training part", "0 to 2", "0 to 1"]),
        (part(), Subset(part().pixels, torch.tensor([0, 1, -1, 0])), ["test part", "-1"]),
        (part(shape=(3, 8, 9)), part(shape=(3, 8, 9)), ["training part", "square"]),
        (part(shape=(8, 8)), part(shape=(8, 8)), ["training part", "(8, 8)"]),
        (part(shape=(3, 8, 8)), part(shape=(1, 8, 8)), ["(3, 8, 8)", "(1, 8, 8)"]),
        (part(shape=(3, 8, 8)), part(shape=(3, 7, 7)), ["(3, 8, 8)", "(3, 7, 7)"]),
    ],
)
def test_refuses_parts_that_do_not_fit(train: Subset, test: Subset, words: list[str]) -> None:
    with pytest.raises(SalunError) as caught:
        Dataset("mine", train, test, ("a", "b"))
    assert all(word in str(caught.value) for word in [*words, "'mine'"])
    assert "\n" not in str(caught.value)


class TestHeldOut:
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
    @pytest.mark.parametrize("counts", [[50, 30, 20], [7, 100], [1, 2, 3, 4, 5], [40]])
    def test_takes_the_share_of_every_class(self, counts: list[int], share: float) -> None:
        labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
        out, left = held_out(labels, share, seed=3)
        assert sorted([*out.tolist(), *left.tolist()]) == list(range(len(labels)))
        assert out.tolist() == sorted(out.tolist())
        assert left.tolist() == sorted(left.tolist())
        taken = labels[out].bincount(minlength=len(counts)).tolist()
        assert all(abs(found - share * count) <= 0.5 for found, count in zip(taken, counts, strict=True))

    def test_is_a_function_of_its_seed(self) -> None:
        labels = torch.arange(200) % 4
        np.random.seed(1)
        torch.manual_seed(1)
        one = held_out(labels, 0.2, 5)[0]
        np.random.seed(2)
        torch.manual_seed(2)
        assert torch.equal(one, held_out(labels, 0.2, 5)[0])
        assert not torch.equal(one, held_out(labels, 0.2, 6)[0])

    def test_draws_every_image_at_some_seed(self) -> None:
        labels = torch.arange(20) % 2
        drawn = torch.cat([held_out(labels, 0.2, seed)[0] for seed in range(60)]).bincount(minlength=20)
        assert (drawn > 0).all()
        assert drawn.max() < 30
