import io
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from equality import same
from hostile import refuses
from pictures import draw
from torch import nn

from salun.data.dataset import Dataset
from salun.data.decode import decoded
from salun.data.sets import Sets, make_sets, prepare
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.models.checkpoint import load_checkpoint
from salun.training.cost import PassCounter
from salun.training.loop import train
from salun.training.progress import Callback, Epoch, Progress, no_callback
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime
from salun.training.state import STATES, StateFile, StateWriter, forget_state

CPU = torch.device("cpu")
BATCH = 48
IMAGES = 300
STEPS = -(-IMAGES // BATCH)


class KilledError(Exception):
    """Stands for the end of the process."""


class Shaky(nn.Module):
    """A model with dropout, whose chances are the global generator's."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        layers = nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
        self.inner, self.dropout = nn.Sequential(*layers), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.dropout(x))


@pytest.fixture
def place(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state.pt", 0.0)


SHORT = Recipe(epochs=1, lr=0.05, batch_size=BATCH)


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    parts = make_split(digits, ForgetRequest())
    made = make_sets(digits, parts, replace(prepare(digits, parts), padding=1, flip=True), CPU)
    return replace(made, train=made.train.take(torch.arange(IMAGES)), validation=made.validation.take(torch.arange(80)))


def killed_after(step: int) -> Callback:
    taken = 0

    def callback(progress: Progress) -> None:
        nonlocal taken
        taken += progress.done is None
        if taken > step:
            raise KilledError

    return callback


Figures = tuple[dict[str, torch.Tensor], list[Epoch], dict[str, object], dict[str, int]]


def go(sets: Sets, recipe: Recipe, place: StateFile | None, callback: Callback = no_callback) -> Figures:
    torch.manual_seed(7)
    model, generator, passes = Shaky(sets.train.pixels.shape[1]), torch.Generator().manual_seed(3), PassCounter()
    writer = StateWriter(place, "the same", generator) if place else None
    with passes.counting(model):
        runtime = Runtime(callback=callback, passes=passes, state=writer)
        curve, optimizer = train(model, sets.train, sets.validation, recipe, generator, runtime)
    torch.rand(1)
    timeless = [replace(point, seconds=0.0, evaluation_seconds=0.0) for point in curve]
    return dict(model.state_dict()), timeless, optimizer, passes.counts


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ({"schedule": "cosine"}, [1]),
        ({"schedule": "multistep", "optimizer": "adam"}, [STEPS + 2, STEPS + 3, 2 * STEPS]),
        ({"schedule": "plateau", "optimizer": "adamw", "lr": 0.003}, [STEPS, 2 * STEPS + 1]),
        ({"schedule": "constant", "patience": 1}, [STEPS - 1, STEPS + 1]),
    ],
    ids=lambda value: str(value),
)
def test_goes_on_bit_for_bit(kind: dict[str, object], kills: list[int], sets: Sets, place: StateFile) -> None:
    recipe = Recipe(**{"epochs": 3, "lr": 0.05, "batch_size": BATCH, **kind})
    whole, chance = go(sets, recipe, None), torch.get_rng_state()
    before = 0
    for kill in kills:
        with pytest.raises(KilledError):
            go(sets, recipe, place, killed_after(kill - before))
        before = kill
    assert same(go(sets, recipe, place), whole)
    assert torch.equal(torch.get_rng_state(), chance)


def test_state_that_is_some_steps_old(sets: Sets, place: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=BATCH)
    whole = go(sets, recipe, None)
    calls: list[bool] = []
    monkeypatch.setattr(StateWriter, "is_due", lambda _: calls.append(True) or len(calls) == 4)
    with pytest.raises(KilledError):
        go(sets, recipe, place, killed_after(STEPS + 3))
    steps: list[int] = []
    found = go(sets, recipe, place, lambda step: steps.append(step.images))
    assert same(found, whole)
    assert steps[0] == 5 * BATCH


def test_decodes_only_what_is_left_of_an_epoch(
    tmp_path: Path, place: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "pets", {"ant": 100, "bee": 100})
    pets = load(f"folder:{tmp_path}/pets:size=8:stream")
    parts = make_split(pets, ForgetRequest())
    sets = make_sets(pets, parts, replace(prepare(pets, parts), flip=True), CPU)
    images = len(sets.train)
    whole = go(sets, SHORT, None)
    with pytest.raises(KilledError):
        go(sets, SHORT, place, killed_after(1))
    files: list[str] = []
    monkeypatch.setattr("salun.data.stream.decoders", lambda: 0)
    monkeypatch.setattr("salun.data.stream.decoded", lambda file: files.append(file) or decoded(file))
    assert same(go(sets, SHORT, place), whole)
    assert len(files) == images - 2 * BATCH > 0


def test_seconds_of_the_earlier_process_count(sets: Sets, place: StateFile) -> None:
    def slow(progress: Progress) -> None:
        time.sleep(0.05)
        if progress.images > 3 * BATCH:
            raise KilledError

    with pytest.raises(KilledError):
        go(sets, SHORT, place, slow)
    saving = StateWriter(place, "the same", torch.Generator().manual_seed(3))
    curve, _ = train(Shaky(), sets.train, sets.validation, SHORT, saving.generator, Runtime(state=saving))
    assert curve[0].seconds > 0.15
    assert saving.earlier > 0.15


def test_is_written_as_often_as_asked(sets: Sets, tmp_path: Path) -> None:
    go(sets, SHORT, StateFile(tmp_path / "rare" / "state.pt", 3600.0))
    go(sets, SHORT, StateFile(tmp_path / "other" / "state.pt", 0.0, mine=False))
    assert list(tmp_path.iterdir()) == []


def test_another_training_starts_anew(sets: Sets, place: StateFile, caplog: pytest.LogCaptureFixture) -> None:
    go(sets, SHORT, place)
    saving = StateWriter(place, "another", torch.Generator())
    assert saving.read() is None
    assert saving.earlier == 0
    assert "starts anew" in caplog.text


def test_damaged_state_is_named(sets: Sets, place: StateFile) -> None:
    go(sets, SHORT, place)
    whole, content = place.path.read_bytes(), torch.load(place.path, weights_only=True)
    damaged = [b"", whole[:-900], b"x" * 99]
    for lost in ("model", "optimizers", "place", "chances", "summed", "curve", "spent"):
        torch.save({key: value for key, value in content.items() if key != lost}, out := io.BytesIO())
        damaged.append(out.getvalue())
    for each in damaged:
        place.path.write_bytes(each)
        refuses(r"state\.pt: .*delete it", lambda: go(sets, SHORT, place))


def test_training_goes_on_where_the_state_has_no_room(
    sets: Sets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    found = go(sets, SHORT, StateFile(tmp_path / "file" / "state.pt", 0.0))
    assert same(found, go(sets, SHORT, None))
    assert "the training goes on" in caplog.text


def test_state_of_a_training_that_is_over_is_removed(tmp_path: Path) -> None:
    path = tmp_path / STATES / "one.pt"
    path.parent.mkdir()
    path.touch()
    path.with_name("two.pt").touch()
    forget_state(path)
    assert [left.name for left in path.parent.iterdir()] == ["two.pt"]
    forget_state(path.with_name("two.pt"))
    assert not path.parent.exists()
    forget_state(path)


@pytest.mark.slow
def test_killed_command_goes_on(tmp_path: Path) -> None:
    words = ["--dataset", "digits", "--epochs", "4", "--save-every", "0.0001", "-NL", "--device", "cpu"]
    run = [sys.executable, "-c", "import sys; from salun.cli.train import main; sys.exit(main())", *words, "--out"]
    subprocess.run([*run, "whole"], check=True, capture_output=True)
    for _ in range(2):
        process = subprocess.Popen([*run, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        state = tmp_path / "killed" / STATES / "resnet_tiny_digits_base.pt"
        seen = state.stat().st_mtime_ns if state.exists() else 0
        while not state.exists() or state.stat().st_mtime_ns == seen:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob("*.pt"))
    subprocess.run([*run, "killed"], check=True, capture_output=True)
    one, other = (load_checkpoint(tmp_path / name / "resnet_tiny_digits_base.pt") for name in ("whole", "killed"))
    assert one.fingerprint == other.fingerprint
    assert same(one.optimizer, other.optimizer)
    assert [path.name for path in sorted((tmp_path / "killed").iterdir())] == [
        "resnet_tiny_digits_base.pt",
        "resnet_tiny_digits_base_forget.json",
    ]
