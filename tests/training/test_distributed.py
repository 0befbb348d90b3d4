import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import refuses
from pictures import draw
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


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        *((name, value, "not set") for name in FIVE for value in (None, "")),
        ("RANK", "-1", "must be"), ("RANK", "4", "must be"), ("WORLD_SIZE", "two", "must be"),
        ("LOCAL_RANK", "0.5", "must be"), ("MASTER_PORT", "x", "must be"),
    ],
)  # fmt: skip
def test_what_a_launcher_leaves_out_or_gets_wrong_is_named(
    launched: Launched, name: str, value: Any, told: str
) -> None:
    launched({key: given for key, given in (FIVE | {name: value}).items() if given is not None})
    with pytest.raises(SalunError, match=f"^{name}{' ' + value if value else ''}: {told}"), joined():
        pass


def test_others_that_never_come_are_an_error(launched: Launched) -> None:
    launched(FIVE | {"MASTER_PORT": str(free_port())})
    message = r"^MASTER_ADDR 127\.0\.0\.1, MASTER_PORT \d+: process 1 of 4 met no others in 1 s$"
    with pytest.raises(SalunError, match=message), joined(timedelta(seconds=1)):
        pass


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [SINGLE_PROCESS.name_device(name) for name in ("auto", "cuda:3", "mps")] == ["auto", "cuda:3", "mps"]
    group = Group(rank=5, size=8, local=1)
    assert [group.name_device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda:1"]
    for there, name in ((True, "cuda:1"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert group.name_device("auto") == name
    for name in ("cuda:0", "mps", "tpu"):
        told = f"^--device {name}: 8 processes train together; accepted: auto, cpu, cuda$"
        refuses(told, lambda name=name: group.name_device(name))


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


@pytest.mark.slow  # 12 s
def test_two_processes_stream_a_folder_as_one_does(tmp_path: Path) -> None:
    draw(tmp_path / "pets", {"cat": 60, "dog": 60})
    argv = ["--dataset", f"folder:{tmp_path}/pets:size=32:stream", "--model", "test_vit", "--epochs", "2"]
    argv += ["--batch-size", "37", "--lr", "0.001", "--precision", "float32", "--device", "cpu", "-NL"]
    found = []
    for size in (1, 2):
        folder = folder_of(tmp_path, f"of{size}")
        assert end(start(folder, size, train, argv)) == [0] * size, (folder / "err0").read_text()
        found.append(weights_in(folder))
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=0, atol=1e-5)


@pytest.mark.slow  # 15 s
@pytest.mark.parametrize("size", [3, 5])
def test_more_processes_train_what_one_does(tmp_path: Path, size: int) -> None:
    assert_as_alone(tmp_path, size)


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["--lr", "-3"], "--lr -3.0: input should be greater than 0"),
        (["--compile"], "--compile: 2 processes train together; accepted for one alone"),
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
