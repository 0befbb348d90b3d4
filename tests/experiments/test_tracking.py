import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from salun.cli.unlearn import log_run
from salun.experiments import tracking
from salun.experiments.record import Record
from salun.experiments.tracking import Tracker
from salun.training.progress import Epoch

KEY = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"method": "rl", "settings": {"lr": 0.1, "grad_clip": None}, "mask": None, "seed": 3}
SOON = 1.0


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of wandb in the environment, before and after; an empty home."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    home = tmp_path / "home"
    home.mkdir()
    os.environ |= {"HOME": str(home), "NETRC": str(home / ".netrc")}
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it keeps what it first read of the environment
    os.environ.clear()
    os.environ |= before


def tracker(wanted: bool = True) -> tuple[Tracker, list[str]]:
    notices: list[str] = []
    return Tracker(wanted, notices.append), notices


def dotenv(**values: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


# Reading back what the client wrote


def wandb_records(path: Path) -> Iterator[Any]:
    """Read a `.wandb` file: LevelDB's log format, behind a header of seven bytes, of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record as Written

    content, place, split = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        room = 2**15 - place % 2**15
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        split += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found = Written()
            found.ParseFromString(split)
            split = b""
            yield found


def items_of(written: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in written}


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    """Name, group, project, config, history and summary of each offline run in a folder."""
    begun = time.monotonic()
    while True:  # the client's other process may still be writing
        runs = [offline_run(path) for path in folder.glob("wandb/offline-run-*/*.wandb")]
        if all(run["finished"] for run in runs) or time.monotonic() - begun > 10:
            return runs
        time.sleep(0.05)


def offline_run(path: Path) -> dict[str, Any]:
    """What a `.wandb` file holds of its run."""
    told: dict[str, Any] = {"history": [], "summary": {}, "finished": False}
    for record in wandb_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            told |= {"name": run.display_name, "group": run.run_group, "project": run.project}
            told["config"] = items_of(run.config.update)
        elif kind == "history":
            figures = items_of(record.history.item)
            told["history"].append({key: value for key, value in figures.items() if not key.startswith("_")})
        elif kind == "summary":
            told["summary"] |= items_of(record.summary.update)
        elif kind == "exit":
            told["finished"] = True
    return told


# With the real client, offline


def record(**fields: Any) -> Record:
    known: dict[str, Any] = {
        "id": "0123456789abcdef",
        "settings": {"base": {"model": "resnet_tiny"}, "method": "rl", "settings": {"lr": 0.1}, "mask": None},
        "seed": 3,
        "tag": None,
        "metrics": {"UA": 0.75, "RA": 0.5, "TUA": None, "RTE": 1.5},
        "base_metrics": {"UA": 0.25, "RTE": None},
        "curve": [Epoch(1, 0.5, 0.25, None, 0.1, 2.0), Epoch(2, 0.125, 0.75, 0.5, 0.01, 2.0)],
        "seconds": {"mask": 0.5, "method": 1.0, "evaluation": 2.0},
        "peak_memory": 1,
        "device": "cpu: 1 thread",
        "versions": {},
        "revision": "abc",
        "split": {},
        "diverged": False,
    }
    return Record(**(known | fields))


def job(title: str = "rl", seed: int = 3) -> Any:
    return SimpleNamespace(experiment=SimpleNamespace(title=title, tag=None, number=2), seed=seed)


def test_an_offline_run_holds_config_curve_and_final_metrics(tmp_path: Path) -> None:
    os.environ["WANDB_MODE"] = "offline"
    track, notices = tracker()
    assert track.enabled
    log_run(track, "quickstart", "rl", job(), record())
    assert notices == []
    (told,) = offline_runs(tmp_path)
    assert told["project"] == "salun"
    assert told["group"].startswith("quickstart/")
    assert "rl" in told["group"]
    assert "seed 3" in told["name"]
    config = told["config"]
    assert config["base"] == {"model": "resnet_tiny"}
    assert config["settings"] == {"lr": 0.1}
    assert (config["method"], config["mask"], config["seed"], config["list"]) == ("rl", None, 3, "quickstart")
    points = [point for point in told["history"] if "epoch" in point]
    assert [(point["epoch"], point["loss"], point["lr"]) for point in points] == [(1, 0.5, 0.1), (2, 0.125, 0.01)]
    finals = {key: value for point in told["history"] for key, value in point.items()}
    assert (finals["UA"], finals["RA"], finals["RTE"], finals["base UA"]) == (0.75, 0.5, 1.5, 0.25)
    assert finals["seconds mask"] == 0.5
    assert "TUA" not in finals
    assert told["summary"]["UA"] == 0.75
    assert told["finished"]


def test_the_runs_of_an_experiment_share_a_group_and_others_do_not(tmp_path: Path) -> None:
    os.environ["WANDB_MODE"] = "offline"
    track, _ = tracker()
    for title, seed in (("rl", 3), ("rl", 4), ("ft", 3)):
        log_run(track, "list", title, job(title, seed), record(seed=seed))
    runs = {run["name"]: run["group"] for run in offline_runs(tmp_path)}
    assert len(runs) == 3
    assert runs["rl seed 3"] == runs["rl seed 4"] != runs["ft seed 3"]


def test_a_diverged_run_is_logged(tmp_path: Path) -> None:
    os.environ["WANDB_MODE"] = "offline"
    track, notices = tracker()
    curve = [Epoch(1, float("nan"), 0.1, None, 1e30, 1.0), Epoch(2, float("-inf"), 0.1, None, 1e30, 1.0)]
    log_run(track, "list", "rl", job(), record(metrics={"UA": None}, curve=curve, diverged=True))
    assert notices == []
    assert [run["finished"] for run in offline_runs(tmp_path)] == [True]


def test_an_exception_in_the_run_ends_the_log_and_goes_on_its_way(tmp_path: Path) -> None:
    os.environ["WANDB_MODE"] = "offline"
    track, _ = tracker()
    with pytest.raises(ZeroDivisionError), track.run("name", "group", CONFIG) as log:
        log({"epoch": 1 / 0})
    assert [run["finished"] for run in offline_runs(tmp_path)] == [True]
    assert track.enabled


@pytest.mark.parametrize("name", ["WANDB_SECRET", "WANDB_API_KEY"])
def test_a_key_is_found_in_dotenv_and_shown_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    dotenv(**{name: KEY, "WANDB_MODE": "offline", "WANDB_PROJECT": "mine"})
    track, notices = tracker()
    assert track.enabled
    assert os.environ["WANDB_API_KEY"] == KEY
    log_run(track, "list", "rl", job(), record())
    (told,) = offline_runs(tmp_path)
    assert told["project"] == "mine"
    assert KEY not in str(told)
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    assert notices == []
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink() and path.name != ".env"]
    assert written
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_the_environment_goes_before_dotenv() -> None:
    dotenv(WANDB_API_KEY="f" * 40)
    os.environ["WANDB_API_KEY"] = KEY
    assert tracker()[0].enabled
    assert os.environ["WANDB_API_KEY"] == KEY


# Without a key


@pytest.mark.parametrize("content", [None, "", "OTHER=1\n", "WANDB_API_KEY=\n", "WANDB_SECRET='  '\n"])
def test_without_a_key_there_is_one_notice_and_the_run_goes_on(content: str | None) -> None:
    if content is not None:
        Path(".env").write_text(content)
    track, notices = tracker()
    assert not track.enabled
    begun = time.monotonic()
    for _ in range(3):
        log_run(track, "list", "rl", job(), record())
    assert time.monotonic() - begun < SOON
    assert len(notices) == 1
    for word in ("WANDB_API_KEY", "WANDB_SECRET", ".env", "-NL"):
        assert word in notices[0]
    assert "\n" not in notices[0]
    assert not Path("wandb").exists()


@pytest.mark.parametrize("mode", [None, "offline", "online"])
@pytest.mark.parametrize("content", ["", f"WANDB_SECRET={KEY}\n"])
def test_logging_that_is_not_wanted_is_silent(mode: str | None, content: str) -> None:
    Path(".env").write_text(content)
    if mode:
        os.environ["WANDB_MODE"] = mode
    track, notices = tracker(wanted=False)
    log_run(track, "list", "rl", job(), record())
    assert (track.enabled, notices) == (False, [])
    assert not Path("wandb").exists()


@pytest.mark.parametrize("content", ["", f"WANDB_SECRET={KEY}\n"])
def test_the_mode_disabled_is_silent(content: str) -> None:
    Path(".env").write_text(f"{content}WANDB_MODE=disabled\n")
    track, notices = tracker()
    log_run(track, "list", "rl", job(), record())
    assert (track.enabled, notices) == (False, [])


def test_a_dotenv_that_is_no_text_is_told_and_harmless() -> None:
    Path(".env").write_bytes(b"WANDB_SECRET=\xff\xfe\x00\n")
    track, notices = tracker()
    log_run(track, "list", "rl", job(), record())
    assert not track.enabled
    assert len(notices) == 1
    assert ".env" in notices[0]


@pytest.mark.parametrize("keys", ["no key", "not wanted", "disabled"])
def test_the_client_is_not_imported_and_nobody_is_asked_where_nothing_is_logged(keys: str) -> None:
    code = f"""
import sys
from salun.experiments.tracking import Tracker
tracker = Tracker({keys != "not wanted"}, lambda text: print(text, file=sys.stderr))
with tracker.run("name", "group", {{}}) as log:
    log({{"epoch": 1}})
assert "wandb" not in sys.modules
"""
    if keys != "no key":
        os.environ["WANDB_API_KEY"] = KEY
    if keys == "disabled":
        os.environ["WANDB_MODE"] = "disabled"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == (1 if keys == "no key" else 0)


# When the server is out of reach


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long the client may wait in these tests."""
    monkeypatch.setattr(tracking, "PATIENCE", 1)
    return 1.0


def test_the_patience_of_a_real_run_is_short() -> None:
    assert tracking.PATIENCE <= 30


def timed_runs(track: Tracker, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        begun = time.monotonic()
        log_run(track, "list", "rl", job(), record())
        taken.append(time.monotonic() - begun)
    return taken


@pytest.mark.parametrize("server", ["refuses", "is silent"])
def test_an_unreachable_server_costs_little_once_and_nothing_later(
    hasty: float, server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if server == "is silent":
            listening.listen()
        os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{listening.getsockname()[1]}"
        dotenv(WANDB_SECRET=KEY)
        track, notices = tracker()
        first, *later = timed_runs(track, 3)
    assert first < hasty + 5
    assert max(later) < SOON / 10
    assert len(notices) == 1
    assert "not logged to Weights & Biases: " in notices[0]
    assert not track.enabled
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err + notices[0]


class Answering(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs to begin."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        entity = {"name": "me", "id": "e"}
        project = {"id": "p", "name": "salun", "entity": entity}
        bucket = {"id": "b", "name": "r", "displayName": "r", "config": "{}", "project": project, "historyLineCount": 0}
        answer = {
            "upsertBucket": {"bucket": bucket, "inserted": True},
            "viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
            "serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}},
        }
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *text: Any) -> None:
        pass


def test_a_server_that_goes_away_in_the_middle_costs_little_once_and_nothing_later(hasty: float) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}", "WANDB_API_KEY": KEY}
    track, notices = tracker()
    begun = time.monotonic()
    with track.run("name", "group", CONFIG) as log:
        log({"epoch": 1})
        server.shutdown()
        server.server_close()
        log({"epoch": 2})
    assert time.monotonic() - begun < 2 * hasty + 5
    assert max(timed_runs(track, 2)) < SOON / 10
    assert len(notices) == 1
    assert not track.enabled


@pytest.mark.parametrize("key", ["short", "a b c", "ключ"])
def test_a_key_that_is_none_costs_a_notice(hasty: float, key: str) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{refusing.getsockname()[1]}"
        dotenv(WANDB_API_KEY=f"'{key}'")
        track, notices = tracker()
        assert timed_runs(track, 2)[0] < hasty + 5
    assert len(notices) == 1
    assert key not in notices[0]


@pytest.mark.parametrize("error", [OSError("broken pipe"), RuntimeError("two\nlines"), TimeoutError(), ValueError("x")])
@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_whatever_fails_in_the_client_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    import wandb

    calls = []

    def call(name: str) -> Any:
        def made(*arguments: Any, **settings: Any) -> Any:
            calls.append(name)
            if name == place:
                raise error
            return SimpleNamespace(log=call("log"), finish=call("finish"))

        return made

    monkeypatch.setattr(wandb, "init", call("init"))
    os.environ["WANDB_API_KEY"] = KEY
    track, notices = tracker()
    for _ in range(3):
        log_run(track, "list", "rl", job(), record())
    assert calls.count(place) == 1
    assert calls.count("init") == 1
    assert len(notices) == 1
    assert "\n" not in notices[0]
    assert not track.enabled


def test_ctrl_c_while_logging_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def interrupted(**settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", interrupted)
    os.environ["WANDB_API_KEY"] = KEY
    with pytest.raises(KeyboardInterrupt):
        log_run(tracker()[0], "list", "rl", job(), record())


@pytest.mark.parametrize("name", ["WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"])
def test_the_users_own_limits_rule(name: str) -> None:
    os.environ |= {"WANDB_API_KEY": KEY, name: "77"}
    tracker()
    assert os.environ[name] == "77"


def test_a_key_in_the_words_of_a_client_is_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(WANDB_API_KEY=KEY, MY_TOKEN="another-secret")
    track, notices = tracker()

    def start(*_: Any) -> Any:
        raise ValueError(f"bad key {KEY}/another-secret")

    monkeypatch.setattr(tracking, "start", start)
    with track.run("a", "b", {}):
        pass
    assert len(notices) == 1
    assert "bad key ***/***" in notices[0]
