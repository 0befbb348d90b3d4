import pytest
import torch
import trios

from salun.data.split import ForgetRequest, make_split
from salun.latent.extraction import read_model
from salun.latent.subset import four_sides, notebook_subset


def test_it_is_the_notebooks_subset_of_data_like_cifar() -> None:
    labels = torch.randint(0, 10, (9000,), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator()
    generator.manual_seed(2048)
    wanted = []
    for label in range(10):
        members = torch.where(labels == label)[0]
        wanted += members[torch.randperm(len(members), generator=generator)[:200]].tolist()
    assert notebook_subset(labels, 10).tolist() == wanted


@pytest.mark.parametrize(("count", "each"), [(2000, 7), (12, 4), (2, 1)])
def test_every_class_gives_equally_many(count: int, each: int) -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 20)
    chosen = notebook_subset(labels, 3, count)
    assert labels[chosen].bincount().tolist() == [each] * 3
    assert len(chosen.unique()) == len(chosen)


def test_a_class_without_images_has_no_part() -> None:
    labels = torch.tensor([0] * 50 + [2] * 20)
    assert labels[notebook_subset(labels, 3)].bincount().tolist() == [20, 0, 20]


def test_the_seed_decides() -> None:
    labels = torch.zeros(500, dtype=torch.int64)
    assert notebook_subset(labels, 1, 50).tolist() == notebook_subset(labels, 1, 50).tolist()
    assert notebook_subset(labels, 1, 50).tolist() != notebook_subset(labels, 1, 50, seed=1).tolist()


@pytest.mark.parametrize("request_", [ForgetRequest(classes=(1,)), ForgetRequest(share=0.2)], ids=["class", "share"])
def test_the_four_sets_part_the_data(request_: ForgetRequest) -> None:
    dataset = trios.pictures()
    forget = trios.forget_of(request_)
    model = read_model(trios.put("after.pt", 0, forget, unlearned=trios.run()))
    sides = {(side.part, side.forgotten): side.sample.indices.tolist() for side in four_sides(dataset, model)}
    split = make_split(dataset, ForgetRequest())
    assert sides["train", True] == list(forget)
    assert sorted(sides["train", True] + sides["train", False]) == split.train.tolist()
    assert sorted(sides["test", True] + sides["test", False]) == split.test.tolist()
    gone = dataset.test.labels[sides["test", True]].unique().tolist()
    assert gone == ([1] if request_.classes else [])
    assert 1 not in dataset.test.labels[sides["test", False]] or not request_.classes


def test_the_first_images_of_a_set() -> None:
    model = read_model(trios.put("after.pt", 0, trios.forget_of(), unlearned=trios.run()))
    for side in four_sides(trios.pictures(), model):
        assert side.first(5).sample.indices.tolist() == side.sample.indices[:5].tolist()
        assert (side.first(5).part, side.first(5).forgotten) == (side.part, side.forgotten)
