from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import refuses
from PIL import Image

from salun.data.dataset import Dataset, Subset
from salun.data.forget_file import write_forget
from salun.data.manifest import as_recorded, manifest_path, write_manifest
from salun.data.sources import load, subclass_count
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError

PETS = {"cat/black": 6, "cat/other": 6, "dog/brown": 6, "dog/other": 6}


def fill(root: Path, folders: dict[str, int]) -> None:
    for place, (folder, count) in enumerate(folders.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([place, number]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")


@pytest.fixture(scope="module")
def grouped() -> Dataset:
    return load("digits_grouped")


def test_grouped_digits_are_the_digits_in_three_classes(grouped: Dataset, digits: Dataset) -> None:
    assert (len(grouped.classes), grouped.subclasses) == (3, digits.classes)
    groups = {0: {0, 6, 8, 9}, 1: {1, 4, 7}, 2: {2, 3, 5}}
    for part, plain in ((grouped.train, digits.train), (grouped.test, digits.test)):
        assert part.fine is not None
        assert torch.equal(part.fine, plain.labels)
        assert torch.equal(part.pixels[:], plain.pixels[:])
        for label, members in groups.items():
            assert set(part.fine[part.labels == label].tolist()) == members


@pytest.mark.parametrize("asked", [("3",), (3, 8), ("8", 3, 3)])
def test_all_images_of_subclasses_go_and_those_of_their_siblings_stay(
    grouped: Dataset, asked: tuple[int | str, ...]
) -> None:
    numbers = {int(each) for each in asked}
    split = make_split(grouped, ForgetRequest(subclasses=asked))
    fine, tested = grouped.train.fine, grouped.test.fine
    assert fine is not None
    assert tested is not None
    assert (split.classes, split.subclasses) == ((), tuple(sorted(numbers)))
    assert set(fine[split.forget].tolist()) == set(tested[split.forgotten_test].tolist()) == numbers
    rest = set(range(10)) - numbers
    for indices, of in ((split.retain, fine), (split.validation, fine), (split.test, tested)):
        assert set(of[indices].tolist()) == rest
    plain = make_split(grouped, ForgetRequest())
    assert torch.equal(plain.train, split.train)
    assert len(split.test) + len(split.forgotten_test) == len(plain.test)
    assert str(ForgetRequest(subclasses=asked)) == f"subclass {'+'.join(map(str, asked))}"


def test_a_subclass_is_another_problem_than_the_list_of_its_images(grouped: Dataset, tmp_path: Path) -> None:
    split = make_split(grouped, ForgetRequest(subclasses=(3,)))
    write_forget(tmp_path / "list.json", split.forget)
    listed = make_split(grouped, ForgetRequest(indices=tmp_path / "list.json"))
    assert torch.equal(listed.forget, split.forget)
    assert listed.forget_fingerprint != split.forget_fingerprint
    assert make_split(grouped, ForgetRequest(subclasses=("3",))).forget_fingerprint == split.forget_fingerprint


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("tree", "subclass 'tree': unknown; accepted: 0, 1"),
        (10, "subclass 10: 'digits_grouped' has the subclasses 0 to 9"),
        (-1, "subclass -1: 'digits_grouped' has the subclasses 0 to 9"),
    ],
)
def test_unknown_subclasses_are_refused(grouped: Dataset, asked: int | str, words: str) -> None:
    refuses(words, lambda: make_split(grouped, ForgetRequest(subclasses=(asked,))))


def test_data_with_one_level_of_classes_say_so(digits: Dataset) -> None:
    words = "subclass 3: 'digits' has one level of classes; cifar20, digits_grouped and folder:PATH:subclasses have"
    refuses(words, lambda: make_split(digits, ForgetRequest(subclasses=(3,))))


def test_all_subclasses_cannot_be_forgotten(grouped: Dataset) -> None:
    with pytest.raises(SalunError, match="nothing would be retained"):
        make_split(grouped, ForgetRequest(subclasses=tuple(range(10))))


def test_numbers_of_subclasses_must_fit_names(grouped: Dataset) -> None:
    fine = grouped.train.fine
    assert fine is not None
    for wrong in (fine[:-1], fine + 1, None):
        with pytest.raises(SalunError, match="'digits_grouped': its training part has n"):
            replace(grouped, train=grouped.train._replace(fine=wrong))
    with pytest.raises(SalunError, match="has numbers of subclasses, of which 0 are named"):
        replace(grouped, subclasses=())


class TestFolder:
    def test_nested_folders_are_one_class_unless_subclasses_are_asked_for(self, tmp_path: Path) -> None:
        fill(tmp_path / "pets", PETS)
        plain, nested = load("folder:pets", tmp_path), load("folder:pets:subclasses", tmp_path)
        assert plain.classes == nested.classes == ("cat", "dog")
        assert (plain.subclasses, plain.train.fine) == ((), None)
        assert nested.subclasses == ("black", "cat/other", "brown", "dog/other")
        assert torch.equal(plain.train.labels, nested.train.labels)
        for part in (nested.train, nested.test):
            assert part.fine is not None
            assert part.names is not None
            told = [name.rpartition("/")[0] for name in part.names]
            assert told == [list(PETS)[number] for number in part.fine.tolist()]
        assert (subclass_count("folder:pets"), subclass_count("folder:pets:subclasses")) == (0, None)

    def test_options_go_together_in_any_order(self, tmp_path: Path) -> None:
        fill(tmp_path / "pets/train", PETS)
        fill(tmp_path / "pets/test", {"cat/black": 2, "dog/other": 2})
        for name in ("folder:pets:size=4:subclasses", "folder:pets:subclasses:size=4"):
            found = load(name, tmp_path)
            assert (found.size, len(found.subclasses)) == (4, 4)
            assert found.test.fine is not None
            assert found.test.fine.tolist() == [0, 3, 0, 3]
        words = "subclasses are folders; a label file"
        refuses(words, lambda: load("folder:pets:subclasses:labels=a.csv", tmp_path))

    def test_an_image_beside_the_folders_is_named(self, tmp_path: Path) -> None:
        fill(tmp_path / "pets", PETS)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets/dog/stray.png")
        refuses("stray.png: lies in no folder of a subclass", lambda: load("folder:pets:subclasses", tmp_path))

    def test_the_nearest_name_is_told(self, tmp_path: Path) -> None:
        fill(tmp_path / "pets", PETS)
        data = load("folder:pets:subclasses", tmp_path)
        refuses("subclass 'blak': unknown; did you mean 'black'", lambda: make_split(data, request("blak")))

    def test_a_manifest_brings_them_back_in_order(self, tmp_path: Path) -> None:
        fill(tmp_path / "pets", PETS)
        before = load("folder:pets:subclasses", tmp_path)
        write_manifest(manifest_path(tmp_path / "base.pt"), before)
        (tmp_path / "pets/cat/black/0.png").unlink()
        after = as_recorded(load("folder:pets:subclasses", tmp_path), tmp_path / "base.pt", moved=False)
        for old, new in ((before.train, after.train), (before.test, after.test)):
            assert known(old, new.absent) == known(new, new.absent)


def request(name: str) -> ForgetRequest:
    return ForgetRequest(subclasses=(name,))


def known(part: Subset, absent: tuple[int, ...]) -> list[int]:
    assert part.fine is not None
    return [number for place, number in enumerate(part.fine.tolist()) if place not in absent]
