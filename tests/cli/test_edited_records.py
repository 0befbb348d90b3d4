"""Figures of records that somebody changed by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lists import BASE, RECORDS, entries, train_small

from salun.cli import viz
from salun.cli.unlearn import main
from salun.experiments.outputs import outputs_path
from salun.experiments.records import read
from salun.models.checkpoint import save_checkpoint

Line = dict[str, Any]
METRICS = ["UA", "TA", "MIA", "RTE", "JS", "prediction_matrix", "KLoM"]
COMMAND = ["-L", "list.json", "--nexp", "3", "-NL", "--utility-floor", "none"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a list was run: shared, so it must not be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_checkpoint(Path(BASE), train_small())
        given = entries({"method": "retrain", "epochs": None, "metrics": METRICS}, {"metrics": METRICS})
        Path("list.json").write_text(json.dumps(given))
        assert main(COMMAND) == 0
    return folder


@pytest.fixture(autouse=True)
def done(finished: Path, alone: None) -> None:
    shutil.copytree(finished, ".", dirs_exist_ok=True)


def last_lines() -> dict[str, Line]:
    """The line of each run that counts, by id."""
    return {line["id"]: line for line in map(json.loads, RECORDS.read_text().splitlines())}


def edit(change: Callable[[Line], Any], number: int = -1) -> tuple[str, Line]:
    """Change a run's record as an editor would; its id, and the line as it was."""
    lines = last_lines()
    identity = list(lines)[number]
    before = json.loads(json.dumps(lines[identity]))
    change(lines[identity])
    RECORDS.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    return identity, before


