import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import refuses

from salun.data.dataset import Dataset, Subset
from salun.data.forget_file import read_forget, write_forget
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError


def labelled(train: torch.Tensor, test: torch.Tensor, classes: int) -> Dataset:
    def part(labels: torch.Tensor) -> Subset:
        return Subset(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), labels)

    return Dataset("mine", part(train), part(test), tuple(map(str, range(classes))))


@pytest.fixture(scope="module")
def uneven() -> Dataset:
    """Five classes of 20, 40, 60, 80 and 100 training images in no order."""
    random = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor([20, 40, 60, 80, 100]))
    return labelled(labels[torch.randperm(300, generator=random)], torch.arange(50) % 5, 5)


def listing(path: Path, content: Any) -> ForgetRequest:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return ForgetRequest(indices=path)


REQUESTS: dict[str, Callable[[Path], ForgetRequest]] = {
    "nothing": lambda _: ForgetRequest(),
    "class": lambda _: ForgetRequest(classes=(2,)),
    "classes": lambda _: ForgetRequest(classes=(0, 3, 4)),
    "share": lambda _: ForgetRequest(share=0.3),
    "even": lambda _: ForgetRequest(share=0.3, stratified=True),
    "most": lambda _: ForgetRequest(share=0.9, seed=4),
    "list": lambda folder: listing(folder / "list.json", [0, 3, 9, 200, 299, 9, 77, 120]),
}


def as_set(indices: torch.Tensor) -> set[int]:
    assert indices.tolist() == sorted(set(indices.tolist()))
    return set(indices.tolist())


@pytest.mark.parametrize("seed", [0, 12])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_sets_are_disjoint_and_whole(uneven: Dataset, request_name: str, seed: int, tmp_path: Path) -> None:
    split = make_split(uneven, REQUESTS[request_name](tmp_path), seed)
    train, validation = as_set(split.train), as_set(split.validation)
    forget, retain = as_set(split.forget), as_set(split.retain)
    assert not train & validation
    assert not forget & retain
    assert forget | retain == train
    assert retain
    assert train | validation <= set(range(300))
    assert as_set(split.test) | as_set(split.forgotten_test) == set(range(50))
    assert not as_set(split.test) & as_set(split.forgotten_test)
    assert forget <= as_set(split.listed)
    assert not as_set(split.listed) & (retain | validation)
    plain = make_split(uneven, ForgetRequest(), seed)
    assert torch.equal(plain.train, split.train)  # the base split does not depend on the request
    assert plain.fingerprint == split.fingerprint
    assert validation <= as_set(plain.validation)
    torch.manual_seed(1)
    np.random.seed(1)
    again = make_split(uneven, REQUESTS[request_name](tmp_path), seed)
    for name in ("train", "validation", "test", "forget", "retain", "forgotten_test", "listed"):
        assert torch.equal(getattr(again, name), getattr(split, name))
    assert (again.fingerprint, again.forget_fingerprint) == (split.fingerprint, split.forget_fingerprint)


class TestValidation:
    def test_is_a_stratified_tenth(self, uneven: Dataset) -> None:
        split = make_split(uneven, ForgetRequest())
        assert uneven.train.labels[split.validation].bincount().tolist() == [2, 4, 6, 8, 10]
        assert len(split.train) == 270
        assert len(split.forget) == 0
        assert torch.equal(split.retain, split.train)

    def test_changes_with_its_seed_and_its_fingerprint_with_the_data(self, uneven: Dataset) -> None:
        one, other = make_split(uneven, ForgetRequest(), 0), make_split(uneven, ForgetRequest(), 1)
        assert not torch.equal(one.validation, other.validation)
        labels, tested = uneven.train.labels.clone(), uneven.test.labels
        labels[0] = (labels[0] + 1) % 5
        others = [labelled(labels, tested, 5), labelled(uneven.train.labels, tested[:-1], 5)]
        found = [one, other, *(make_split(data, ForgetRequest()) for data in others)]
        assert len({split.fingerprint for split in found}) == 4

    def test_of_cifar_is_the_papers(self) -> None:
        split = make_split(labelled(torch.arange(50_000) % 10, torch.arange(10_000) % 10, 10), ForgetRequest(share=0.1))
        sizes = [len(indices) for indices in (split.train, split.validation, split.test, split.forget)]
        assert sizes == [45_000, 5_000, 10_000, 4_500]

    def test_of_very_small_classes_is_empty(self) -> None:
        split = make_split(labelled(torch.arange(6) % 2, torch.arange(2), 2), ForgetRequest(classes=(0,)))
        assert len(split.validation) == 0
        assert len(split.forget) == 3


