"""`scripts/reproduce`: the path from the lists to the comparison, on a few generated images."""

import csv
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from salun.experiments import records
from salun.experiments.record import Record

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/reproduce"
TABLES = json.loads(SCRIPT.with_name("reproduce.json").read_text())
PAPER = ["Retrain", "FT", "RL", "GA", "IU", "BE", "BS", "l1-sparse", "SalUn", "SalUn-soft"]
COLUMNS = ["UA", "RA", "TA", "MIA", "gap", "RTE"]


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], int]:
    return runpy.run_path(str(SCRIPT))["main"]


def filled(path: Path) -> dict[str, dict[str, list[str]]]:
    """The columns that have a value of ours, by table and method."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in csv.DictReader(path.open()):
        columns = found.setdefault(line["table"], {}).setdefault(line["method"], [])
        columns += [line["column"]] if line["ours"] else []
    return found


def test_a_check_of_the_paper_fills_every_row_and_cell(main: Callable[[list[str]], int], tmp_path: Path) -> None:
    assert main(["paper", "--check", "--only", "cifar10/resnet18", "--nexp", "1"]) == 0
    folder = tmp_path / "runs/reproduce/paper-check"
    found = filled(folder / "paper.csv")
    assert [title.split(", ")[1] for title in found] == [
        "forgetting 0.1 of the training split",
        "forgetting 0.5 of the training split",
        "forgetting class 0",
    ]
    for lines in found.values():
        assert list(lines) == ["base", *PAPER]
        # One retrained model has no noise floor, and nothing was unlearned from the base model.
        assert lines.pop("base") == COLUMNS[:-1]
        assert lines.pop("Retrain") == [*COLUMNS[:-2], "RTE"]
        assert all(columns == COLUMNS for columns in lines.values())
    page = (folder / "paper.md").read_text()
    assert "compares nothing" in page
    assert "| SalUn | 2.85 |" in page
    assert "not known here" in page
    assert all(remark in page for remark in TABLES["paper"]["remarks"])
    assert {path.name for path in (folder / "runs").iterdir()} == set(TABLES["paper"]["lists"])


def test_a_second_call_runs_nothing_and_a_missing_row_is_an_error(
    main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["not", "--check", "--nexp", "1", "--out", "here"]
    assert main(call) == 0
    first = Path("here/not.md").read_text()
    capsys.readouterr()
    assert main(call) == 0
    assert "4 runs, 4 of them finished before" in capsys.readouterr().out
    assert Path("here/not.md").read_text() == first
    read = records.read

    def without_half(path: Path) -> tuple[dict[str, Record], Any]:
        found, torn = read(path)
        kept = [run for run in found.values() if run.settings["method"] != "negate" or run.split["forget"] < 40]
        return {run.id: run for run in kept}, torn

    monkeypatch.setattr(records, "read", without_half)
    assert main(call) == 3
    where = "resnet18 on cifar10, forgetting 0.5 of the training split"
    said = capsys.readouterr().err
    assert f"reproduce: {where}: NoT: 0 of 1 runs; no UA, RA, TA, MIA, gap, RTE" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["paper", "--only", "mnist/resnet18"], "table 'paper' has cifar10/resnet18, "),
        (["amun", "--device", "gpu"], "gpu"),
        (["notebook", "--nexp", "0"], "0 is less than 1"),
        (["salun"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], said: str
) -> None:
    try:
        status: Any = main(argv)
    except SystemExit as ended:
        status = ended.code
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("table", list(TABLES))
def test_the_check_of_a_whole_table_succeeds(tmp_path: Path, table: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, table, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = filled(tmp_path / f"runs/reproduce/{table}-check/{table}.csv")
    assert len(found) == {"paper": 15, "notebook": 2}.get(table, 2)
    assert all(columns == COLUMNS for lines in found.values() for title, columns in lines.items() if title != "base")
