import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from records import make
from wandb_ends import Answering, offline_runs

from salun.experiments.tracking import Tracker, log_run
from salun.training.progress import Epoch

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    """No setting of wandb in the environment, before and after; an empty home."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")}
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it keeps what it first read of the environment
    os.environ.clear()
    os.environ |= before


def tracker(wanted: bool = True, patience: int = 20, **environment: str) -> tuple[Tracker, list[str]]:
    os.environ |= environment
    notices: list[str] = []
    return Tracker(wanted, notices.append, patience), notices


def log_one(track: Tracker, title: str = "rl", **fields: Any) -> float:
    """Log a made-up run; gives the seconds it took."""
    begun = time.monotonic()
    run = make(**({"seed": 3, "metrics": {"UA": 0.75, "TUA": None, "RTE": 1.5}, "base_metrics": {"UA": 0.25}} | fields))
    log_run(track, "quickstart", title, run)
    return time.monotonic() - begun


def test_an_offline_run_holds_config_curve_and_final_metrics(tmp_path: Path) -> None:
    track, notices = tracker(WANDB_MODE="offline")
    log_one(track)
    (found,) = offline_runs(tmp_path)
    assert (track.enabled, notices, found["finished"]) == (True, [], True)
    assert (found["project"], found["group"], found["name"]) == ("salun", "quickstart/rl", "rl seed 3")
    config = found["config"]
    assert (config["settings"], config["base"]["model"]) == ({"lr": 0.1}, "resnet_tiny")
    assert (config["method"], config["mask"], config["seed"], config["list"]) == ("rl", None, 3, "quickstart")
    points = [point for point in found["history"] if "epoch" in point]
    assert [(point["epoch"], point["loss"], point["lr"]) for point in points] == [(1, 0.5, 0.1), (2, 0.25, 0.01)]
    finals = {key: value for point in found["history"] for key, value in point.items()}
    assert (finals["UA"], finals["RTE"], finals["base UA"], finals["seconds method"]) == (0.75, 1.5, 0.25, 1.5)
    assert "TUA" not in finals
    assert found["summary"]["UA"] == 0.75


def test_each_experiment_has_a_group_and_diverged_and_broken_runs_end_too(tmp_path: Path) -> None:
    track, notices = tracker(WANDB_MODE="offline")
    log_one(track, curve=[Epoch(1, float("nan"), 0.1, None, 1e30, 1.0)], metrics={"UA": None}, diverged=True)
    log_one(track, seed=4)
    with pytest.raises(ZeroDivisionError), track.run("broken", "quickstart/ft", {}) as log:
        log({"epoch": 1 / 0})
    groups = {run["name"]: run["group"] for run in offline_runs(tmp_path)}
    assert groups["rl seed 3"] == groups["rl seed 4"] != groups["broken"]
    assert [run["finished"] for run in offline_runs(tmp_path)] == [True] * 3
    assert (track.enabled, notices) == (True, [])


@pytest.mark.parametrize("name", ["WANDB_SECRET", "WANDB_API_KEY"])
def test_a_key_is_found_in_dotenv_and_shown_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    Path(".env").write_text(f"{name}={KEY}\nWANDB_MODE=offline\nWANDB_PROJECT=mine\n")
    track, notices = tracker()
    log_one(track)
    (found,) = offline_runs(tmp_path)
    assert (os.environ["WANDB_API_KEY"], found["project"], notices) == (KEY, "mine", [])
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink() and path.name != ".env"]
    assert written
    assert KEY not in "".join([*capfd.readouterr(), str(found)])
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


KEYLESS = [b"", b"OTHER=1\n", b"WANDB_API_KEY=\n", b"WANDB_SECRET='  '\n", b"A=\xff\xfe\n"]
UNWANTED = [b"", b"WANDB_API_KEY=key\n", b"WANDB_MODE=offline\n"]
DISABLED = [b"WANDB_MODE=disabled\n", b"WANDB_API_KEY=key\nWANDB_MODE=disabled\n"]


def test_without_a_key_or_where_it_is_not_wanted_nothing_is_logged() -> None:
    cases = [(content, True) for content in KEYLESS + DISABLED] + [(content, False) for content in UNWANTED]
    code = f"""
