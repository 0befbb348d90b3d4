import subprocess
import sys
from collections import Counter
from pathlib import Path
from subprocess import PIPE

import pytest

from salun.errors import SalunError
from salun.io.locks import Locks

HOLDER = """
import sys, time
from pathlib import Path
from salun.io.locks import Locks
with Locks(Path(sys.argv[1])) as held:
    print(held.take("run"), flush=True)
    time.sleep(60)
"""
RACER = """
import sys
from pathlib import Path
from salun.io.locks import Locks
with Locks(Path(sys.argv[1])) as own:
    print("ready", flush=True)
    sys.stdin.readline()
    print(*(number for number in range(40) if own.take(f"run{number}")), flush=True)
    sys.stdin.readline()
"""
COUNTER = """
import sys
from pathlib import Path
from salun.io.locks import Locks
folder, file = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(25):
    with Locks(folder) as own, own.holding("count"):
        file.write_text(str(int(file.read_text()) + 1))
"""


def test_only_one_holds_it(tmp_path: Path) -> None:
    with Locks(tmp_path / "locks") as own, Locks(tmp_path / "locks") as other:
        assert own.take("run")
        assert own.take("run")
        assert not other.take("run")
        assert other.take("run.1")
        own.release("run")
        assert other.take("run")
        assert not own.take("run")


def test_leaves_nothing_behind(tmp_path: Path) -> None:
    with Locks(tmp_path / "list" / "locks") as own:
        assert own.take("run")
        assert (tmp_path / "list").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with Locks(tmp_path / "mine" / "locks") as own:
        own.take("run")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with Locks(folder) as own:
        assert not own.take("run")
        process.kill()
        process.wait()
        assert own.take("run")
    assert not folder.exists()


def test_of_many_processes_each_lock_is_held_by_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path / "locks")]
    racers = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) for _ in range(4)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for racer in racers:
        racer.stdin.write("go\n")
    held = [number for racer in racers for number in racer.stdout.readline().split()]
    assert Counter(held) == {str(number): 1 for number in range(40)}
    for racer in racers:
        racer.communicate("end\n")
    assert [racer.returncode for racer in racers] == [0] * 4


def test_who_waits_has_it_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "locks"), str(file)]
    counters = [subprocess.Popen(command) for _ in range(4)]
    assert [counter.wait() for counter in counters] == [0] * 4
    assert file.read_text() == "100"
    assert not (tmp_path / "locks").exists()


def test_a_long_wait_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 1
        if now == 10:
            holder.release("run")

    monkeypatch.setattr("salun.io.locks.time.monotonic", lambda: now)
    monkeypatch.setattr("salun.io.locks.time.sleep", sleep)
    with Locks(tmp_path / "locks") as holder, Locks(tmp_path / "locks") as waiting:
        holder.take("run")
        with waiting.holding("run"):
            pass
    told = f"{tmp_path / 'run'}: waiting for another process that is at work on it"
    assert [line.getMessage() for line in caplog.records] == [told]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Locks(tmp_path / "file" / "locks") as own, pytest.raises(SalunError, match=r"cannot be written: Not a dir"):
        own.take("run")
