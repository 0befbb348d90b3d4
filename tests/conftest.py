import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from plugins import forgotten
from problems import make_task, sets_of

from salun.data.dataset import Dataset
from salun.data.sets import Sets
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.experiments.base_training import save_with_forget, train_checkpoint
from salun.experiments.plugins import load_plugins
from salun.models.architecture import TINY
from salun.models.checkpoint import Checkpoint
from salun.training.recipe import Recipe
from salun.unlearning import Task

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=5, lr=0.1, batch_size=64, schedule="cosine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a plugin be held to the tests that every method, metric and data set must pass."""
    parser.addoption("--plugin", action="append", default=[], metavar="FILE", help="a file as salun-unlearn takes it")


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugins before the tests look at what there is."""
    if files := config.getoption("--plugin"):
        try:
            load_plugins(map(Path, files))
        except SalunError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs fails after five minutes; one marked as slow, after an hour."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(autouse=True, scope="session")
def signals() -> None:
    """Take signals as a terminal gives them: `nohup` ignores hang-ups, and a shell's background Ctrl-C."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every test in an empty folder, without keys, cache or earlier plugins, with one thread and proxies anew."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_SECRET", "WANDB_MODE", "SALUN_MEMORY_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request._opener", None)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    with forgotten():
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The bundled digits."""
    return load("digits")


@pytest.fixture(scope="session")
def trained(digits: Dataset) -> Checkpoint:
    """A small ResNet trained on digits: shared, so it must not be changed."""
    torch.set_num_threads(1)
    return train_checkpoint(TINY, digits, make_split(digits, ForgetRequest()), RECIPE, CPU)[0]


@pytest.fixture(scope="session")
def sets(digits: Dataset) -> Sets:
    """The digits, of which the zeros are to be forgotten: shared, so they must not be changed."""
    return sets_of(digits, ForgetRequest(classes=(0,)))


@pytest.fixture
def task(sets: Sets, trained: Checkpoint) -> Task:
    """The task of forgetting the zeros."""
    return make_task(trained, sets)


@pytest.fixture(scope="session")
def trained_file(tmp_path_factory: pytest.TempPathFactory, digits: Dataset, trained: Checkpoint) -> Path:
    """The same model as a file, with its forget file beside it: shared, so it must not be changed."""
    path = tmp_path_factory.mktemp("trained") / "resnet_tiny_digits_base.pt"
    save_with_forget(path, trained, make_split(digits, ForgetRequest()))
    return path


@pytest.fixture
def base_file(trained_file: Path, tmp_path: Path) -> Path:
    """A copy of the trained model at `checkpoints/resnet_tiny_digits_base.pt` in the test's folder."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for file in trained_file.parent.iterdir():
        shutil.copy(file, folder / file.name)
    return folder / trained_file.name
