"""`salun-tune` on a few very small images, from a list to the list with the settings chosen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lists import SHORT, SMALL
from PIL import Image

import salun
from salun.cli.tune import main
from salun.cli.unlearn import main as unlearn
from salun.experiments.schema import load_experiments

Refuse = Callable[[Any, list[str]], list[str]]
PROBLEM = {"model": "resnet_tiny", "dataset": SMALL, "recipe": SHORT, "class_to_forget": 1}
LIST = [
    PROBLEM | {"method": "retrain"},
    PROBLEM | {"method": "ft", "batch_size": 32, "lr": {"low": 1e-3, "high": 0.1, "log": True}, "epochs": [1, 2]},
]
FEW = [
    "-L",
    "list.json",
    "--trials",
    "4",
    "--cells",
    "1",
    "--finalists",
    "2",
    "--repeats",
    "2",
    "--device",
    "cpu",
    "-NL",
]


@pytest.fixture
def written() -> None:
    Path("list.json").write_text(json.dumps(LIST))


def test_from_a_list_with_ranges_to_one_that_runs_as_it_is(written: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, "--out", "tuned.json"]) == 0
    out = capsys.readouterr().out
    assert out.count(": gap ") == 4
    assert "[4/4] ft, trial 4: " in out
    folder = Path("runs/tune/list")
    shown = {"2_ft_slices.png", "2_ft_coordinates.png"}
    assert {path.name for path in folder.glob("*.png")} == shown
    for name in shown:
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    chosen = json.loads(Path("tuned.json").read_text())
    assert chosen[0] == LIST[0]
    assert {key: chosen[1][key] for key in PROBLEM} == PROBLEM
    assert 1e-3 <= chosen[1]["lr"] <= 0.1
    assert chosen[1]["epochs"] in (1, 2)
    assert len(load_experiments(Path("tuned.json"))) == 2
    assert unlearn(["-L", "tuned.json", "--dry-run"]) == 0
    before = {path: path.read_bytes() for path in folder.glob("*.*") if path.suffix != ".log"}
    capsys.readouterr()
    assert main([*FEW, "--out", "tuned.json"]) == 0
    assert ": gap " not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.glob("*.*") if path.suffix != ".log"} == before


def test_the_same_from_python(written: None) -> None:
    tuned = salun.tune(LIST, trials=2, cells=1, device="cpu")
    (choice,) = tuned
    assert len(choice.trials) == 2
    assert tuned.entries[0] == LIST[0]
    assert tuned.entries[1] == choice.entry
    assert str(tuned).splitlines()[1].startswith("ft ")
    assert "<table>" in tuned._repr_html_()
    assert (Path("runs/tune/python/journal.log")).is_file()
    with pytest.raises(salun.SalunError, match="experiments: entry 1: lr: must list 1 to 1000 values"):
        salun.tune(PROBLEM | {"method": "ft", "lr": []}, name="other")


def test_an_interruption_is_one_line(
    written: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("salun.cli.tune.Search.run", stop)
    assert main(FEW) == 130
    assert capsys.readouterr().err.endswith("every finished run is recorded; the same command does the rest\n")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["-L", "nothing.json"], "nothing.json"),
        (["-L", "list.json", "--trials", "0"], "0 is less than 1"),
        (["-L", "list.json", "--jobs", "0"], "--jobs 0: must be from 1"),
        (["-L", "wrong.json"], "wrong.json: entry 1: lr: must list 1 to 1000 values to try"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    written: None, refuse: Refuse, flags: list[str], line: str
) -> None:
    Path("wrong.json").write_text(json.dumps([PROBLEM | {"method": "ft", "lr": []}]))
    assert line in refuse(main, flags)[0]
