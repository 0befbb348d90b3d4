import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from processes import end, fit_in_double, free_port, start, train

from salun.errors import SalunError
from salun.models.checkpoint import load_checkpoint
from salun.training.distributed import SINGLE_PROCESS, Group, joined

FIVE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SMALL = ["--dataset", "synthetic:n=300,size=16,classes=4", "--model", "resnet_tiny", "--batch-size", "37"]
PLAIN = [*SMALL, "--precision", "float32", "--device", "cpu", "-NL"]
GONE = r"salun-train: process \d lost the others that it trained with; start all again\n"


def checkpoint_in(folder: Path) -> Path:
    return next(folder.glob("checkpoints/*.pt"))


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint_in(folder)).weights


def folder_of(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def trained(folder: Path, size: int, argv: list[str]) -> Path:
    """Train in so many processes to the end; only the first may say anything, of errors only where it goes on."""
    assert end(start(folder, size, train, argv)) == [0] * size
    said = [(folder / f"{stream}{rank}").read_text() for rank in range(size) for stream in ("out", "err")]
    said[1] = re.sub(r".*: going on in epoch \d+\n", "", said[1])
    assert [bool(text) for text in said] == [True] + [False] * (2 * size - 1)
    return folder


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Set what a launcher sets."""

    def launched(given: dict[str, str]) -> None:
        for name in FIVE:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return launched


Launched = Callable[[dict[str, str]], None]


@pytest.mark.parametrize(
    "given", [{"MASTER_ADDR": "here", "MASTER_PORT": "1"}, FIVE | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}]
)
def test_one_process_joins_nobody(launched: Launched, given: dict[str, str]) -> None:
    launched(given)
    with joined() as group:
        group.begin(torch.device("cpu"))
        assert (group.rank, group.size, group.leads) == (0, 1, True)
        assert group.in_turn(lambda: 3, "any") == 3
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("name", FIVE)
def test_what_a_launcher_leaves_out_is_named(launched: Launched, name: str) -> None:
    for given in ({key: value for key, value in FIVE.items() if key != name}, FIVE | {name: ""}):
        launched(given)
        with pytest.raises(SalunError, match=f"^{name}: not set"), joined():
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "-1"), ("RANK", "4"), ("WORLD_SIZE", "two"), ("LOCAL_RANK", "0.5"), ("MASTER_PORT", "x")],
)
def test_what_is_no_such_number_is_named(launched: Launched, name: str, value: str) -> None:
    launched(FIVE | {name: value})
    with pytest.raises(SalunError, match=f"^{name} {value}: must be"), joined():
        pass


def test_others_that_never_come_are_an_error(launched: Launched) -> None:
    launched(FIVE | {"MASTER_PORT": str(free_port())})
    message = r"^MASTER_ADDR 127\.0\.0\.1, MASTER_PORT \d+: process 1 of 4 met no others in 1 s$"
    with pytest.raises(SalunError, match=message), joined(timedelta(seconds=1)):
        pass


class TestDevice:
    def test_of_one_process_is_the_users(self) -> None:
        assert [SINGLE_PROCESS.name_device(name) for name in ("auto", "cuda:3", "mps")] == ["auto", "cuda:3", "mps"]

    def test_of_several_is_each_ones_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        group = Group(rank=5, size=8, local=1)
        assert [group.name_device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda:1"]
        for there, name in ((True, "cuda:1"), (False, "cpu")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
            assert group.name_device("auto") == name

    @pytest.mark.parametrize("name", ["cuda:0", "mps", "tpu"])
    def test_one_for_all_is_refused(self, name: str) -> None:
        with pytest.raises(
            SalunError, match=f"^--device {name}: 8 processes train together; accepted: auto, cpu, cuda$"
        ):
            Group(rank=5, size=8).name_device(name)


def assert_as_alone(folder: Path, size: int) -> None:
    """Where the model computes in float64, only the float32 of the loss keeps the figures apart."""
    assert end(start(folder, size, fit_in_double, folder / "of")) == [0] * size, (folder / "err0").read_text()
    assert fit_in_double(folder / "alone") == 0
    weights, curve = torch.load(folder / "alone0")
    for rank in range(size):
        own_weights, own_curve = torch.load(folder / f"of{rank}")
        assert list(own_weights) == list(weights)
        for name in weights:
            torch.testing.assert_close(own_weights[name], weights[name], rtol=0, atol=2e-5)
        for point, expected in zip(own_curve, curve, strict=True):
            for figure in ("loss", "accuracy", "validation", "lr"):
                assert point[figure] == pytest.approx(expected[figure], rel=1e-5)


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    assert_as_alone(tmp_path, 2)


@pytest.mark.slow  # 15 s
@pytest.mark.parametrize("size", [3, 5])
def test_more_processes_train_what_one_does(tmp_path: Path, size: int) -> None:
    assert_as_alone(tmp_path, size)


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["--lr", "-3"], "--lr -3.0: input should be greater than 0"),
        (["--compile"], "--compile: 2 processes train together; accepted for one alone"),
        (["--device", "cuda:0"], "--device cuda:0: 2 processes train together; accepted: auto, cpu, cuda"),
        (["--unlr", "0.996"], "2 processes for 1 training images: one would hold none; start fewer"),
    ],
)
def test_a_fault_of_all_is_told_once(tmp_path: Path, argv: list[str], fault: str) -> None:
    assert end(start(tmp_path, 2, train, [*PLAIN, *argv])) == [2, 2]
    assert sorted((tmp_path / f"err{rank}").read_text() for rank in (0, 1)) == ["", f"salun-train: {fault}\n"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow  # 40 s
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(tmp_path: Path, victim: int) -> None:
    argv = [*PLAIN, "--epochs", "6", "--save-every", "0.0001"]
    whole, folder = trained(folder_of(tmp_path, "whole"), 2, argv), folder_of(tmp_path, "killed")
    processes = start(folder, 2, train, argv)
    for _ in range(600):
        if (folder / "out0").exists() and "epoch 2/" in (folder / "out0").read_text():
            break
        time.sleep(0.05)
    processes[victim].kill()
    assert end(processes, 20) == [-9 if rank == victim else 2 for rank in (0, 1)]
    said = (folder / f"err{1 - victim}").read_text()
    assert re.fullmatch(GONE, "".join(line for line in said.splitlines(True) if line.startswith("salun")))
    assert list(folder.glob("checkpoints/states/*.pt"))
    assert not list(folder.glob("checkpoints/*.pt"))
    shutil.copytree(folder, tmp_path / "alone")
    trained(folder, 2, argv)
    assert "epoch 1/" not in (folder / "out0").read_text()
    expected = weights_in(whole)
    assert all(torch.equal(found, expected[name]) for name, found in weights_in(folder).items())
    assert not (folder / "checkpoints" / "states").exists()
    one = trained(tmp_path / "alone", 1, argv)
    assert "epoch 1/" not in (one / "out0").read_text()


@pytest.mark.slow  # 20 s
def test_torchrun_starts_it(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "--master-port", str(free_port())]
    script = Path(sys.executable).with_name("salun-train")
    done = subprocess.run(
        [*command, str(script), *PLAIN, "--epochs", "1"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch 1:") == 1
    assert done.stderr == ""
    assert weights_in(tmp_path)
