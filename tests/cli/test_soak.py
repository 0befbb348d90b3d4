"""A list under `kill -9` at random moments."""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import UNLEARN

LIST = Path(__file__).parents[2] / "exp" / "quickstart.json"
TIMES = {"seconds", "finished", "peak_memory", "digest", "revision"}
TIMED_METRICS = {"RTE"}
KILLS = 30


def command(folder: str) -> list[str]:
    out = ["--out", f"{folder}/runs", "--checkpoints", f"{folder}/checkpoints", "--save-every", "0.005"]
    return [UNLEARN, "-L", str(LIST), "--nexp", "3", "-NL", "--device", "cpu", "--metrics", "default", *out]


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if key not in TIMES}
    kept["metrics"] = {key: value for key, value in record["metrics"].items() if key not in TIMED_METRICS}
    kept["curve"] = [{key: value for key, value in point.items() if "seconds" not in key} for point in record["curve"]]
    return kept


def lines_of(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "runs/quickstart/records.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_records_are_those_of_an_undisturbed_list(tmp_path: Path) -> None:
    subprocess.run(command("undisturbed"), check=True, capture_output=True)
    chance, killed = random.Random(0), 0
    while killed < KILLS:
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            assert process.wait(chance.uniform(2.5, 8)) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            continue
        # It came to its end between two kills: what is killed from now on has the comparisons to do again.
        records = Path("killed/runs/quickstart/records.jsonl")
        lines = records.read_text().splitlines(keepends=True)
        records.write_text("".join(lines[: chance.randrange(len(lines))]))
    begun = time.monotonic()
    finished = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    assert time.monotonic() - begun < 200
    assert "Traceback" not in finished.stdout + finished.stderr
    whole, found = lines_of("undisturbed"), lines_of("killed")
    assert Counter(line["id"] for line in found) == Counter(line["id"] for line in whole)
    last, wanted = ({line["id"]: timeless(line) for line in lines} for lines in (found, whole))
    assert last == wanted
    left = [path for path in Path("killed").rglob("*") if "claims" in path.parts or path.suffix == ".part"]
    assert left == []