class TestClasses:
    @pytest.mark.parametrize("classes", [(0,), (1, 3), (0, 1, 2, 3), (2, 2)])
    def test_all_of_their_images_go(self, uneven: Dataset, classes: tuple[int, ...]) -> None:
        split = make_split(uneven, ForgetRequest(classes=classes))
        labels, tested = uneven.train.labels, uneven.test.labels
        assert set(labels[split.forget].tolist()) == set(classes)
        assert not set(labels[split.retain].tolist()) & set(classes)
        assert not set(labels[split.validation].tolist()) & set(classes)
        assert not set(tested[split.test].tolist()) & set(classes)
        assert set(tested[split.forgotten_test].tolist()) == set(classes)
        assert len(split.forgotten_test) == 10 * len(set(classes))
        assert torch.equal(split.listed, split.forget)

    def test_that_cannot_be_forgotten(self, uneven: Dataset) -> None:
        three = labelled(torch.arange(40) % 2, torch.arange(9) % 3, 3)  # without training images of the last class
        for dataset, classes, words in (
            (uneven, (-1,), r"class -1.*0 to 4"),
            (uneven, (0, 99), r"class 99.*0 to 4"),
            (uneven, tuple(range(5)), "all classes"),
            (three, (2,), "class 2"),
            (three, (0, 1), "nothing would be retained"),
        ):
            request = ForgetRequest(classes=classes)
            refuses(words, lambda dataset=dataset, request=request: make_split(dataset, request))


class TestShare:
    @pytest.mark.parametrize(("share", "count"), [(0.1, 27), (0.5, 135), (0.3, 81), (0.996, 269), (0.0038, 1)])
    def test_count_is_exact(self, uneven: Dataset, share: float, count: int) -> None:
        split = make_split(uneven, ForgetRequest(share=share))
        assert len(split.forget) == count
        assert len(split.forgotten_test) == 0
        assert len(split.test) == 50
        assert len(split.validation) == 30

    @pytest.mark.parametrize("stratified", [False, True])
    @pytest.mark.parametrize(
        ("share", "words"),
        [(1e-9, "none of these images"), (0.001, "none of these images"), (0.9999, "nothing would be retained")],
    )
    def test_of_none_or_all(self, uneven: Dataset, share: float, words: str, stratified: bool) -> None:
        refuses(words, lambda: make_split(uneven, ForgetRequest(share=share, stratified=stratified)))

    def test_seed_changes_the_set_and_nothing_else(self, uneven: Dataset) -> None:
        one, same, other = (make_split(uneven, ForgetRequest(share=0.2, seed=seed)) for seed in (3, 3, 4))
        assert torch.equal(one.forget, same.forget)
        assert one.forget_fingerprint == same.forget_fingerprint
        assert not torch.equal(one.forget, other.forget)
        assert one.forget_fingerprint != other.forget_fingerprint
        assert one.fingerprint == other.fingerprint
        assert torch.equal(one.validation, other.validation)

    def test_every_image_may_be_drawn(self, uneven: Dataset) -> None:
        drawn: set[int] = set()
        for seed in range(40):
            drawn |= as_set(make_split(uneven, ForgetRequest(share=0.2, seed=seed)).forget)
        assert drawn == as_set(make_split(uneven, ForgetRequest()).train)


