import contextlib
import io
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from problems import mask_share

from salun.cli.unlearn import main
from salun.metrics import METRICS, check_metrics
from salun.models.checkpoint import load_checkpoint
from salun.unlearning import METHODS, PositiveInt, Task, load_methods, method
from salun.unlearning.mask import load_mask, save_mask

Write = Callable[[str, Any], Path]

BASE = "checkpoints/resnet_tiny_digits_base.pt"
QUICK = ["UA", "RA", "TA", "MIA"]
SMALL = {"model": "resnet_tiny", "dataset": "synthetic:n=100,size=8,classes=4", "recipe": {"epochs": 1}}
RECIPE = {"epochs": 2, "lr": 0.1, "batch_size": 64, "schedule": "cosine"}
PICTURES = "synthetic:n=300,size=8,classes=4"
COMMON = {"model": "resnet_tiny", "dataset": PICTURES, "recipe": RECIPE, "class_to_forget": 1}


class Finished(NamedTuple):
    """What a command left behind."""

    folder: Path
    out: str
    records: list[dict[str, Any]]
    summary: list[dict[str, Any]]


def unlearn(*argv: str) -> str:
    """Run the command, which must succeed; gives what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*argv, "-NL"]) == 0
    return out.getvalue()


def records_of(name: str, folder: Path = Path()) -> list[dict[str, Any]]:
    """Read the records of a list."""
    return [json.loads(line) for line in (folder / "runs" / name / "records.jsonl").read_text().splitlines()]


def table_of(out: str) -> list[str]:
    """Cut the table out of what a command prints."""
    lines = out.splitlines()
    return lines[next(place for place, line in enumerate(lines) if "forgetting" in line) :]


def kept(name: str) -> list[str]:
    """List the weights that a list left behind."""
    return sorted(path.name for path in Path("checkpoints", name).glob("*.safetensors"))


@pytest.fixture
def registry() -> Iterator[None]:
    """Forget the methods that a test registers."""
    load_methods()
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A list with retraining and three methods, run twice each: shared, so it must not be changed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    entries = [
        {**COMMON, "metrics": QUICK, "method": "retrain"},
        {**COMMON, "metrics": QUICK, "method": "ft", "epochs": 1},
        {**COMMON, "metrics": QUICK, "method": "rl", "epochs": 1, "use_mask": True, "tag": "Sal|Un_&"},
        {**COMMON, "metrics": QUICK, "method": "ga_small", "epochs": 2, "lr": 0.01},
    ]
    (folder / "list.json").write_text(json.dumps(entries))
    places = ["--out", str(folder / "runs"), "--checkpoints", str(folder / "checkpoints")]
    out = unlearn("-L", str(folder / "list.json"), "--nexp", "2", "--published", *places)
    summary = json.loads((folder / "runs" / "list" / "summary.json").read_text())
    return Finished(folder, out, records_of("list", folder), summary)


def test_the_seeds_flags_work_without_a_file(base_file: Path) -> None:
    common = ["-c", BASE, "-M", "rl_split", "-E", "1", "-LR", "0.01", "--nexp", "2", "--metrics", "UA", "TUA"]
    out = unlearn(*common, "-CF", "7", "-UM", "-MT", "0.25")
    assert "command line: 2 runs, 0 of them finished before, on cpu" in out
    records = records_of("command-line")
    assert [record["seed"] for record in records] == [0, 1]
    for record in records:
        settings = record["settings"]
        assert settings["method"] == "rl_split"
        assert (settings["settings"]["epochs"], settings["settings"]["lr"]) == (1, 0.01)
        assert (settings["forget"]["classes"], settings["forget"]["share"]) == ([7], None)
        assert settings["mask"]["keep"] == 0.25
        assert settings["base"]["identity"] == f"weights {load_checkpoint(base_file).fingerprint}"
        assert record["metrics"].keys() == {"UA", "TUA"}
    out = unlearn(*common, "-UL", "0.1")
    assert "2 runs, 0 of them finished before" in out
    assert "rl_split" in out
    latest = records_of("command-line")[-1]
    assert (latest["settings"]["forget"]["share"], latest["settings"]["mask"]) == (0.1, None)
    assert latest["split"]["forget"] == 130
    assert latest["metrics"]["TUA"] is None


def test_a_forget_file_and_a_mask_from_the_command_line(base_file: Path, write: Write) -> None:
    model = load_checkpoint(base_file).restore()
    mask = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in model.named_parameters()}
    mask["fc.bias"][3] = True
    save_mask(Path("mask.pt"), mask)
    write("forget.json", [5, 3, 4, 5])
    flags = ["-c", BASE, "-IF", "forget.json", "-LM", "mask.pt", "-M", "ga_small", "-E", "1", "--nexp", "1"]
    unlearn(*flags, "--metrics", "UA", "--tag", "one bias", "--seed", "9")
    (record,) = records_of("command-line")
    assert (record["tag"], record["seed"], record["split"]["forget"]) == ("one bias", 9, 3)
    (name,) = kept("command-line")
    before, after = (load_checkpoint(path).weights for path in (base_file, Path("checkpoints/command-line", name)))
    moved = [key for key, weight in model.named_parameters() if not torch.equal(before[key], after[key])]
    assert moved == ["fc.bias"]
    assert (before["fc.bias"] != after["fc.bias"]).tolist() == mask["fc.bias"].tolist()
    assert mask_share(load_mask(Path("mask.pt"))) < 1e-5
    assert json.loads(Path("checkpoints/command-line", f"{Path(name).stem}_forget.json").read_text()) == [3, 4, 5]


def test_retraining_follows_the_base_recipe_and_everything_is_measured_unless_some_is_named(write: Write) -> None:
    write("one.json", {**COMMON, "class_to_forget": [0, 2], "method": "retrain"})
    out = unlearn("-L", "one.json", "--nexp", "1")
    assert "forgetting class 0+2" in out
    assert "no gap" not in out
    (record,) = records_of("one")
    assert (record["settings"]["settings"], len(record["curve"])) == ({}, 2)
    alone = {name for name in check_metrics(()) if "retrained" not in METRICS[name].against}
    assert record["metrics"].keys() == record["base_metrics"].keys() == alone
    assert all(value is not None for value in record["metrics"].values())
    assert [name for name, value in record["base_metrics"].items() if value is None] == ["RTE", "passes"]
    assert record["metrics"]["RTE"] == pytest.approx(record["seconds"]["mask"] + record["seconds"]["method"])
    assert record["metrics"]["UA"] > record["base_metrics"]["UA"]
    assert record["metrics"]["TUA"] < record["base_metrics"]["TUA"]


def test_a_base_model_is_trained_before_it_chooses_and_a_dry_run_writes_nothing(write: Write) -> None:
    tiny = {"model": "resnet_tiny", "dataset": "synthetic:n=90,size=8,classes=4", "recipe": {"epochs": 1}}
    asked = tiny | {"unlearning_rate": 0.2, "forget_choice": ["memorized", "easy"], "method": "ga_small", "epochs": 1}
    write("choices.json", [asked | {"metrics": ["UA"]}])
    assert "choices.json: 2 experiments, 2 runs" in unlearn("-L", "choices.json", "--dry-run", "--nexp", "1")
    assert [path.name for path in Path().iterdir()] == ["choices.json"]
    out = unlearn("-L", "choices.json", "--nexp", "1")
    assert out.index("training the base model") < out.index("2 runs, 0 of them finished before")
    assert "ga_small, memorized" in out
    assert "forgetting 0.2 of the training split, easy: 16 of " in out
    assert len(list(Path("checkpoints").glob("*_easy0.2_*.json"))) == 1
    assert "2 runs, 2 of them finished before" in unlearn("-L", "choices.json", "--nexp", "1")


def test_the_files_of_a_finished_list(finished: Finished) -> None:
    """And the lines that were printed meanwhile; the base model is trained once."""
    names = {path.name for path in (finished.folder / "runs" / "list").iterdir()} - {"outputs", "source.json"}
    assert names == {"records.jsonl", "summary.json", "summary.csv", "summary.md", "summary.tex"}
    outputs = sorted(path.stem for path in (finished.folder / "runs" / "list" / "outputs").iterdir())
    assert outputs == sorted({record["id"] for record in finished.records} | {outputs[-1]})
    assert outputs[-1].startswith("base_")
    assert "list.json: 8 runs, 0 of them finished before, on cpu" in finished.out
    assert len(finished.records) == 8
    assert len({record["id"] for record in finished.records}) == 8
    assert [record["seed"] for record in finished.records] == [0, 1] * 4
    for name in names:
        assert name in finished.out.splitlines()[-1]
    lines = [line for line in finished.out.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{number}/8" for number in range(1, 9)]
    figures = r"seed [01]: UA \d.* RA \d.* TA \d.* MIA \d.* in \d+\.\d s(; lost .* model)?; about \d+ s left"
    assert all(re.search(figures, line) for line in lines)
    assert "Sal|Un_&: rl + mask 0.5, seed 0:" in lines[4]
    assert finished.out.count("training the base model: resnet_tiny on synthetic") == 1
    (path,) = (finished.folder / "checkpoints").glob("*.pt")
    assert "_base-" in path.name
    assert load_checkpoint(path).config["recipe"]["epochs"] == 2
    assert json.loads(path.with_name(f"{path.stem}_forget.json").read_text()) == []


def test_the_summary_agrees_with_the_records(finished: Finished) -> None:
    titles = ["base", "retrain", "ft", "Sal|Un_&: rl + mask 0.5", "ga_small"]
    assert [row["title"] for row in finished.summary] == titles
    assert [row["kind"] for row in finished.summary] == ["base", "retrain", "method", "method", "method"]
    by_id = {record["id"]: record for record in finished.records}
    for row in finished.summary[1:]:
        runs = [by_id[run["id"]] for run in row["runs"]]
        assert [run["metrics"] for run in row["runs"]] == [record["metrics"] for record in runs]
        assert row["settings"] == runs[0]["settings"]
        for name in QUICK:
            one, two = (record["metrics"][name] for record in runs)
            assert row["metrics"][name]["mean"] == pytest.approx((one + two) / 2)
            assert row["metrics"][name]["sd"] == pytest.approx(abs(one - two) / 2**0.5)
            assert row["metrics"][name]["n"] == 2
    base = {name: finished.summary[0]["metrics"][name]["mean"] for name in QUICK}
    assert all(record["base_metrics"] == base for record in finished.records)


def test_the_terminal_shows_mean_spread_and_gap(finished: Finished) -> None:
    lines = finished.out.splitlines()
    head = next(place for place, line in enumerate(lines) if line.split()[:2] == ["UA", "%"])
    assert lines[head].split() == ["UA", "%", "RA", "%", "TA", "%", "MIA", "%", "gap", "%", "95", "%", "interval", "n"]
    by_title = {}
    for row, line in zip(finished.summary, lines[head + 2 : head + 7], strict=True):
        assert line.strip().startswith(row["title"])
        by_title[row["title"]] = [word for word in line.split(row["title"], 1)[1].split() if word not in "†‡↓"]
    for row in finished.summary[1:]:
        shown = [f"{100 * row['metrics'][name]['mean']:.2f}±{100 * row['metrics'][name]['sd']:.2f}" for name in QUICK]
        assert by_title[row["title"]][:4] == shown
        assert by_title[row["title"]][-1] == "2"
    floor = finished.summary[1]["average_gap"]["mean"]
    assert by_title["retrain"][4] == f"{100 * floor:.2f}"
    forgotten = finished.records[0]["split"]["forget"]
    assert f"forgetting class 1: {forgotten} of {finished.records[0]['split']['train']} images" in finished.out
    assert "nearest to retraining: " in finished.out
    assert "no published figures for these settings" in finished.out


def test_the_last_run_of_each_entry_is_kept_under_a_telling_name(finished: Finished) -> None:
    weights = finished.folder / "checkpoints" / "list"
    assert sorted(path.suffix for path in weights.iterdir()) == [".json"] * 4 + [".mask"] + [".safetensors"] * 4
    (mask,) = weights.glob("rl_mask0.5_class1_*.mask")
    assert mask_share(load_mask(mask)) == pytest.approx(0.5, abs=1e-5)
    for what in ("retrain_class1", "ft_class1", "rl_mask0.5_class1", "ga_small_class1"):
        (path,) = weights.glob(f"{what}_seed1_*.safetensors")
        checkpoint = load_checkpoint(path)
        record = next(record for record in finished.records if record["id"].startswith(path.stem[-8:]))
        assert checkpoint.config["unlearned"]["id"] == record["id"]
        listed = json.loads(path.with_name(f"{path.stem}_forget.json").read_text())
        assert checkpoint.excluded == tuple(listed)
        assert len(listed) == record["split"]["forget"]


def test_the_same_list_again_runs_nothing_and_prints_the_same(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--out", str(finished.folder / "runs"), "--checkpoints", str(finished.folder / "checkpoints")]
    files = {path: path.stat().st_mtime_ns for path in (finished.folder / "checkpoints").rglob("*_seed*")}
    before = {path: path.read_bytes() for path in (finished.folder / "runs" / "list").rglob("*.*")}
    out = unlearn("-L", str(finished.folder / "list.json"), "--nexp", "2", "--published", *places)
    assert "8 runs, 8 of them finished before" in out
    assert "training the base model" not in out
    assert table_of(out) == table_of(finished.out)
    assert {path: path.read_bytes() for path in (finished.folder / "runs" / "list").rglob("*.*")} == before
    assert {path: path.stat().st_mtime_ns for path in (finished.folder / "checkpoints").rglob("*_seed*")} == files
    capsys.readouterr()
    unlearn("-L", str(finished.folder / "list.json"), "--nexp", "2", "--deterministic", *places)
    assert "8 runs finished without --deterministic and stay as they are" in capsys.readouterr().err


def test_the_same_seeds_elsewhere_give_the_same_figures_and_weights(finished: Finished, write: Write) -> None:
    write("list.json", json.loads((finished.folder / "list.json").read_text()))
    unlearn("-L", "list.json", "--nexp", "2")
    again = records_of("list")
    assert [record["id"] for record in again] == [record["id"] for record in finished.records]
    assert [record["metrics"] for record in again] == [record["metrics"] for record in finished.records]
    losses = [[[point["loss"] for point in record["curve"]] for record in records] for records in (again, finished[2])]
    assert losses[0] == losses[1]
    assert len(set(map(str, losses[0]))) == 8  # each seed's own
    names = kept("list")
    assert len(names) == 4
    for name in names:
        one = load_checkpoint(Path("checkpoints/list", name)).weights
        other = load_checkpoint(finished.folder / "checkpoints" / "list" / name).weights
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_only_what_is_missing_is_run(write: Write) -> None:
    entry = COMMON | {"method": "ga_small", "epochs": 1, "metrics": ["UA"]}
    write("list.json", [entry, {**entry, "class_to_forget": [1], "tag": "again"}])
    assert "1 run, 0 of them finished before" in unlearn("-L", "list.json", "--nexp", "1")
    titles = [row["title"] for row in json.loads(Path("runs/list/summary.json").read_text())]
    assert titles == ["base", "ga_small", "again: ga_small"]
    write("list.json", [entry, {**entry, "class_to_forget": 3}])
    out = unlearn("-L", "list.json", "--nexp", "2")
    assert "4 runs, 1 of them finished before" in out
    assert [line[:5] for line in out.splitlines() if line.startswith("[")] == ["[1/3]", "[2/3]", "[3/3]"]
    assert "2 runs, 2 of them finished before" in unlearn("-L", "list.json", "--nexp", "1")
    summary = json.loads(Path("runs/list/summary.json").read_text())
    assert [len(row["runs"]) for row in summary if row["kind"] == "method"] == [1, 1]
    write("list.json", [{**entry, "metrics": ["RA"], "tag": "a new name", "lr": 0.001}])
    out = unlearn("-L", "list.json", "--nexp", "1")
    assert "1 run, 1 of them finished before" in out
    assert "a new name" in out
    (row,) = (row for row in json.loads(Path("runs/list/summary.json").read_text()) if row["kind"] == "method")
    assert row["metrics"]["RA"]["n"] == 1


def test_an_interruption_keeps_finished_runs_and_the_same_command_goes_on(
    registry: None, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    @method()
    def halting(task: Task, *, epochs: PositiveInt = 1) -> None:
        """Change nothing; the second call is asked to end."""
        calls.append(epochs)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)

    entries = [COMMON | {"metrics": ["UA"], "method": name, "epochs": 1} for name in ("ga_small", "halting", "ft")]
    write("list.json", entries)
    assert main(["-L", "list.json", "--nexp", "2", "-NL"]) == 130
    out, err = capsys.readouterr()
    assert err == "salun-unlearn: interrupted: 3 of 6 runs are recorded; the same command does the rest\n"
    assert [record["settings"]["method"] for record in records_of("list")] == ["ga_small", "ga_small", "halting"]
    titles = [row["title"] for row in json.loads(Path("runs/list/summary.json").read_text())]
    assert titles == ["base", "ga_small", "halting"]
    assert "halting" in "".join(table_of(out))
    assert [name.split("_seed")[0] for name in kept("list")] == ["ga_small_class1"]
    out = unlearn("-L", "list.json", "--nexp", "2")
    assert "6 runs, 3 of them finished before" in out
    assert len(calls) == 3
    done = [(record["settings"]["method"], record["seed"]) for record in records_of("list")]
    assert done == [(name, seed) for name in ("ga_small", "halting", "ft") for seed in (0, 1)]
    assert not list(Path().rglob("*.part"))


def test_an_interruption_while_the_base_model_is_trained(
    monkeypatch: pytest.MonkeyPatch, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    write("list.json", {**SMALL, "class_to_forget": 1})
    monkeypatch.setattr("torch.optim.SGD.step", interrupt)
    assert main(["-L", "list.json", "-NL"]) == 130
    assert "interrupted: 0 of 5 runs are recorded; the same command does the rest" in capsys.readouterr().err
    assert sorted(str(path) for path in Path().rglob("*")) == ["list.json"]


def test_a_run_that_fails_ends_no_list_and_its_traceback_is_kept(
    registry: None, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = True

    @method()
    def faulty(task: Task) -> None:
        """Fail."""
        if broken:
            raise ZeroDivisionError("by chance")

    common = COMMON | {"metrics": ["UA"]}
    write("list.json", [{**common, "method": "faulty"}, {**common, "method": "ga_small", "epochs": 1}])
    assert main(["-L", "list.json", "--nexp", "1", "-NL"]) == 3
    assert len(records_of("list")) == 1
    (trace,) = Path("runs/list/failed").iterdir()
    assert trace.read_text().endswith("ZeroDivisionError: by chance\n")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("salun-unlearn: faulty, seed 0: ZeroDivisionError: by chance (")
    assert line.endswith(f"; the same command does it again; {trace} tells more")
    broken = False
    assert main(["-L", "list.json", "--nexp", "1", "-NL"]) == 0
    assert len(records_of("list")) == 2
    assert not trace.parent.exists()


def test_a_diverged_run_is_recorded_and_said(base_file: Path) -> None:
    flags = ["-c", BASE, "-CF", "0", "-M", "ga", "-E", "1", "-LR", "1e30", "--nexp", "1", "--metrics", "UA", "MIA"]
    out = unlearn(*flags)
    assert "diverged in" in out
    assert "1 (1 diverged in epoch " in out
    (record,) = records_of("command-line")
    assert record["diverged"] is True
    assert set(record["metrics"].values()) == {None}
    assert "1 run, 1 of them finished before" in unlearn(*flags)


def test_dry_run_prints_everything_and_does_nothing(
    base_file: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("few.json", [1])
    save_mask(Path("mask.pt"), {"weight": torch.ones(1, dtype=torch.bool)})
    masked = {"use_mask": True, "mask_thr": 0.3, "tag": "mine", "seed": 5}
    pruned = {**SMALL, "class_to_forget": 1, "method": "ft", "prune": 0.95}
    entries = [
        {"checkpoint": BASE, "class_to_forget": [3, 1], "method": "retrain"},
        {"checkpoint": BASE, "unlearning_rate": 0.1, **masked},
        {"idxs_to_forget": "few.json", "method": "ga", "lr": 0.5, "load_mask": "mask.pt", "metrics": ["UA", "TA"]},
        {**SMALL, "class_to_forget": 1, "epochs": 2},
        pruned,
        pruned | {"prune_epochs": 3, "budget": 100},
    ]
    write("list.json", entries)
    before = sorted(Path().rglob("*"))
    lines = unlearn("-L", "list.json", "--dry-run", "--nexp", "3").splitlines()
    assert lines[0] == f"1. retrain on {BASE}, forgetting class 1+3: 3 runs (seeds 0 to 2)"
    assert lines[1] == "   settings {}"
    what = f"2. rl + mask 0.3 on {BASE}, forgetting 0.1 of the training split [mine]: 3 runs (seeds 5 to 7)"
    assert lines[2] == what
    assert json.loads(lines[3].removeprefix("   settings "))["epochs"] == 10
    assert "3. ga + mask mask.pt on resnet18 on cifar10, forgetting the images in few.json: 3 runs" in lines[4]
    assert json.loads(lines[5].removeprefix("   settings "))["lr"] == 0.5
    assert lines[6] == "   metrics UA, TA"
    assert lines[7].startswith("4. rl on resnet_tiny on synthetic:n=100,size=8,classes=4, forgetting class 1: 3 runs")
    assert json.loads(lines[9].removeprefix("   recipe "))["epochs"] == 1
    assert re.fullmatch(r"   base model checkpoints/resnet_tiny_\S+_base-\w+\.pt, to be trained", lines[10])
    assert lines[11].startswith("5. prune 0.95 + ft on resnet_tiny on synthetic:n=100,size=8,classes=4, ")
    told = [line.strip() for line in lines if line.startswith(("   prune", "   budget"))]
    assert told == [
        "prune 0.95, then train for the recipe's epochs",
        "prune 0.95, then train for 3 epochs",
        "budget 100 image passes, mask included",
    ]
    assert lines[-1] == "list.json: 6 experiments, 18 runs"
    said = "classes and indices are checked once the data are there: data set 'cifar10' is not in data: put "
    assert said in capsys.readouterr().err
    out = unlearn("-c", BASE, "-CF", "3", "--dry-run")
    assert out.splitlines()[0] == f"1. rl on {BASE}, forgetting class 3: 5 runs (seeds 0 to 4)"
    assert out.splitlines()[-1] == "command line: 1 experiment, 5 runs"
    assert sorted(Path().rglob("*")) == before


# Metrics that are asked for of finished runs


def test_a_budget_is_of_all_entries_but_the_gold_standard_and_what_exceeds_it_is_told(write: Write) -> None:
    entries = [
        COMMON | {"method": "retrain"},
        COMMON | {"method": "ft", "epochs": 5, "batch_size": 64},
        COMMON | {"method": "not", "epochs": 5, "batch_size": 64, "budget": 10**9},
        COMMON | {"method": "ssd"},
    ]
    write("list.json", entries)
    flags = ["-L", "list.json", "--nexp", "1", "--keep", "none", "--budget", "400"]
    assert main([*flags, "--dry-run"]) == 0
    out = unlearn(*flags)
    assert kept("list") == []
    gold, *others = {record["id"]: record for record in records_of("list")}.values()
    assert "budget" not in gold["settings"]
    assert [record["settings"]["method"] for record in others] == ["ft", "negate", "ssd"]
    assert {record["settings"]["budget"] for record in others} == {400}
    passes = [int(record["metrics"]["passes"]) for record in others]
    assert passes[:2] == [400, 400]
    assert passes[2] > 400
    assert all(any(str(count) in line.split() for line in table_of(out)) for count in passes)
    assert "the budget does not hold for retraining" in out
    above = f"by work that cannot be cut: ssd (up to {passes[2]} of 400)"
    assert f"image passes above the budget, {above}" in out
    assert above in Path("runs/list/summary.md").read_text()


def test_metrics_can_be_asked_for_afterwards(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    entry = COMMON | {"metrics": ["UA"]}
    write("list.json", [entry | {"method": "retrain"}, entry | {"method": "ga_small", "epochs": 1}])
    unlearn("-L", "list.json", "--nexp", "2")
    out = unlearn("-L", "list.json", "--nexp", "2", "--metrics", "MIA_entropy", "ToW_MIA", "JS", "KLoM")
    assert "4 runs, 4 of them finished before" in out
    head = next(line for line in out.splitlines() if line.split()[:2] == ["UA", "%"])
    assert {"MIA_entropy", "ToW_MIA", "JS", "KLoM"} <= set(head.split())
    summary = json.loads(Path("runs/list/summary.json").read_text())
    method = next(row for row in summary if row["kind"] == "method")
    assert method["metrics"]["MIA_entropy"]["n"] == method["metrics"]["JS"]["n"] == 2
    assert method["metrics"]["KLoM"]["sd"] is None
    shutil.rmtree("runs/list/outputs")
    unlearn("-L", "list.json", "--nexp", "2", "--metrics", "JS", "ULiRA_auc")
    assert "outputs of 4 runs are not kept" in capsys.readouterr().err


def test_sources_of_randomness_are_said_in_the_table(write: Write) -> None:
    entry = {"model": "resnet_tiny", "dataset": "synthetic:n=90,size=8,classes=4", "unlearning_rate": 0.2}
    small = {"recipe": {"epochs": 1, "batch_size": 32}, "method": "ga_small", "epochs": 1, "metrics": ["UA", "RA"]}
    write("list.json", [entry | small])
    flags = ["-L", "list.json", "--nexp", "1", "--nbase", "2", "--nforget", "2"]
    assert "4 runs (seed 0, 2 base models, 2 forget sets)" in unlearn(*flags, "--dry-run")
    out = unlearn(*flags)
    assert "4 runs, 0 of them finished before" in out
    assert "2 base models" in out
    assert "2 forget sets" in out
    drawn = [record["settings"] for record in records_of("list")]
    seeds = {(settings["base"]["seed"], settings["forget"]["seed"]) for settings in drawn}
    assert seeds == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_run_that_ruins_the_model_is_told_in_words(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("list.json", [COMMON | {"method": "ga_small", "lr": 1.0, "epochs": 1, "batch_size": 8, "metrics": QUICK}])
    flags = ["-L", "list.json", "--nexp", "2"]
    out, err = unlearn(*flags), capsys.readouterr().err
    assert len(re.findall(r"ga_small, seed \d: UA .* s; lost \d+\.\d\d points of RA.* model; about", out)) == 2
    assert "\n↓ lost more than 5 points of RA or TA against the base model, by runs: ga_small (2 of 2)\n" in out
    said = "2 of 2 runs lost more than 5 points of RA or TA against the base model: ga_small; docs/choosing.md tells"
    assert err.splitlines()[-1] == f"salun-unlearn: {said} what to change"
    out, err = unlearn(*flags, "--utility-floor", "none"), capsys.readouterr().err
    assert "lost" not in out + err
