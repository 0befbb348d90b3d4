import contextlib
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import UNLEARN, running, until
from plugins import forgotten

from salun.cli.unlearn import main
from salun.latent.extraction import ENDINGS
from salun.models.checkpoint import load_checkpoint

OUTS = ("beside", "undisturbed")
PLUGIN = '''
import os
import signal
import time
from pathlib import Path

import torch.nn.functional as F

from salun.errors import SalunError
from salun.unlearning import Task, method

HERE = Path(__file__).parent
with (HERE / "pids").open("a") as file:
    print(os.getpid(), file=file, flush=True)


def struck(name: str) -> bool:
    """Tell, once, whether there is such a file."""
    found = (HERE / name).exists()
    (HERE / name).unlink(missing_ok=True)
    return found


def ascend(task: Task) -> None:
    """Forget, a little."""
    ascent = lambda logits, batch: -F.cross_entropy(logits, batch.y)
    task.fit(lambda epoch: task.forget.batches(64, task.generator), epochs=1, lr=1e-3, loss=ascent)


@method()
def raising(task: Task) -> None:
    """Raise, where there is a file that asks for it."""
    if struck("raise"):
        raise ValueError("first line\\nsecond line")
    ascend(task)


@method()
def refusing(task: Task) -> None:
    """Refuse, likewise."""
    if struck("refuse"):
        raise SalunError("refusing: will not")
    ascend(task)


@method()
def dying(task: Task) -> None:
    """End the process, likewise."""
    if struck("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    ascend(task)


@method()
def waiting(task: Task) -> None:
    """Wait as long as there is a file that asks for it."""
    while (HERE / "wait").exists():
        time.sleep(0.02)
    ascend(task)
'''
COMMON = {
    "model": "resnet_tiny",
    "dataset": "digits",
    "recipe": {"epochs": 1, "lr": 0.1, "batch_size": 64},
    "class_to_forget": 1,
    "metrics": ["UA", "TA", "MIA", "ToW"],
}
ENTRIES: list[dict[str, Any]] = [
    {"method": "retrain"},
    {"method": "rl", "epochs": 1, "use_mask": True},
    {"method": "rl", "epochs": 1, "use_mask": True, "tag": "the same"},
    {"method": "raising"},
    {"method": "waiting"},
    {"method": "refusing"},
    {"method": "dying"},
]


class Story(NamedTuple):
    """What a list went through."""

    folder: Path
    first: str  # standard error of the command that was killed
    ended: tuple[bool, bool]  # whether workers that were interrupted went on, and ended with their parent
    second: tuple[int, str]  # status and standard error of the command that did the rest but for two runs
    third: tuple[int, str]  # status and standard output of the command without workers that did those


def arguments(folder: Path, out: str = "beside") -> list[str]:
    places = ["--out", str(folder / out), "--checkpoints", str(folder / out / "checkpoints"), "--keep", "all"]
    flags = ["--plugin", str(folder / "trouble.py"), "--nexp", "2", "-NL", *places]
    return ["-L", str(folder / "list.json"), *flags]


def records(folder: Path, out: str = "beside") -> list[dict[str, Any]]:
    path = folder / out / "list" / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def workers(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()][1:]


def interrupted_and_killed(folder: Path) -> tuple[str, tuple[bool, bool]]:
    """Run the real command until all that is under way waits; interrupt its workers, and kill it."""
    for name in ("raise", "wait"):
        (folder / name).touch()
    with (folder / "err").open("w") as err:
        command = [UNLEARN, *arguments(folder), "--parallel", "2"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=err)
    try:
        assert until(lambda: len({record["id"] for record in records(folder)}) == 5 or process.poll() is not None)
        busy = running(workers(folder))
        for pid in busy:
            os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        unmoved = running(busy) == busy != [] and process.poll() is None
    finally:
        process.kill()
        process.wait()
    return (folder / "err").read_text(), (unmoved, until(lambda: not running(workers(folder))))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A list that is done side by side, whatever happens, in three commands, and undisturbed in one."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "trouble.py").write_text(PLUGIN)
    (folder / "list.json").write_text(json.dumps([COMMON | entry for entry in ENTRIES]))
    first, ended = interrupted_and_killed(folder)
    (folder / "wait").unlink()
    for name in ("refuse", "die"):
        (folder / name).touch()
    with forgotten():
        second, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(second), contextlib.redirect_stderr(err):
            status = main([*arguments(folder), "--parallel", "2"])
        third = io.StringIO()
        with contextlib.redirect_stdout(third):
            done = main(arguments(folder))
            assert main(arguments(folder, "undisturbed")) == 0
    return Story(folder, first, ended, (status, err.getvalue()), (done, third.getvalue()))


@pytest.mark.slow
def test_a_run_that_fails_is_one_line_and_ends_no_other(story: Story) -> None:
    again = "; the same command does it again"
    (raised,) = story.first.splitlines()
    assert raised.startswith("salun-unlearn: raising, seed 0: ValueError: first line second line (")
    assert raised.endswith(f"trouble.py, line 34){again}")
    status, err = story.second
    assert status == 3
    assert err.splitlines()[:2] == [
        f"salun-unlearn: refusing, seed 0: refusing: will not{again}",
        f"salun-unlearn: dying, seed 0: its process was killed by SIGKILL{again}",
    ]
    assert "Traceback" not in story.first + err


@pytest.mark.slow
def test_workers_leave_interrupts_to_their_parent_and_end_with_it_and_the_same_command_goes_on(story: Story) -> None:
    assert story.ended == (True, True)
    assert story.third[0] == 0
    assert "12 runs, 10 of them finished before" in story.third[1]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is another each time, or where the code is edited meanwhile."""
    own = ("seconds", "peak_memory", "finished", "device", "revision")
    kept = {key: value for key, value in record.items() if key not in own}
    curve = [{key: value for key, value in point.items() if "seconds" not in key} for point in record["curve"]]
    return kept | {"curve": curve}


@pytest.mark.slow
def test_records_and_weights_are_those_of_runs_in_turn(story: Story) -> None:
    beside, alone = ({record["id"]: plain(record) for record in records(story.folder, out)} for out in OUTS)
    assert len(alone) == 12
    assert beside == alone
    told = {record["device"] for record in records(story.folder)}
    assert told == {"cpu: 1 thread, 2 side by side", "cpu: 1 thread"}
    folders = [story.folder / out / "checkpoints" for out in OUTS]
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in ENDINGS} for folder in folders
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 13
    for name in names[0]:
        pair = [load_checkpoint(folder / name) for folder in folders]
        assert pair[0].fingerprint == pair[1].fingerprint
        assert pair[0].config == pair[1].config
