import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import UNLEARN, running, until

from salun.cli.unlearn import main

Refuse = Callable[[Callable[[list[str]], int], list[str]], list[str]]

ONE = ["--model", "resnet_tiny", "--dataset", "digits", "-CF", "0", "-NL"]
LIST: list[dict[str, Any]] = [
    {
        "model": "resnet_tiny",
        "dataset": "synthetic:n=90,size=8,classes=4",
        "recipe": {"epochs": 1, "batch_size": 32},
        "class_to_forget": 0,
        "method": "waiting",
    }
]
PLUGIN = '''
import os
import time
from pathlib import Path

from salun.unlearning import Task, method

HERE = Path("{here}")


@method()
def waiting(task: Task) -> None:
    """Wait as long as there is a file that asks for it."""
    (HERE / f"pid{os.getpid()}").touch()
    while (HERE / "wait").exists():
        time.sleep(0.02)
'''


def test_without_the_package_the_way_to_it_is_told(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salun.cli.experiments.util.find_spec", lambda name: None)
    told = "salun-unlearn: --ray: Ray is not installed here; pip install 'salun[ray]' does that"
    assert refuse(main, [*ONE, "--ray"]) == [told]


@pytest.mark.slow
def test_workers_end_with_the_command_however_it_ends_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Interrupted as by Ctrl-C, then killed, each while two runs wait, then left alone: one to two minutes."""
    (tmp_path / "plugin.py").write_text(PLUGIN.replace("{here}", str(tmp_path)))
    (tmp_path / "list.json").write_text(json.dumps(LIST))
    flags = ["-L", "list.json", "--nexp", "3", "-NL", "--plugin", "plugin.py", "--ray", "local", "--jobs", "2"]
    told = []
    for blow in (signal.SIGINT, signal.SIGKILL):
        (tmp_path / "wait").touch()
        command = [UNLEARN, *flags]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes)
        try:
            assert until(lambda: len(list(tmp_path.glob("pid*"))) == 2)
            workers = [int(path.name.removeprefix("pid")) for path in tmp_path.glob("pid*")]
            assert running(workers) == workers
            if blow == signal.SIGINT:
                os.killpg(process.pid, blow)
            else:
                process.kill()
            told.append((process.communicate(timeout=60)[0], process.returncode))
        finally:
            process.kill()
            (tmp_path / "wait").unlink()
        assert until(lambda pids=workers: not running(pids), 30)
        for path in tmp_path.glob("pid*"):
            path.unlink()
    assert [status for _, status in told] == [130, -signal.SIGKILL]
    assert told[0][0].splitlines()[-1].startswith("salun-unlearn: interrupted: 0 of 3 runs are recorded")
    assert "Traceback" not in "".join(text for text, _ in told)
    ended = subprocess.run([UNLEARN, *flags], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len((tmp_path / "runs/list/records.jsonl").read_text().splitlines()) == 3