import json, os, pathlib, sys
from salun.experiments.tracking import Tracker
before, told = dict(os.environ), []
for content, wanted in {cases}:
    pathlib.Path(".env").write_bytes(content)
    told.append([])
    tracker = Tracker(wanted, told[-1].append)
    for _ in range(2):
        with tracker.run("name", "group", {{}}) as log:
            log({{"epoch": 1}})
    assert "wandb" not in sys.modules and not tracker.enabled
    os.environ.clear()
    os.environ.update(before)
print(json.dumps(told))
"""
    run = [sys.executable, "-c", code]
    ended = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = json.loads(ended.stdout)
    assert [len(lines) for lines in told] == [1] * len(KEYLESS) + [0] * len(UNWANTED + DISABLED)
    for content, (line,) in zip(KEYLESS, told, strict=False):
        words = (".env",) if b"\xff" in content else ("WANDB_API_KEY", "WANDB_SECRET", ".env", "-NL")
        assert all(word in line for word in words)
    assert not Path("wandb").exists()


@pytest.mark.parametrize("name", ["WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"])
def test_the_users_environment_goes_first(name: str) -> None:
    Path(".env").write_text("WANDB_API_KEY=" + "f" * 40)
    assert tracker(WANDB_API_KEY=KEY, **{name: "77"})[0].enabled
    assert (os.environ["WANDB_API_KEY"], os.environ[name]) == (KEY, "77")
    assert int(os.environ["WANDB_LOGIN_TIMEOUT"]) <= 30


@pytest.mark.parametrize(
    ("server", "key"), [("refuses", KEY), ("is silent", KEY), ("refuses", "a b cde"), ("refuses", "ключик")]
)
def test_an_unreachable_server_costs_little_once_and_nothing_later(
    server: str, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if server == "is silent":
            listening.listen()
        Path(".env").write_text(f"WANDB_SECRET='{key}'")
        track, notices = tracker(patience=1, WANDB_BASE_URL=f"http://127.0.0.1:{listening.getsockname()[1]}")
        first, *later = [log_one(track) for _ in range(3)]
    assert first < 6
    assert max(later) < 0.1
    assert [line.startswith("not logged to Weights & Biases: ") for line in notices] == [True]
    assert not track.enabled
    assert key not in "".join([*capfd.readouterr(), *notices])


def test_a_server_that_goes_away_costs_little_once() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    track, notices = tracker(
        patience=1, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_address[1]}", WANDB_API_KEY=KEY
    )
    begun = time.monotonic()
    with track.run("name", "group", {}) as log:
        log({"epoch": 1})
        server.shutdown()
        server.server_close()
        log({"epoch": 2})
    assert time.monotonic() - begun < 7
    assert log_one(track) < 0.1
    assert (len(notices), track.enabled) == (1, False)


@pytest.mark.parametrize("error", [OSError("broken pipe"), RuntimeError(f"bad {KEY}/a-secret\nb"), TimeoutError()])
@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_whatever_fails_in_the_client_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    calls = []

    def call(name: str) -> Any:
        def answer(*arguments: Any, **settings: Any) -> Any:
            calls.append(name)
            if name == place:
                raise error
            return SimpleNamespace(log=call("log"), finish=call("finish"))

        return answer

    monkeypatch.setattr("wandb.init", call("init"))
    track, (*notices,) = tracker(WANDB_API_KEY=KEY, MY_TOKEN="a-secret")
    track.notice = notices.append
    for _ in range(3):
        log_one(track)
    assert (calls.count(place), calls.count("init"), track.enabled) == (1, 1, False)
    (line,) = notices
    assert "\n" not in line
    assert "RuntimeError" not in repr(error) or line.endswith("bad ***/***")


def test_ctrl_c_while_logging_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("wandb.init", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log_one(tracker(WANDB_API_KEY=KEY)[0])
