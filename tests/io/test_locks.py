import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from salun.errors import SalunError
from salun.io import locks as claims
from salun.io.locks import Claims, here

HOLDER = """
import sys, time
from pathlib import Path
from salun.io.locks import Claims
with Claims(Path(sys.argv[1])) as held:
    print(held.take("run"), flush=True)
    time.sleep(60)
"""
RACER = """
import os, sys, time
from pathlib import Path
from salun.io.locks import Claims
folder, log, begin = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
while time.time() < begin:
    pass
with Claims(folder) as own:
    for number in range(40):
        if own.take(f"run{number}"):
            with log.open("a") as file:
                file.write(f"{number}\\n")
    time.sleep(1.5)
"""
COUNTER = """
import sys
from pathlib import Path
from salun.io.locks import Claims
folder, file = Path(sys.argv[1]), Path(sys.argv[2])
with Claims(folder) as own:
    for _ in range(25):
        with own.holding("count"):
            file.write_text(str(int(file.read_text()) + 1))
"""


def elsewhere(folder: Path, name: str, generation: int = 1) -> Path:
    """A claim of a process on another machine."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{generation}"
    path.write_text(json.dumps({**here(), "machine": "another", "token": str(generation)}))
    return path


def test_only_one_holds_it(tmp_path: Path) -> None:
    with Claims(tmp_path / "claims") as own, Claims(tmp_path / "claims") as other:
        assert own.take("run")
        assert own.take("run")
        assert own.holds("run")
        assert not other.take("run")
        assert not other.holds("run")
        assert other.take("run.1")
        own.release("run")
        assert not own.holds("run")
        assert other.take("run")


def test_leaves_nothing_behind(tmp_path: Path) -> None:
    with Claims(tmp_path / "list" / "claims") as own:
        assert own.take("run")
        assert (tmp_path / "list").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with Claims(tmp_path / "mine" / "claims") as own:
        own.take("run")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with Claims(folder) as own:
        assert not own.take("run")
        process.kill()
        process.wait()
        assert own.take("run")
        assert own.holds("run")
    assert not folder.exists()


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    (tmp_path / "run.1").write_text(json.dumps({**here(), "started": "1", "token": "x"}))
    with Claims(tmp_path) as own:
        assert own.take("run")


def test_another_machine_s_claim_lapses_when_nobody_touches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    path = elsewhere(tmp_path, "run")
    with Claims(tmp_path, lease=60) as own:
        for _ in range(5):
            assert not own.take("run")
            now += 50
            os.utime(path, (now - 10**6, now - 10**6))  # its clock may be far from ours
        assert not own.take("run")
        now += 59
        assert not own.take("run")
        now += 2
        assert own.take("run")
        assert own.holds("run")


def test_a_torn_claim_lapses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    for number, content in enumerate(["", "{", "[]", '{"machine": 3}']):
        (tmp_path / f"run{number}.1").write_text(content)
    with Claims(tmp_path, lease=60) as own:
        assert not any(own.take(f"run{number}") for number in range(4))
        now += 61
        assert all(own.take(f"run{number}") for number in range(4))


def test_who_comes_back_late_has_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    folder = tmp_path / "claims"
    with Claims(folder, lease=60) as late, Claims(folder, lease=60) as own:
        assert late.take("run")
        assert not own.take("run")
        now += 61
        assert own.take("run")
        assert own.holds("run")
        assert not late.holds("run")
        late.release("run")
        assert own.holds("run")
        own.release("run")
        assert not list((tmp_path / "claims").iterdir())


def test_a_living_claim_is_touched(tmp_path: Path) -> None:
    with Claims(tmp_path, lease=0.3) as own, Claims(tmp_path, lease=0.3) as other:
        assert own.take("run")
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert not other.take("run")
            time.sleep(0.05)
        assert own.holds("run")


def test_a_claim_made_by_another_at_the_same_moment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two find the same claim abandoned; its maker gives it back, and a third claims anew before the second does."""
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    old = elsewhere(tmp_path, "run")
    with Claims(tmp_path, lease=60) as slow, Claims(tmp_path, lease=60) as quick:
        assert not slow.take("run")
        now += 61
        make = Claims.make

        def interrupted(own: Claims, path: Path, content: str) -> bool:
            monkeypatch.setattr(Claims, "make", make)
            old.unlink()
            assert quick.take("run")
            return make(own, path, content)

        monkeypatch.setattr(Claims, "make", interrupted)
        assert not slow.take("run")
        assert quick.holds("run")


def test_each_is_claimed_once_by_racing_processes(tmp_path: Path) -> None:
    words = [str(tmp_path / "claims"), str(tmp_path / "log"), str(time.time() + 1.5)]
    racers = [subprocess.Popen([sys.executable, "-c", RACER, *words]) for _ in range(3)]
    assert [racer.wait(60) for racer in racers] == [0, 0, 0]
    taken = Counter((tmp_path / "log").read_text().split())
    assert taken == {str(number): 1 for number in range(40)}


def test_waits_for_its_turn(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    words = [sys.executable, "-c", COUNTER, str(tmp_path / "claims"), str(tmp_path / "count")]
    assert [process.wait(60) for process in [subprocess.Popen(words) for _ in range(3)]] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "75"


def test_what_the_dead_left_can_be_swept(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    theirs = elsewhere(folder, "alive")
    (folder / "dead.3").write_text(json.dumps({**here(), "started": "1", "token": "x"}))
    with Claims(folder) as own:
        assert own.take("mine")
        own.sweep()
        assert sorted(path.name for path in folder.iterdir()) == ["alive.1", "mine.1"]
        assert own.holds("mine")
        theirs.unlink()
    assert not folder.exists()


def test_a_long_wait_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "SILENCE", 0.0)
    folder = tmp_path / "claims"
    with Claims(folder) as own, Claims(folder) as other:
        assert other.take("model.pt")
        sleep, pauses = time.sleep, 0

        def pause(seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            sleep(0.01)
            if pauses == 4:
                other.release("model.pt")

        monkeypatch.setattr(claims.time, "sleep", pause)
        with own.holding("model.pt"):
            assert own.holds("model.pt")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'model.pt'}: waiting for another process that is at work on it"
    ]


def test_whether_its_holder_lives_is_found_out_within_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds
        if touched:
            os.utime(path, (now, now))

    monkeypatch.setattr(claims.time, "sleep", pause)
    path, touched = elsewhere(tmp_path, "run"), True
    with Claims(tmp_path) as own:
        assert not own.take_unless_alive("run")
        touched = False
        assert own.take_unless_alive("run")
        assert now - 1000 < 62
        with Claims(tmp_path) as other:
            assert not other.take_unless_alive("run")
        assert now - 1000 < 62


def test_who_lost_a_claim_does_not_keep_the_next_one_alive(tmp_path: Path) -> None:
    with Claims(tmp_path, lease=0.2) as late, Claims(tmp_path, lease=0.2) as own:
        assert late.take("run")
        (tmp_path / "run.1").unlink()
        path = elsewhere(tmp_path, "run")  # of a machine that has just gone
        until = time.monotonic() + 5
        while not own.take("run") and time.monotonic() < until:
            time.sleep(0.05)
        assert own.holds("run")
        assert path.exists()


def test_a_link_to_nowhere_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "claims").symlink_to(tmp_path / "nowhere")
    with Claims(tmp_path / "claims") as own, pytest.raises(SalunError, match="claims: cannot be written: not a folder"):
        own.take("run")


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Claims(tmp_path / "file") as own, pytest.raises(SalunError, match="file: cannot be written"):
        own.take("run")
