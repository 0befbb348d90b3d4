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
def test_every_class_with_images_gives_equally_many_of_the_seeds_choice(count: int, each: int) -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 20 + [4] * 9)
    chosen = notebook_subset(labels, 5, count * 5 // 3)
    assert labels[chosen].bincount().tolist() == [each] * 3 + [0, each]
    assert len(chosen.unique()) == len(chosen)
    assert chosen.tolist() == notebook_subset(labels, 5, count * 5 // 3).tolist()
    assert chosen.tolist() != notebook_subset(labels, 5, count * 5 // 3, seed=1).tolist()


@pytest.mark.parametrize("request_", [ForgetRequest(classes=(1,)), ForgetRequest(share=0.2)], ids=["class", "share"])
def test_the_four_sets_part_the_data(request_: ForgetRequest) -> None:
    dataset = trios.pictures()
    forget = trios.forget_of(request_)
    model = read_model(trios.put("after.pt", 0, forget, unlearned=trios.run()))
    found = list(four_sides(dataset, model))
    sides = {(side.part, side.forgotten): side.sample.indices.tolist() for side in found}
    for side in found:
        first = side.first(5)
        assert first.sample.indices.tolist() == side.sample.indices[:5].tolist()
        assert (first.part, first.forgotten) == (side.part, side.forgotten)
    split = make_split(dataset, ForgetRequest())
    assert sides["train", True] == list(forget)
    assert sorted(sides["train", True] + sides["train", False]) == split.train.tolist()
    assert sorted(sides["test", True] + sides["test", False]) == split.test.tolist()
    gone = dataset.test.labels[sides["test", True]].unique().tolist()
    assert gone == ([1] if request_.classes else [])
    assert 1 not in dataset.test.labels[sides["test", False]] or not request_.classes