class TestStratifiedShare:
    @pytest.mark.parametrize("seed", [0, 5])
    @pytest.mark.parametrize("share", [0.0038, 0.01, 0.1, 0.123, 1 / 3, 0.5, 0.9, 0.996])
    def test_counts_are_the_share_of_each_class_and_add_up(self, uneven: Dataset, share: float, seed: int) -> None:
        plain = make_split(uneven, ForgetRequest(share=share, seed=seed))
        split = make_split(uneven, ForgetRequest(share=share, seed=seed, stratified=True))
        assert len(split.forget) == len(plain.forget)
        sizes, counts = (uneven.train.labels[of].bincount(minlength=5) for of in (split.train, split.forget))
        assert float((counts - share * sizes).abs().max()) < 1

    def test_what_is_left_over_goes_to_the_largest_remainders(self) -> None:
        labels = torch.repeat_interleave(torch.arange(3), torch.tensor([13, 16, 18]))
        split = make_split(labelled(labels, torch.arange(3), 3), ForgetRequest(share=0.3, stratified=True))
        sizes, counts = (labels[of].bincount().tolist() for of in (split.train, split.forget))
        assert (sizes, counts) == ([12, 14, 16], [4, 4, 5])  # 13 in all, of 3.6, 4.2 and 4.8

    def test_the_share_of_before_is_drawn_without_it(self, uneven: Dataset) -> None:
        train = make_split(uneven, ForgetRequest()).train
        order = np.random.default_rng(3).permutation(270)[:54]
        assert torch.equal(make_split(uneven, ForgetRequest(share=0.2, seed=3)).forget, train[np.sort(order)])


class TestIndices:
    def test_indices_leave_the_validation_split(self, uneven: Dataset, tmp_path: Path) -> None:
        plain = make_split(uneven, ForgetRequest())
        held, learnt = plain.validation[:4].tolist(), plain.train[:6].tolist()
        split = make_split(uneven, listing(tmp_path / "list.json", [*reversed(learnt), *held, *learnt]))
        assert split.forget.tolist() == learnt
        assert as_set(split.validation) == as_set(plain.validation) - set(held)
        assert split.listed.tolist() == sorted(learnt + held)
        assert not set(held) & as_set(split.retain)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ([], "not empty"), ({}, "list"), ({"indices": [1]}, "list"), (3, "list"), (None, "list"),
            ("[1, 2", "not valid JSON"), ("", "not valid JSON"), ([1, -1], "entry 2: index -1"),
            ([300], "entry 1: index 300"), ([0, 1, 10**30], f"entry 3: index {10**30}"),
            ("[" + "1" * 5000 + "]", "5000 digits"), ("[1,]", "not valid JSON"), ([True], "entry 1: true"),
            ([0, False], "entry 2: false"), ([1.0], "entry 1: 1.0"), ("[NaN]", "entry 1: NaN"),
            ("[1e3]", "entry 1: 1000.0"), (["7"], 'entry 1: "7"'), ([None], "entry 1: null"),
            ([[1, 2]], r"entry 1: \[1, 2\]"), ([{"index": 1}], "entry 1"),
        ],
    )  # fmt: skip
    def test_refused_files(self, uneven: Dataset, tmp_path: Path, content: Any, words: str) -> None:
        with pytest.raises(SalunError, match=words) as caught:
            make_split(uneven, listing(tmp_path / "list.json", content))
        assert str(tmp_path / "list.json") in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000, None, "folder"])
    def test_unreadable_files(self, uneven: Dataset, tmp_path: Path, content: bytes | str | None) -> None:
        path = tmp_path / "list.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "folder":
            path.mkdir()
        refuses(r"list\.json", lambda: read_forget(path, uneven))


class TestNever:
    @pytest.mark.parametrize("request_name", [name for name in REQUESTS if name != "list"])
    def test_images_are_in_no_set(self, uneven: Dataset, request_name: str, tmp_path: Path) -> None:
        plain = make_split(uneven, ForgetRequest())
        never = torch.cat([plain.train[::5], plain.validation[::3]])
        split = make_split(uneven, REQUESTS[request_name](tmp_path), never=never)
        for indices in (split.train, split.validation, split.forget, split.retain):
            assert not as_set(indices) & set(never.tolist())
        assert as_set(split.train) | set(never.tolist()) >= as_set(plain.train)
        assert split.fingerprint == plain.fingerprint

    def test_share_is_of_what_was_learnt(self, uneven: Dataset) -> None:
        never = make_split(uneven, ForgetRequest()).train[:70]
        assert len(make_split(uneven, ForgetRequest(share=0.1), never=never).forget) == 20

    def test_what_was_never_learnt_cannot_be_forgotten(self, uneven: Dataset, tmp_path: Path) -> None:
        plain = make_split(uneven, ForgetRequest(classes=(3,)))
        refuses("class 3", lambda: make_split(uneven, ForgetRequest(classes=(3,)), never=plain.forget))
        for content, never, words in (
            (plain.forget[:5], plain.forget[:5], "none of these images"),
            (make_split(uneven, ForgetRequest()).validation, None, "none of these images"),
            (torch.arange(300), None, "nothing would be retained"),
        ):
            listed = listing(tmp_path / "list.json", content.tolist())
            refuses(words, lambda listed=listed, never=never: make_split(uneven, listed, never=never))

    @pytest.mark.parametrize("classes", [(), (0,), (0, 4)])
    def test_class_that_was_never_learnt_is_not_tested(self, uneven: Dataset, classes: tuple[int, ...]) -> None:
        never = make_split(uneven, ForgetRequest(classes=(1, 3))).forget
        split = make_split(uneven, ForgetRequest(classes=classes), never=never)
        left = {0, 2, 4} - set(classes)
        assert set(uneven.train.labels[split.retain].tolist()) == left
        assert set(uneven.train.labels[split.validation].tolist()) == left
        assert set(uneven.test.labels[split.test].tolist()) == left
        assert set(uneven.test.labels[split.forgotten_test].tolist()) == set(classes)

    def test_class_of_which_some_was_learnt_is_tested(self, uneven: Dataset) -> None:
        never = make_split(uneven, ForgetRequest(classes=(1, 3))).forget[1:]
        split = make_split(uneven, ForgetRequest(), never=never)
        assert len(set(uneven.test.labels[split.test].tolist())) == 4


