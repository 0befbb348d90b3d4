"""A disk that is full at one of all the moments at which something is written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lists import BASE, SMALL, entries, train_small

from salun.cli.unlearn import main
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.experiments.base_training import save_with_forget
from salun.models.checkpoint import Checkpoint

RECORDS = Path("runs/list/records.jsonl")
COMMAND = [*["-L", "list.json", "--nexp", "1", "-NL", "--device", "cpu", "--keep", "all"]]


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return train_small()


@pytest.fixture(autouse=True)
def base(small: Checkpoint, alone: None) -> None:
    save_with_forget(Path(BASE), small, make_split(load(SMALL), ForgetRequest()))
    retrain = {"method": "retrain", "epochs": None}
    Path("list.json").write_text(json.dumps(entries({"metrics": ["UA", "TA", "ToW"]}, {**retrain, "metrics": ["UA"]})))


def full_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let one writing find no room; gives a function that tells how many there were."""
    fsync, steps = os.fsync, 0

    def limited(file: Any) -> None:
        nonlocal steps
        if os.path.isfile(f"/proc/self/fd/{file}"):
            steps += 1
            if steps == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", limited)
    return lambda: steps


def known() -> dict[str, list[float | None]]:
    """Figures of the recorded runs; every line of the file must be one."""
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    return {(record := json.loads(line))["id"]: list(record["metrics"].values()) for line in lines}


def leftovers() -> list[Path]:
    return [path for path in Path().rglob("*") if path.suffix == ".part" or "claims" in path.parts]


def test_finished_work_is_intact_and_the_same_command_does_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = full_at(0, monkeypatch)
    assert main(COMMAND) == 0
    wanted, steps = known(), counted()
    assert steps >= 10
    before = -1
    for step in range(1, steps + 1):
        shutil.rmtree("runs")
        shutil.rmtree("checkpoints/list")
        capsys.readouterr()
        full_at(step, monkeypatch)
        assert main(COMMAND) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be written: No space left on device" in line
        assert leftovers() == []
        left = known()
        assert left.keys() <= wanted.keys()
        assert len(left) >= before
        before = len(left)
        if len(left) < len(wanted):
            assert f"{len(left)} of 2 runs are recorded; the same command does the rest" in line
        assert main(COMMAND) == 0
        assert known() == wanted
    assert before == len(wanted)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kibibytes", [40, 400, 2900, 5600])
def test_a_disk_that_is_really_full(kibibytes: int, tmp_path: Path) -> None:
    """Of the sizes some have no room for records, some for outputs, some for weights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(disk)], check=True)
    words = [*COMMAND, "--out", str(disk / "runs")]
    weights = ["--checkpoints", str(disk / "checkpoints")]
    call = [sys.executable, "-c", "import sys; from salun.cli.unlearn import main; sys.exit(main())", *words, *weights]
    try:
        ended = subprocess.run(call, capture_output=True, text=True)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert "No space left on device" in line
        assert "the same command does the rest" in line
        records = disk / "runs/list/records.jsonl"
        left = records.read_text().splitlines() if records.exists() else []
        assert all(json.loads(one)["id"] for one in left)
        assert not [path for path in disk.rglob("*") if path.suffix == ".part"]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert subprocess.run(call, capture_output=True).returncode == 0
        assert records.read_text().splitlines()[: len(left)] == left
    finally:
        subprocess.run(["umount", str(disk)], check=True)
