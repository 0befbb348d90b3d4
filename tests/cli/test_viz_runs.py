import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from records import corrective, recorded, runs, sweep_runs, write_runs

from salun.cli.viz import main
from salun.experiments.record import Record, run_id
from salun.reports.summary import nearest

KINDS = ("bars", "curves", "sweep", "plane")
NOTHING: dict[str, float | None] = dict.fromkeys(("UA", "RA", "TA", "MIA"))
Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]


def viz(*arguments: str) -> int:
    return main(["runs", *arguments, "--dpi", "30"])


def made(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def files_of(*names: str, ending: str = "png") -> set[str]:
    return {f"{name}.{suffix}" for name in names for suffix in (ending, "csv")}


def list_of(name: str, records: list[Record] | None = None) -> Path:
    everything = [*runs(method="retrain"), *sweep_runs(keeps=(0.5, None))]
    return write_runs(Path("runs") / name / "records.jsonl", everything if records is None else records)


def lines_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_list_below_runs_is_drawn_where_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    list_of("one")
    list_of("deep/two")
    assert viz() == 0
    assert made("images") == {f"{place}/{file}" for place in ("one", "deep/two") for file in files_of(*KINDS)}
    captured = capsys.readouterr()
    assert captured.err == ""
    assert set(captured.out.split()) == {
        f"images/{place}/{kind}.png" for place in ("one", "deep/two") for kind in KINDS
    }
    for path in Path("images").rglob("*.png"):
        with Image.open(path) as image:
            assert image.convert("L").getextrema() == (pytest.approx(30, abs=30), 255)


def test_what_comes_back_is_drawn_where_it_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    asked = runs(values={"probe_forget": 0.75, "IDI": 0.5}, details={"relearn_few_curve": {"0": 0.0, "1": 0.5}})
    list_of("one", [*runs(method="retrain"), *asked])
    assert viz() == 0
    assert files_of("one/gone") < made("images")
    assert [line["probe_forget_mean"] for line in lines_of("images/one/gone.csv")] == ["", "", "0.75"]
    assert "gone" not in capsys.readouterr().err


def test_what_an_earlier_version_retrained_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    old = recorded("retrain", seed=0, id="0" * 16, values={"UA": 0.0})
    list_of("one", [old, *runs(method="retrain"), *sweep_runs()])
    list_of("two", [*runs(method="retrain"), *sweep_runs()])
    assert viz() == 0
    assert capsys.readouterr().err == (
        f"salun-viz runs: runs/one/records.jsonl: record {old.id}: was retrained by an earlier version, "
        "and it is passed over\n"
    )
    assert lines_of("images/one/bars.csv") == lines_of("images/two/bars.csv")


@pytest.mark.parametrize("given", [["runs/../runs/one"], ["one", "runs/one/records.jsonl"]])
def test_paths_are_looked_for_as_given_then_under_runs_and_drawn_once(given: list[str]) -> None:
    list_of("one")
    list_of("two")
    assert viz(*given) == 0
    assert made("images") == {f"one/{file}" for file in files_of(*KINDS)}


def test_format_and_folder_are_as_asked() -> None:
    write_runs(Path("elsewhere/mine.jsonl"), runs(1))
    assert viz("elsewhere/mine.jsonl", "--format", "svg", "--out", "figures") == 0
    names = files_of("bars", "curves", "plane", ending="svg")
    assert made("figures") == {f"elsewhere/mine/{name}" for name in names}
    text = Path("figures/elsewhere/mine/bars.svg").read_text()
    assert "resnet_tiny on digits, forgetting class 0: 10 of 100 images" in text


def test_each_forgetting_problem_has_figures_of_its_own_even_where_two_are_called_alike() -> None:
    problems = [{}, {"request": "0.1 of the training split"}, {"model": "resnet18"}]
    list_of("one", [record for other in problems for record in runs(2, **other)])
    assert viz() == 0
    folders = ("resnet_tiny_digits_class-0", "resnet_tiny_digits_0.1-of-the-training-split", "resnet18_digits_class-0")
    names = files_of("bars", "curves", "plane")
    assert made("images") == {f"one/{folder}/{name}" for folder in folders for name in names}
    alike = recorded(seed=7)
    alike.settings["base"]["identity"] = "another"
    list_of("one", [alike])
    assert viz("--out", "again") == 0
    assert len({Path(name).parent for name in made("again")}) == 4


def test_numbers_beside_figures_are_those_of_the_records() -> None:
    records = [*runs(method="retrain"), *runs(), *runs(keep=0.5)]
    list_of("one", records)
    assert viz() == 0
    bars, plane = lines_of("images/one/bars.csv"), lines_of("images/one/plane.csv")
    assert [line["title"] for line in bars] == ["base", "retrain", "rl", "rl + mask 0.5"]
    mean = sum(float(record.metrics["UA"] or 0) for record in runs()) / 3
    assert float(bars[2]["UA_mean"]) == pytest.approx(mean)
    assert float(plane[2]["UA_mean"]) == pytest.approx(mean)
    assert {"MIA_mean", "MIA_low", "MIA_high", "gap_mean"} <= set(bars[0])
    assert [(line["mask_keep"], line["title"]) for line in lines_of("images/one/sweep.csv")] == [
        ("0.5", "rl + mask 0.5"),
        ("1.0", "rl"),
    ]
    assert len(lines_of("images/one/curves.csv")) == sum(len(record.curve) for record in records)


def test_figures_of_many_rows_show_the_nearest_and_say_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salun.cli.viz.runs.nearest", lambda rows, most: nearest(rows, min(most, 3)))
    list_of("one", [*runs(method="retrain"), *runs(), *runs(keep=0.5, values={"RA": 0.1})])
    assert viz("--format", "svg") == 0
    told = "salun-viz runs: images/one: 3 of 4 rows are drawn, those nearest to retraining; the .csv files hold all\n"
    assert capsys.readouterr().err == told
    for kind in ("bars", "curves", "plane"):
        drawn = Path(f"images/one/{kind}.svg").read_text()
        assert "retrain" in drawn, kind
        assert ("mask 0.5" in drawn) is (kind == "curves"), kind
        assert {"rl", "rl + mask 0.5"} < {line["title"] for line in lines_of(f"images/one/{kind}.csv")}


def test_without_retraining_no_row_is_called_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salun.cli.viz.runs.nearest", lambda rows, most: nearest(rows, min(most, 2)))
    list_of("one", [*runs(), *runs(keep=0.5)])
    assert viz("--format", "svg") == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "rows are drawn" in line]
    assert "2 of 3 rows are drawn, the first, as none has a gap to retraining" in told
    bars = Path("images/one/bars.svg").read_text()
    assert ">rl<" in bars
    assert "mask 0.5" not in bars