class TestForgetFile:
    @pytest.mark.parametrize("request_name", [name for name in REQUESTS if name != "nothing"])
    def test_gives_the_same_forget_set_again(self, uneven: Dataset, request_name: str, tmp_path: Path) -> None:
        first = make_split(uneven, REQUESTS[request_name](tmp_path), 3)
        path = tmp_path / "new" / "forget.json"
        write_forget(path, first.listed)
        assert json.loads(path.read_text()) == first.listed.tolist()
        assert [file.name for file in path.parent.iterdir()] == ["forget.json"]
        assert torch.equal(read_forget(path, uneven).train, first.listed)
        again = make_split(uneven, ForgetRequest(indices=path), 3)
        assert torch.equal(again.forget, first.forget)
        assert torch.equal(again.retain, first.retain)


class TestBefore:
    def test_each_request_divides_what_the_ones_before_left(self, uneven: Dataset) -> None:
        plain = make_split(uneven, ForgetRequest())
        one = make_split(uneven, ForgetRequest(classes=(0,)))
        two = make_split(uneven, ForgetRequest(share=0.25, seed=3), before=one)
        three = make_split(uneven, ForgetRequest(classes=(2,)), before=two)
        assert three.earlier == (one, two)
        gone = [as_set(split.forget) for split in (one, two, three)]
        assert as_set(three.removed) == set.union(*gone)
        assert sum(map(len, gone)) + len(three.retain) == len(plain.train)
        assert len(two.forget) == round(0.25 * len(one.retain))
        assert set(uneven.test.labels[three.test].tolist()) == {1, 3, 4}
        assert not set(uneven.train.labels[three.validation].tolist()) & {0, 2}
        assert three.fingerprint == plain.fingerprint

    def test_the_requests_before_and_their_order_are_part_of_the_identity(self, uneven: Dataset) -> None:
        one, two = (make_split(uneven, ForgetRequest(classes=(label,))) for label in (0, 1))
        chains = [((0, 1), 2), ((1, 0), 2), ((0, 1), 2), ((0,), 2), ((), 2)]
        marks = []
        for before, last in chains:
            split = None
            for label in (*before, last):
                split = make_split(uneven, ForgetRequest(classes=(label,)), before=split)
            marks.append(split.forget_fingerprint if split else "")
        assert marks[0] == marks[2]
        assert len({*marks, one.forget_fingerprint, two.forget_fingerprint}) == 6

    def test_an_image_is_forgotten_once(self, uneven: Dataset, tmp_path: Path) -> None:
        train = make_split(uneven, ForgetRequest()).train.tolist()
        one = make_split(uneven, listing(tmp_path / "one.json", train[:4]))
        two = listing(tmp_path / "two.json", train[3:9])
        refuses("1 of its images are those of an earlier request", lambda: make_split(uneven, two, before=one))
        zeros = make_split(uneven, ForgetRequest(classes=(0,)))
        for classes in ((0,), (0, 1)):
            again = ForgetRequest(classes=classes)
            refuses("of an earlier request", lambda again=again: make_split(uneven, again, before=zeros))
