from pathlib import Path

import pytest
import torch

from salun.data.dataset import Dataset
from salun.data.sources import SOURCES, class_count, load, load_sources
from salun.data.split import ForgetRequest, make_split
from salun.experiments.base_training import train_checkpoint
from salun.models.architecture import TINY
from salun.training.recipe import Recipe

load_sources()
NAMES = [name for name, source in SOURCES.items() if name == "digits" or not source.home.startswith("salun.")]


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Every data set that needs no download, and those of plugins."""
    return load(request.param, tmp_path_factory.mktemp("data"))


def test_is_as_registered(read: Dataset) -> None:
    assert len(read.classes) == len(set(read.classes)) == class_count(read.name)
    assert {part.pixels.dtype for part in (read.train, read.test)} == {torch.uint8}
    assert {part.labels.dtype for part in (read.train, read.test)} == {torch.int64}


def test_is_read_the_same_twice(read: Dataset, tmp_path: Path) -> None:
    again = load(read.name, tmp_path)
    for part, other in ((read.train, again.train), (read.test, again.test)):
        assert torch.equal(part.pixels, other.pixels)
        assert torch.equal(part.labels, other.labels)


def test_a_class_of_it_can_be_left_out(read: Dataset) -> None:
    parts = make_split(read, ForgetRequest(classes=(0,)))
    assert len(parts.forget)
    assert len(parts.forgotten_test)
    assert not (read.train.labels[parts.retain] == 0).any()
    assert not (read.test.labels[parts.test] == 0).any()


def test_a_model_learns_from_it(read: Dataset) -> None:
    recipe = Recipe(epochs=2, batch_size=64, schedule="cosine")
    _, curve = train_checkpoint(TINY, read, make_split(read, ForgetRequest()), recipe, torch.device("cpu"))
    assert curve[1].loss < curve[0].loss
