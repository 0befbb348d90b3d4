import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lists import SHORT, SMALL, train_small
from PIL import Image

from salun.cli.audit import main
from salun.models.checkpoint import save_checkpoint
from salun.unlearning import unlearn

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]

COMMON = {"model": "resnet_tiny", "dataset": SMALL, "recipe": SHORT, "unlearning_rate": 0.3}
FT = COMMON | {"method": "ft", "epochs": 1}
MASKED = COMMON | {"method": "rl", "epochs": 1, "use_mask": True, "tag": "SalUn"}
ROWS = ["base", "retrain", "ft", "SalUn: rl + mask 0.5"]
FLAGS = ["-L", "list.json", "--shadows", "6", "--dpi", "30"]
AREA = re.compile(r"[01]\.\d{3} \[[01]\.\d{3}, [01]\.\d{3}\]")


def audit(*flags: str) -> int:
    return main([*FLAGS, *flags])


def verdicts(path: str | Path = "runs/list/audit.json") -> list[dict[str, Any]]:
    """What was written for programs, in which no number may be none."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def rows(out: str) -> list[list[str]]:
    """The lines of all tables, each cell a text."""
    lines = [line for line in out.splitlines() if AREA.search(line) or "diverged" in line]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def stamps() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in ("runs", "checkpoints") for path in Path(folder).rglob("*.*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder where a list of two methods was audited, and what was printed: shared, so it must not be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "list.json").write_text(json.dumps([FT, MASKED]))
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        assert audit() == 0
    return folder, out.getvalue()


@pytest.fixture
def done(finished: tuple[Path, str], tmp_path: Path) -> str:
    """The same in the test's folder; gives what was printed."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return finished[1]


def test_progress_says_how_many_of_how_many_and_how_long(done: str) -> None:
    lines = done.splitlines()
    assert lines[0] == "list.json: 24 models, 0 of them kept, on cpu"
    steps = [line for line in lines if line.startswith("[")]
    whats = [f"shadow model {number}: {what}" for number in range(6) for what in ("trained", *ROWS[1:])]
    for place, (line, what) in enumerate(zip(steps, whats, strict=True), 1):
        assert re.fullmatch(rf"\[{place}/24\] {re.escape(what)} in \d+\.\d s; about \d+ s left", line)
    assert steps[-1].endswith("about 0 s left")


def test_the_table_has_a_row_a_method_with_its_areas_and_intervals(done: str) -> None:
    found = rows(done)
    assert [row[0] for row in found] == ROWS
    (problem,) = verdicts()
    assert problem["problem"] in done
    assert problem["problem"] == f"resnet_tiny on {SMALL}, forgetting 0.3 of the training split: 38 images asked for"
    assert {"runs/list/audit.json", "images/list/audit.png"} < set(done.splitlines())
    with Image.open("images/list/audit.png") as image:
        assert image.convert("L").getextrema() == (pytest.approx(30, abs=30), 255)
    for row, method in zip(found, problem["methods"], strict=True):
        assert (method["shadows"], method["diverged"]) == (6, 0)
        for attack in (method["ulira"], method["lira"]):
            assert attack["interval"][0] <= attack["auc"] <= attack["interval"][1]
            assert attack["fpr"][0] == attack["tpr"][0] == 0
            assert attack["fpr"][-1] == attack["tpr"][-1] == 1
        attacks = [
            f"{attack['auc']:.3f} [{attack['interval'][0]:.3f}, {attack['interval'][1]:.3f}]"
            for attack in (method["ulira"], method["lira"])
        ]
        rates = [f"{100 * method['ulira']['tpr_at'][level]:.2f} %" for level in ("0.001", "0.01")]
        distances = [f"{method[f'klom_{name}']:.2f}" for name in ("forget", "retain", "test")]
        assert row == [method["title"], attacks[0], *rates, attacks[1], *distances, "6"]
        assert f"{method['title']}: RULI AUC {method['ruli']['auc']:.3f}, from " in done
        assert f"on one image in 20 alone above {method['ruli_image']:.3f}" in done


