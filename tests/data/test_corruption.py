"""What corruption does to training images, and what it leaves alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import salun
from salun.data.corruption import Corruption, corrupt_dataset
from salun.data.dataset import Dataset
from salun.data.images import Images
from salun.data.memmap import PixelFile
from salun.data.sets import make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError

KINDS: dict[str, dict[str, Any]] = {
    "trigger": {"kind": "trigger", "target": 2},
    "labels": {"kind": "labels"},
    "interclass": {"kind": "interclass", "classes": (3, 5)},
}


def done_to(data: Dataset, found: float = 1.0, **keys: Any) -> Dataset:
    return corrupt_dataset(data, Corruption(found=found, **keys), 0)


def drawn_of(data: Dataset) -> Tensor:
    assert data.corrupted is not None
    return data.corrupted.drawn


def stamped(pixels: Tensor, side: int) -> Tensor:
    marked = pixels.clone()
    marked[:, :, -side:, -side:] = 255
    return marked


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_function_of_data_settings_and_seed_that_leaves_the_data_alone(kind: str, digits: Dataset) -> None:
    pixels, labels = digits.train.pixels.clone(), digits.train.labels.clone()
    one, again, other = (done_to(digits, **KINDS[kind], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(digits.train.pixels, pixels)
    assert torch.equal(digits.train.labels, labels)
    assert digits.corrupted is None
    assert torch.equal(one.train.labels, again.train.labels)
    assert torch.equal(one.train.pixels, again.train.pixels)
    assert torch.equal(drawn_of(one), drawn_of(again))
    assert set(drawn_of(one).tolist()) != set(drawn_of(other).tolist())
    assert one.test is digits.test
    assert torch.equal(one.true_labels, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_share_is_touched_and_only_of_the_training_split(kind: str, digits: Dataset) -> None:
    split, data = make_split(digits, ForgetRequest()), done_to(digits, **KINDS[kind], share=0.1)
    chosen = drawn_of(data)
    assert len(split.train) == 1295
    assert len(chosen) == len(chosen.unique()) == 130
    assert bool(torch.isin(chosen, split.train).all())
    changed = (data.train.labels != digits.train.labels).nonzero().flatten()
    assert torch.equal(changed, chosen.sort().values)  # no label is the true one
    moved = (data.train.pixels != digits.train.pixels).flatten(1).any(1).nonzero().flatten()
    assert torch.equal(moved, chosen.sort().values if kind == "trigger" else chosen[:0])
    assert make_split(data, ForgetRequest()).fingerprint == split.fingerprint


def test_a_trigger_is_a_white_square_in_the_corner_and_its_target_the_label(digits: Dataset) -> None:
    data = done_to(digits, **KINDS["trigger"])
    chosen = drawn_of(data)
    assert torch.equal(data.train.pixels[chosen], stamped(digits.train.pixels[chosen], 2))
    assert data.train.labels[chosen].unique().tolist() == [2]
    assert 2 not in digits.train.labels[chosen]


@pytest.mark.parametrize(("side", "patch"), [(4, 2), (8, 2), (32, 3), (64, 6), (224, 21)])
def test_the_square_grows_with_the_image(side: int, patch: int) -> None:
    images = Images.from_tensors(torch.zeros(4, 1, side, side, dtype=torch.uint8), [0, 1, 1, 1])
    found = salun.corrupt(images, kind="trigger", share=0.5)
    assert (found.train.pixels[found.indices] == 255).sum(dim=(1, 2, 3)).tolist() == [patch**2] * 2


def test_confused_classes_get_each_others_labels(digits: Dataset) -> None:
    data = done_to(digits, **KINDS["interclass"])
    pairs = torch.stack([digits.train.labels, data.train.labels], 1)[drawn_of(data)].tolist()
    assert sorted(map(tuple, pairs)) == [(3, 5)] * 32 + [(5, 3)] * 32


def test_wrong_labels_are_of_every_other_class_alike(digits: Dataset) -> None:
    data = done_to(digits, kind="labels", share=0.9)
    offsets = (data.train.labels - digits.train.labels)[drawn_of(data)] % 10
    counts = torch.bincount(offsets, minlength=10)
    assert counts[0] == 0
    assert counts[1:].sum() == 1166
    assert bool(((counts[1:] - 1166 / 9).abs() < 4 * (1166 / 9) ** 0.5).all())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_is_forgotten_and_the_rest_is_retained_as_it_is(kind: str, digits: Dataset) -> None:
    data, earlier = done_to(digits, **KINDS[kind]), torch.empty(0, dtype=torch.int64)
    for part in (0.1, 0.5, 1.0):
        split = make_split(data, ForgetRequest(found=part))
        sets = make_sets(data, split, prepare(data, split), torch.device("cpu"))
        assert sets.corrupted is not None
        assert len(split.forget) == round(part * len(drawn_of(data)))
        assert set(earlier.tolist()) <= set(split.forget.tolist())  # more is found, never less
        assert torch.equal(torch.cat([split.forget, split.undiscovered]).sort().values, drawn_of(data).sort().values)
        assert torch.equal(sets.corrupted.found.labels, digits.train.labels[split.forget])
        assert torch.equal(sets.corrupted.undiscovered.labels, digits.train.labels[split.undiscovered])
        assert not bool((sets.forget.labels == sets.corrupted.found.labels).any())
        assert len(sets.retain) == len(sets.corrupted.clean) + len(split.undiscovered)
        assert torch.equal(sets.corrupted.clean.labels, digits.train.labels[sets.corrupted.clean.rows])
        earlier = split.forget


def test_the_trigger_is_tried_on_test_images_of_other_classes(digits: Dataset) -> None:
    data = done_to(digits, **KINDS["trigger"])
    split = make_split(data, ForgetRequest(found=1.0))
    tried = make_sets(data, split, prepare(data, split), torch.device("cpu")).corrupted
    assert tried is not None
    others = (digits.test.labels != 2).nonzero().flatten()
    assert torch.equal(tried.triggered.rows, others)
    assert tried.triggered.labels.unique().tolist() == [2]
    assert torch.equal(tried.triggered.pixels[others], stamped(digits.test.pixels[others], 2))
    assert torch.equal(data.test.pixels, digits.test.pixels)


def test_images_that_stay_in_a_file_are_given_the_trigger_as_they_are_read(digits: Dataset) -> None:
    np.save("pixels.npy", digits.train.pixels.numpy())
    filed = replace(digits, train=digits.train._replace(pixels=PixelFile(Path("pixels.npy"))))
    plain, read = done_to(digits, **KINDS["trigger"]), done_to(filed, **KINDS["trigger"])
    assert isinstance(read.train.pixels, PixelFile)
    rows = torch.randperm(len(digits.train.labels), generator=torch.Generator().manual_seed(0))
    assert torch.equal(read.train.pixels[rows], plain.train.pixels[rows])


def numbered(count: int = 40, classes: Sequence[str] = ("a", "b", "c", "d")) -> Images:
    labels = torch.arange(count) % 4
    return Images.from_tensors(torch.rand(count, 1, 8, 8), labels, classes=classes)


@pytest.mark.parametrize(
    "keys", [{"kind": "trigger", "target": "c"}, {"kind": "labels"}, {"kind": "interclass", "classes": ("b", 3)}]
)
def test_from_python_every_set_is_there(keys: dict[str, Any]) -> None:
    images = numbered()
    found = salun.corrupt(images, share=0.2, found=0.5, **keys)
    assert [len(found.forget), len(found.undiscovered), len(found.retain), len(found.clean)] == [4, 4, 36, 32]
    assert torch.equal(found.forget.rows, found.indices[:4])
    assert torch.equal(found.found.labels, images.labels[found.indices[:4]])
    assert torch.equal(found.undiscovered.labels, images.labels[found.indices[4:]])
    assert not bool((found.train.labels == images.labels)[found.indices].any())
    assert torch.equal(found.clean.labels, images.labels[found.clean.rows])


def test_from_python_the_trigger_is_as_bright_as_images_are() -> None:
    images = numbered()
    found = salun.corrupt(images, kind="trigger", share=0.2, target=1)
    tried = found.triggered(numbered(12))
    assert len(tried) == 9
    assert tried.labels.unique().tolist() == [1]
    assert torch.equal(tried.pixels[tried.rows][:, 0, -2:, -2:], images.pixels.max().expand(9, 2, 2))
    with pytest.raises(SalunError, match="triggered: the images were corrupted without a trigger"):
        salun.corrupt(images, kind="labels").triggered(images)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"kind": "poison"}, "corrupt.kind: 'poison': Input should be 'trigger', 'labels' or 'interclass'"),
        ({"kind": "labels", "share": 1}, "corrupt.share: 1: Input should be less than 1"),
        ({"kind": "labels", "found": 0}, "corrupt.found: 0: Input should be greater than 0"),
        ({"kind": "trigger", "target": 4}, "corrupt.target: class 4: the classes are 0 to 3"),
        ({"kind": "trigger", "target": "e"}, "corrupt.target: class 'e': unknown"),
        ({"kind": "interclass", "classes": ("b", 1)}, "corrupt.classes: ['b', 1]: must be two different ones"),
        (
            {"kind": "interclass", "share": 0.6, "classes": (0, 1)},
            "24 images of 40 to corrupt, 12 of either class of 10",
        ),
        ({"kind": "labels", "share": 0.001}, "corrupt.share: 0.001: 0 images of 40 to corrupt; must be at least one"),
        ({"kind": "trigger", "share": 0.8}, "32 images of 40 to corrupt, but 30 can have another label"),
    ],
)
def test_what_cannot_be_done_is_one_line(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(SalunError) as refused:
        salun.corrupt(numbered(), **keys)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
