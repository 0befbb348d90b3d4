import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from salun.cli import audit, extract, train, unlearn, viz
from salun.cli.parsers import unlearn_parser, viz_parser
from salun.experiments.schema import json_schema, validate
from salun.metrics import METRICS, load_metrics
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, load_methods

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line]
MAINS = {
    "salun-train": train.main,
    "salun-unlearn": unlearn.main,
    "salun-extract": extract.main,
    "salun-viz": viz.main,
    "salun-audit": audit.main,
}


def by_program(wanted: bool) -> list[str]:
    return [command for command in COMMANDS if (command.split()[0] in MAINS and command != "salun-train") == wanted]


SHORT = {"recipe": {"epochs": 1, "batch_size": 64}}


def leave_a_short_demo(path: Path) -> None:
    """Leave what the README's later commands find after `scripts/demo`: a short list with its first and last entry."""
    entries = json.loads((ROOT / "exp/quickstart.json").read_text())
    path.write_text(json.dumps([entry | SHORT for entry in (entries[0], entries[-1])]))
    assert unlearn.main(["-L", str(path), "--nexp", "1", "-NL"]) == 0


def shorten_the_audit(path: Path) -> None:
    """Let the list that is audited train its shadow models for an epoch of few images only, and hold one method."""
    short = SHORT | {"epochs": 1, "dataset": "synthetic:n=500,size=8,classes=4"}
    path.write_text(json.dumps([entry | short for entry in json.loads(path.read_text())[-1:]]))


# What makes a command cheap when it is put behind it: the command itself is as it is printed.
CHEAP = {
    "salun-train": "--epochs 1",
    "salun-unlearn -c": "-E 1 --nexp 1",
    "salun-extract": "-S 100",
    "salun-viz cka": "-S 40 --dpi 20",
    "salun-viz comparator": "",
    "salun-viz": "--dpi 20",
}


@pytest.mark.slow
@pytest.mark.parametrize("flags", [CHEAP, {}], ids=["cheaply", "as printed"])
def test_the_commands_run_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, str]) -> None:
    shutil.copytree(ROOT / "exp", tmp_path / "exp")
    shorten_the_audit(tmp_path / "exp/audit.json")
    commands = by_program(True)
    assert len(commands) >= 14
    for command in commands:
        cheap = next((more for start, more in flags.items() if command.startswith(start)), "")
        program, *arguments = shlex.split(f"{command} {cheap}")
        if program == "salun-extract":
            leave_a_short_demo(tmp_path / "quickstart.json")
        assert MAINS[program](arguments) == 0, command
        out, err = capsys.readouterr()
        assert out, command
        assert "Traceback" not in err, command
    left_out = json.loads((tmp_path / "checkpoints/resnet_tiny_digits_RF_forget.json").read_text())
    again = json.loads((tmp_path / "checkpoints/resnet_tiny_digits_RF-again_forget.json").read_text())
    assert left_out == again


def test_nothing_else_is_promised() -> None:
    assert by_program(False) == ["scripts/demo", "scripts/test", "salun-train"]


def write_tiny_cifar(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        content = {"data": random.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [str(label) for label in range(10)]}, protocol=2)
    )


@pytest.mark.slow
def test_without_flags_it_trains_resnet18_on_cifar10(tmp_path: Path) -> None:
    write_tiny_cifar(tmp_path / "data/cifar-10-batches-py")
    assert train.main([]) == 0
    config = torch.load(tmp_path / "checkpoints/resnet18_cifar10_base.pt", weights_only=True)["config"]
    assert (config["model"], config["dataset"], config["recipe"]) == ("resnet18", "cifar10", Recipe().model_dump())


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["scripts/demo", "--nexp", "1"], ["scripts/test", "--collect-only"]])
def test_the_scripts_set_themselves_up(tmp_path: Path, arguments: list[str]) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | {"PYTHON": sys.executable}
    done = subprocess.run(arguments, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv/bin/salun-train").exists()


def rows_after(heading: str) -> list[list[str]]:
    table = TEXT[TEXT.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def documented_methods() -> set[str]:
    page = (ROOT / "docs/methods.md").read_text().replace("\\", "")
    return set(re.findall(r"^## (\w+)", page, re.MULTILINE))


def test_the_keys_table_is_complete_and_its_defaults_true() -> None:
    rows = rows_after("| key | flag | meaning | default |")
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row[0])}
    load_methods()
    settings = {setting for name in documented_methods() for setting in METHODS[name].settings}
    entries = [shape["properties"] for shape in json_schema()["$defs"].values() if "method" in shape["properties"]]
    shared = set.intersection(*map(set, entries))
    assert named == shared | settings
    for row in rows:
        keys = re.findall(r"`(\w+)`", row[0])
        if len(keys) == 1 and keys[0] in (
            "use_mask",
            "mask_thr",
            "mask_score",
            "seed",
            "split_seed",
            "forget_seed",
            "method",
        ):
            default = next(entry for entry in entries if entry["method"]["default"] == "rl")[keys[0]].get("default")
            assert row[3].strip("`") == (json.dumps(default) if not isinstance(default, str) else default), keys[0]


def test_the_flags_of_the_keys_table_exist() -> None:
    flags = unlearn_parser().format_help()
    for row in rows_after("| key | flag | meaning | default |"):
        for flag in re.findall(r"`(-[\w-]+)`", row[1]):
            assert re.search(rf"^ +(-\w+, )?{flag}\b", flags, re.MULTILINE), flag


def test_the_tables_of_extract_and_viz_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_after("| command | what it draws | |")
    assert [row[0].strip("`") for row in rows] == re.findall(r"^    (\w+)", viz_parser().format_help(), re.MULTILINE)
    for row in rows:
        with pytest.raises(SystemExit):
            viz.main([row[0].strip("`"), "--help"])
        known = capsys.readouterr().out
        for flag in re.findall(r"`(--[\w-]+)", row[2]):
            assert flag in known, flag
    with pytest.raises(SystemExit):
        extract.main(["--help"])
    known = capsys.readouterr().out
    for row in rows_after("| flag of `salun-extract` | meaning |"):
        for flag in re.findall(r"`(--?[\w-]+)", row[0]):
            assert flag in known, flag


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) >= 8
    for name in pictures:
        head = (ROOT / name).read_bytes()[:4]
        assert head in (b"\x89PNG", b"GIF8"), name
        assert (ROOT / name).stat().st_size < 2**21, name


def test_every_method_and_metric_is_explained() -> None:
    load_methods()
    load_metrics()
    methods = documented_methods()
    assert methods <= set(METHODS)
    assert {row[0].strip("`") for row in rows_after("| name | what it does |")} == methods
    metrics = {name for row in rows_after("| metric | definition | good when |") for name in row[0].split(", ")}
    page = (ROOT / "docs/metrics.md").read_text().replace("\\", "")
    assert metrics == {name for names in re.findall(r"^### (.+)$", page, re.MULTILINE) for name in names.split(", ")}
    assert metrics <= set(METRICS)


def test_the_example_list_is_valid() -> None:
    block = re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    assert [entry.method for entry in validate(json.loads(block[1]), "README.md")] == [
        "retrain",
        "rl_split",
        "rl_split",
    ]
