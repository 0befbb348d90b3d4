import pytest
import torch

from salun.data.dataset import Dataset
from salun.data.sets import Sets, make_sets, prepare, to_device
from salun.data.sources import load
from salun.data.split import ForgetRequest, Split, make_split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(digits: Dataset) -> Split:
    return make_split(digits, ForgetRequest(classes=(3,)))


@pytest.fixture(scope="module")
def sets(digits: Dataset, split: Split) -> Sets:
    return make_sets(to_device(digits, CPU), split, prepare(digits, split), CPU)


@pytest.mark.parametrize("name", ["train", "forget", "retain", "validation", "test", "forgotten_test"])
def test_sets_hold_the_images_of_the_split(digits: Dataset, split: Split, sets: Sets, name: str) -> None:
    indices, images = getattr(split, name), getattr(sets, name)
    part = digits.test if "test" in name else digits.train
    assert len(images) == len(indices) > 0
    assert torch.equal(images.rows, indices)
    assert torch.equal(images.labels, part.labels[indices])
    x = torch.cat([batch.x for batch in images.batches(100)])
    assert torch.allclose(x, prepare(digits, split)(part.pixels[indices]))
    assert images.pixels.data_ptr() == part.pixels.data_ptr()


def test_normalisation_is_of_the_training_split(digits: Dataset, split: Split, sets: Sets) -> None:
    x = torch.cat([batch.x for batch in sets.train.batches(500)])
    assert abs(x.mean()) < 1e-5
    assert abs(x.std(correction=0) - 1) < 1e-5
    changed = digits.train.pixels.clone()
    changed[split.validation] = 255
    other = Dataset(
        "digits",
        digits.train._replace(pixels=changed),
        digits.test._replace(pixels=digits.test.pixels // 2),
        digits.classes,
    )
    assert (
        prepare(other, split) == prepare(digits, split) == prepare(digits, make_split(digits, ForgetRequest(share=0.5)))
    )


def test_preparation_takes_augmentation_from_the_data(digits: Dataset, split: Split) -> None:
    plain = prepare(digits, split)
    assert (plain.padding, plain.flip, plain.resize) == (0, False, None)
    assert prepare(digits, split, resize=20).resize == 20
    coloured = load("synthetic:n=40,size=16,classes=2")
    found = prepare(coloured, make_split(coloured, ForgetRequest()))
    assert (found.padding, found.flip, len(found.mean)) == (2, True, 3)
