import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.command import main
from benchmarks.items import ITEMS, Bench, Item
from benchmarks.measure import Result
from benchmarks.protocol import retraining, salun
from benchmarks.tables import tables

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["step", "epoch", "evaluation", "graphs", "checkpoint"]


def test_measures_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "found.md")]
    assert main(["--quick", "--device", "cpu", "--workers", "1", "--only", *SMALL, *files]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["items"]) == SMALL
    assert {"command", "date", "processor", "GPU", "versions", "load before", "load after"} <= found["where"].keys()
    lines = [line for results in found["items"].values() for line in results]
    assert all(line["median"] > 0 and line["ratio"] > 0 for line in lines)
    shown, page = capsys.readouterr().out, (tmp_path / "found.md").read_text()
    assert all(line["what"] in shown and f"| {line['what']} |" in page for line in lines)


def test_one_failure_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: Bench) -> list[Result]:
        raise ValueError("out of luck")

    main(["--list"])
    monkeypatch.setitem(ITEMS, "broken", Item("broken", "fails", broken))
    status = main(["--quick", "--device", "cpu", "--only", "broken", "step", "--json", str(tmp_path / "found.json")])
    assert status == 3
    assert "out of luck" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "found.json").read_text())["items"]) == ["step"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--only", "stpe"], "did you mean 'step'"),
        (["--json", "/dev/null/found.json"], "--json: /dev/null"),
        (["--device", "abacus"], "device 'abacus'"),
    ],
)
def test_refuses_before_it_measures(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_lists_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ITEMS)
    assert {"accuracy", "protocol", "attacks", "mask", "five_runs", "growth"} <= set(ITEMS)


def test_the_protocol_runs_without_a_gpu(tmp_path: Path) -> None:
    bench = Bench(torch.device("cpu"), tmp_path, quick=True)
    pace, whole = retraining(bench)
    assert whole.ours.median > 324 / pace.ours.high * 180
    rte, mask, *_ = salun(bench)
    assert rte.ours.median > mask.ours.median > 0


@pytest.mark.slow
def test_a_long_list_is_measured_without_doing_its_runs(tmp_path: Path) -> None:
    rows, _, runs, longest = tables(Bench(torch.device("cpu"), tmp_path, quick=True))
    assert (rows.unit, runs.unit, longest.unit) == ("exponent", "exponent", "s")
    assert "10: " in runs.note
    assert "20: " in runs.note
    assert longest.ours.median < 60


def test_the_check_of_a_gpu_tells_what_it_could_not_do() -> None:
    command = [sys.executable, "scripts/gpu_check", "--device", "cpu", "--quick", "--seconds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    told = done.stdout.partition("# For docs/benchmarks.md")[2]
    assert re.findall(r"^- (\w+): (stopped after|exit status)", told, re.MULTILINE) == [
        ("tests", "stopped after"),
        ("benchmark", "stopped after"),
    ]
    assert "no figures" in told


def test_the_check_of_a_gpu_measures_items_that_there_are() -> None:
    main(["--list"])
    named = re.findall(r'"(\w+)"', re.search(r"_ITEMS = \((.*?)\)", (ROOT / "scripts/gpu_check").read_text())[1])
    assert {name for name in named if "cuda" in ITEMS[name].devices} == set(named)