def notices(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the list, run again, says on standard error; nothing else is wrong with it."""
    capsys.readouterr()
    assert main(COMMAND) == 0
    captured = capsys.readouterr()
    assert "6 runs, 6 of them finished before" in captured.out
    return captured.err.splitlines()


def table_of(kind: str) -> Line:
    """A row of the summary."""
    return next(row for row in json.loads(Path("runs/list/summary.json").read_text()) if row["title"] == kind)


def test_changed_and_removed_figures_are_told_of_and_computed_anew(capsys: pytest.CaptureFixture[str]) -> None:
    changed = [("metrics", name) for name in ("UA", "MIA", "JS", "RTE")]
    changed += [("base_metrics", name) for name in ("UA", "RTE")]

    def change(line: Line) -> None:
        for place, name in changed:
            line[place][name] = 0.123
        line["details"]["prediction_matrix"][0][0] = 77
        del line["metrics"]["TA"]

    right_table = table_of("ga_small")
    identity, before = edit(change)
    told = {
        f"TA is none, but the kept outputs give {before['metrics']['TA']:.8g}",
        "prediction_matrix is not what the kept outputs give",
    }
    for place, name in changed:
        right = before[place][name]
        shown = "none" if right is None else f"{right:.8g}"
        what = name if place == "metrics" else f"base {name}"
        giver = "recorded seconds" if name == "RTE" else "kept outputs"
        told.add(f"{what} is 0.123, but the {giver} give {shown}")
    said = [f"runs/list/records.jsonl: record {identity}: {what}, which takes its place" for what in told]
    assert sorted(notices(capsys)) == sorted(said)
    assert last_lines()[identity] == before
    assert table_of("ga_small") == right_table
    assert notices(capsys) == []


def test_without_the_runs_own_outputs_a_change_is_told_of_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    identity, _ = edit(lambda line: line["metrics"].update(UA=0.123))
    path = outputs_path(RECORDS.parent, identity)
    shutil.copy(outputs_path(RECORDS.parent, next(iter(last_lines()))), path)  # of another digest
    assert any(f"as {path} does not give them" in line for line in notices(capsys))
    path.unlink()
    rest = "figures were changed after the run, which cannot be computed anew"
    said = f"runs/list/records.jsonl: record {identity}: {rest}, as {path} is not there; without its line"
    for _ in range(2):
        assert f"{said} the run is done again" in notices(capsys)
        assert last_lines()[identity]["metrics"]["UA"] == 0.123


@pytest.mark.parametrize(
    "change",
    [{"seconds": {"mask": 0, "method": 1, "evaluation": 1}}, {"device": "another"}, {"peak_memory": 3}],
    ids=str,
)
def test_a_change_of_what_no_outputs_give_is_told_of_each_time(
    change: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    identity, before = edit(lambda line: line.update(change))
    for _ in range(2):
        (line,) = (line for line in notices(capsys) if identity in line)
        assert line.startswith(f"runs/list/records.jsonl: record {identity}: figures were changed after the run")
    assert last_lines()[identity]["metrics"] == before["metrics"]
    assert read(RECORDS)[0][identity].edited


def test_another_tag_and_another_way_to_write_a_number_are_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    def rewrite(line: Line) -> None:
        line["tag"] = "mine"
        line["base_metrics"] = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in reversed(line["base_metrics"].items())
        }

    edit(rewrite)
    before = RECORDS.read_bytes()
    assert notices(capsys) == []
    assert RECORDS.read_bytes() == before


def as_before_digests(line: Line) -> None:
    for key in ("digest", "edited"):
        del line[key]


def test_records_from_before_there_were_digests(capsys: pytest.CaptureFixture[str]) -> None:
    def change(line: Line) -> None:
        as_before_digests(line)
        line["metrics"]["UA"] = line["base_metrics"]["TA"] = 0.123

    edit(as_before_digests, 0)
    identity, before = edit(change)
    head, lines = f"runs/list/records.jsonl: record {identity}: ", last_lines()
    assert notices(capsys) == [
        f"{head}UA is 0.123, but the kept outputs give {before['metrics']['UA']:.8g}, which takes its place",
        f"{head}base TA is 0.123, but the kept outputs give {before['base_metrics']['TA']:.8g}, which takes its place",
    ]
    assert last_lines() == lines | {name: line for name, line in last_lines().items() if "digest" not in lines[name]}
    assert last_lines()[identity] == before
    whole = RECORDS.read_bytes()
    assert notices(capsys) == []
    assert RECORDS.read_bytes() == whole


def test_records_from_before_there_were_digests_or_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        edit(as_before_digests, number)
    shutil.rmtree(RECORDS.parent / "outputs")
    whole = RECORDS.read_bytes()
    assert notices(capsys) == []
    assert RECORDS.read_bytes() == whole


def test_a_metric_that_is_added_later_is_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([*COMMAND, "--metrics", *METRICS, "RA", "disagreement"]) == 0
    assert capsys.readouterr().err == ""
    assert all(line["metrics"]["RA"] is not None for line in last_lines().values())
    assert notices(capsys) == []


def test_changed_metrics_of_several_runs_are_computed_anew(capsys: pytest.CaptureFixture[str]) -> None:
    path = RECORDS.parent / "joint.json"
    whole, table = json.loads(path.read_text()), table_of("ga_small")
    key = list(whole)[-1]
    path.write_text(json.dumps(whole | {key: whole[key] | {"KLoM": 0.123}}))
    assert notices(capsys) == [f"runs/list/joint.json: {key}: was changed after it was written, and is not used"]
    assert json.loads(path.read_text()) == whole
    assert table_of("ga_small") == table
    assert notices(capsys) == []


def test_figures_of_runs_show_what_outputs_give(capsys: pytest.CaptureFixture[str]) -> None:
    draw = ["runs", "list", "--dpi", "30"]
    assert viz.main(draw) == 0
    bars = Path("images/list/bars.csv").read_text()
    identity, before = edit(lambda line: line["metrics"].update(UA=0.123))
    whole = RECORDS.read_bytes()
    right = f"UA is 0.123, but the kept outputs give {before['metrics']['UA']:.8g}, which takes its place"
    for told, same in ((right, True), ("cannot be computed anew", False)):
        capsys.readouterr()
        assert viz.main(draw) == 0
        (said,) = (line for line in capsys.readouterr().err.splitlines() if identity in line)
        assert said.startswith("salun-viz runs: runs/list/records.jsonl: ")
        assert told in said
        assert (Path("images/list/bars.csv").read_text() == bars) == same
        assert RECORDS.read_bytes() == whole
        outputs_path(RECORDS.parent, identity).unlink(missing_ok=True)