@pytest.mark.parametrize(
    ("records", "absent"),
    [
        (runs(2), {"sweep": "mask thresholds"}),
        (runs(2, epochs=0), {"sweep": "mask thresholds", "curves": "epochs"}),
        (runs(2, diverged=True), {"sweep": "mask thresholds", "plane": "UA"}),
        (runs(1, values=NOTHING, base_metrics={}), {"bars": "UA", "sweep": "mask thresholds", "plane": "UA"}),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line_and_the_rest_is_drawn(
    records: list[Record], absent: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    list_of("one", records)
    assert viz() == 0
    assert made("images") == {f"one/{file}" for file in files_of(*(kind for kind in KINDS if kind not in absent))}
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == len(absent)
    for line, (kind, reason) in zip(lines, sorted(absent.items()), strict=True):
        assert line.startswith(f"salun-viz runs: images/one: no {kind}: ")
        assert reason in line


def test_utility_is_the_retain_set_where_the_test_set_is_not_measured() -> None:
    list_of("one", runs(2, values={"TA": None}))
    assert viz() == 0
    assert "RA_mean" in lines_of("images/one/plane.csv")[0]


def test_lines_that_are_no_records_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = list_of("one", runs(2))
    Path("runs/two").mkdir()
    Path("runs/two/records.jsonl").touch()
    with path.open("a") as file:
        file.write("{\nnonsense\n\0\n")
    assert viz() == 0
    told = capsys.readouterr().err
    assert "salun-viz runs: runs/two/records.jsonl: holds no record" in told
    (line,) = [line for line in told.splitlines() if "passed over" in line]
    assert "runs/one/records.jsonl: line 3" in line
    assert "2 more" in line
    assert lines_of("images/one/bars.csv")[1]["UA_n"] == "2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["runs: no such file or folder", "salun-unlearn"]),
        (["empty"], ["empty: holds no records.jsonl"]),
        (["notes.txt"], ["notes.txt: is no file of records (*.jsonl)"]),
        (["hollow"], ["hollow/records.jsonl: holds no record"]),
        (["good", "runs/good"], ["good/records.jsonl and ", "would give figures of the same names"]),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: list[str], write: Write, refuse: Refuse) -> None:
    Path("empty").mkdir()
    write("notes.txt", "text")
    write("hollow/records.jsonl", "")
    if arguments and arguments[0] == "good":
        write_runs(Path("good/records.jsonl"), runs(1))
        write_runs(Path("runs/good/records.jsonl"), runs(1))
    (line,) = refuse(main, ["runs", *arguments])
    assert line.startswith("salun-viz runs: ")
    assert len(line) < 6000
    for word in words:
        assert word in line


def test_what_was_run_with_several_parts_found_is_drawn_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    each = [*runs(method="retrain"), *runs(method="ft"), *runs(keep=0.5)]
    list_of("one", [record for part in (0.1, 0.5, 1.0) for record in corrective(each, part)])
    assert viz() == 0
    assert "images/one/found.png" in capsys.readouterr().out.split()
    lines = lines_of("images/one/found.csv")
    assert [(line["sweep"], float(line["found"])) for line in lines] == [
        (title, part) for title in ("base", "retrain", "ft", "rl + mask 0.5") for part in (0.1, 0.5, 1.0)
    ]
    shown = {(line["sweep"], float(line["found"])): float(line["ASR_mean"]) for line in lines}
    assert shown[("ft", 0.1)] == pytest.approx(0.3)
    assert shown[("base", 0.5)] == 1
    assert shown[("rl + mask 0.5", 1.0)] == 0


def test_one_part_found_is_no_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    list_of("one", corrective([*runs(method="retrain"), *runs(method="ft")], 0.5))
    assert viz() == 0
    assert "found" not in capsys.readouterr().out


def test_requests_one_after_another_have_a_figure_of_their_own_and_folders_by_request() -> None:
    first, second = runs(2), []
    for record in runs(2):
        before = {"classes": [0], "share": None, "seed": 0, "fingerprint": "print of class 0"}
        forget = record.settings["forget"] | {"fingerprint": "next", "request": "class 1", "earlier": [before]}
        settings = record.settings | {"forget": forget}
        second.append(replace(record, settings=settings, id=run_id(settings, record.seed)))
    list_of("one", [*first, *second])
    assert viz() == 0
    folders = {str(Path(name).parent) for name in made("images")}
    assert folders == {"one", "one/resnet_tiny_digits_class-0", "one/resnet_tiny_digits_class-1_request2"}
    assert {name for name in made("images") if Path(name).parent == Path("one")} == {
        f"one/{file}" for file in files_of("requests")
    }
    assert [(line["title"], line["request"]) for line in lines_of("images/one/requests.csv")] == [
        (title, str(number)) for title in ("base", "rl") for number in (1, 2)
    ]


def test_lists_that_are_named_together_are_compared_where_they_forget_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gold = runs(method="retrain")
    list_of("one", [*gold[:2], *runs(2), *runs(1, method="ft")])
    list_of("two", [*gold[1:], *runs(3), *runs(1, method="ft"), *runs(1, method="ga")])
    assert viz("one", "two") == 0
    assert {name for name in made("images") if name.startswith("one_with_two/")} == {
        f"one_with_two/{name}" for name in files_of("bars", "curves", "plane")
    }
    lines = {line["title"]: line["UA_n"] for line in lines_of("images/one_with_two/bars.csv")}
    assert lines == {"base": "1", "retrain": "3", "rl (one)": "2", "rl (two)": "3", "ft": "1", "ga (two)": "1"}
    assert lines_of("images/one/bars.csv")[1]["UA_n"] == "2"
    capsys.readouterr()
    list_of("other", [recorded(model="resnet18", request="class 1")])
    assert viz("one", "other", "--out", "again") == 0
    assert {name.split("/")[0] for name in made("again")} == {"one", "other"}
    assert "no two of these lists have runs of the same base model and forget set" in capsys.readouterr().err