def test_the_same_command_again_trains_nothing_and_finds_the_same(
    done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, found = stamps(), Path("runs/list/audit.json").read_text()
    assert audit() == 0
    out = capsys.readouterr().out
    assert out.startswith("list.json: 24 models, 24 of them kept, on cpu\n")
    assert "[1/" not in out
    assert rows(out) == rows(done)
    assert Path("runs/list/audit.json").read_text() == found
    changed = {path for path, stamp in stamps().items() if before.get(path) != stamp}
    assert changed == {Path("runs/list/audit.json")}


def test_an_interruption_is_told_and_the_same_command_goes_on(
    finished: tuple[Path, str], write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("list.json", [FT])
    calls = []

    def interrupt(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return unlearn(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("salun.experiments.run.unlearn", interrupt)
        assert audit() == 130
    captured = capsys.readouterr()
    assert captured.err == "salun-audit: interrupted: 4 of 18 models are kept; the same command does the rest\n"
    assert not Path("runs/list/audit.json").exists()
    assert audit() == 0
    out = capsys.readouterr().out
    assert out.startswith("list.json: 18 models, 4 of them kept, on cpu\n")
    (whole,) = verdicts(finished[0] / "runs/list/audit.json")
    assert verdicts() == [whole | {"methods": whole["methods"][:3]}]


def test_methods_that_diverge_have_no_figures(done: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("list.json", [COMMON | {"method": "ga", "epochs": 2, "lr": 1e30}])
    assert audit() == 0
    found = rows(capsys.readouterr().out)
    assert found[2] == ["ga", *["–"] * 7, "6 (6 diverged)"]
    (problem,) = verdicts()
    assert problem["methods"][2] == {
        "title": "ga",
        "shadows": 6,
        "diverged": 6,
        **dict.fromkeys(["ulira", "lira", "ruli", "ruli_image", "klom_forget", "klom_retain", "klom_test"]),
    }


def test_problems_are_audited_apart(done: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    by_class = {key: value for key, value in FT.items() if key != "unlearning_rate"} | {"class_to_forget": 1}
    write("list.json", [FT, by_class])
    assert audit("--out", "figures") == 0
    out = capsys.readouterr().out
    problems = verdicts()
    assert all(problem["problem"] in out for problem in problems)
    assert [[method["title"] for method in problem["methods"]] for problem in problems] == [
        ["base", "retrain", "ft"]
    ] * 2
    assert sorted(os.listdir("figures/list")) == [f"audit_{number}.png" for number in (1, 2)]


def test_a_base_model_named_by_its_checkpoint(done: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Its recipe is what counts: the shadow models of the model and data set are its own too."""
    save_checkpoint(Path("mine.pt"), train_small())
    own = {"checkpoint": "mine.pt", "unlearning_rate": 0.3, "method": "ft", "epochs": 1}
    write("list.json", [own | {"metrics": ["UA"]}])
    assert audit("--format", "svg", "--out", "figures") == 0
    out = capsys.readouterr().out
    assert out.startswith("list.json: 18 models, 18 of them kept, on cpu\n")
    assert rows(out) == rows(done)[:3]
    assert Path("figures/list/audit.svg").is_file()


def test_a_narrow_terminal_loses_no_figure(
    done: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("COLUMNS", "80"), ("FORCE_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    assert audit() == 0
    out = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    words = set(out.split())
    assert {word for row in rows(done) for cell in row for word in cell.split()} <= words


# Refusals


def test_a_checkpoint_that_diverged(write: Write, refuse: Refuse) -> None:
    checkpoint = train_small()
    checkpoint.weights["fc.bias"][0] = float("nan")
    save_checkpoint(Path("mine.pt"), checkpoint)
    write("list.json", [{"checkpoint": "mine.pt", "unlearning_rate": 0.3, "method": "ft", "epochs": 1}])
    reason = "mine.pt: weights that are no numbers: the model diverged"
    assert refuse(main, FLAGS) == [f"salun-audit: list.json: entry 1: {reason}"]


@pytest.mark.parametrize(
    ("content", "flags", "text"),
    [
        ("[{", [], "list.json: not valid JSON"),
        ([FT | {"epoch": 1}], [], "list.json: entry 1: epoch: unknown key; did you mean 'epochs'?"),
        ([FT, FT | {"dataset": "folder:nowhere"}], [], "list.json: entry 2: "),
        ([FT, FT | {"unlearning_rate": 0.001}], [], "list.json: entry 2: 0.001 of the training split: none of these"),
        *(
            ([FT], ["--shadows", number], f"--shadows {number}: must be an even number from 6 to 10000")
            for number in ("4", "7", "10002")
        ),
        *(([FT], [flag, "file/below"], f"{flag}: file/below") for flag in ("--runs", "--checkpoints", "--out")),
    ],
)
def test_lists_and_flags_that_do_not_go(
    content: Any, flags: list[str], text: str, write: Write, refuse: Refuse
) -> None:
    write("list.json", content)
    write("file", "")
    (line,) = refuse(main, [*FLAGS, *flags])
    assert line.startswith(f"salun-audit: {text}")
    assert line.endswith("file is not a folder") == ("file/below" in flags)


def test_a_training_that_diverges_is_one_line(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("list.json", [FT | {"recipe": SHORT | {"lr": 1e30, "epochs": 3}}])
    assert audit() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "diverged at lr 1e+30" in line
