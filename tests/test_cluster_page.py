import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs/cluster.md").read_text()
STANDINS = {
    "scontrol": "echo here\necho here-too",
    "srun": 'while [ "$1" != -w ]; do shift; done\nshift 2\nexec "$@"',
}
LIST: list[dict[str, Any]] = [
    {
        "model": "resnet_tiny",
        "dataset": "synthetic:n=90,size=8,classes=4",
        "recipe": {"epochs": 1, "batch_size": 32},
        "class_to_forget": 0,
        "method": "ft",
        "epochs": 1,
    }
]


@pytest.mark.slow
def test_the_lines_for_slurm_start_two_nodes_and_leave_nothing_behind(tmp_path: Path) -> None:
    """The page's own script, with stand-ins that do everything on this machine: a minute."""
    (script,) = (code for code in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if code.startswith("#!"))
    for name, lines in STANDINS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{lines}\n")
        path.chmod(0o755)
    (tmp_path / "list.json").write_text(json.dumps(LIST))
    last = "salun-unlearn -L list.json --nexp 10"
    assert script.count(last) == 1
    nodes = "import ray, time; ray.init(); time.sleep(15); print(sum(node['Alive'] for node in ray.nodes()), 'nodes')"
    count = f'RAY_ADDRESS="$address" python -c "{nodes}"\n'
    mark = uuid.uuid4().hex
    variables = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "here,here-too",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "1",
        "SALUN_TEST": mark,
    }
    line = ["bash", "-c", script.replace(last, f"{count}{last} -NL")]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(line, cwd=tmp_path, env=variables, stdout=out, stderr=err, start_new_session=True)
        try:
            process.wait(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said, wrong = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert process.returncode == 0, wrong
    assert "2 nodes" in said
    assert "[10/10] ft" in said
    assert len((tmp_path / "runs/list/records.jsonl").read_text().splitlines()) == 10
    assert "Traceback" not in wrong
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if is_marked(path, mark)]
    assert not left


def is_marked(path: Path, mark: str) -> bool:
    """Whether a process has a mark in its environment."""
    try:
        return mark.encode() in path.read_bytes()
    except OSError:
        return False
