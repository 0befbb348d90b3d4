import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plugins import COMMANDS, FILES

from salun.cli import audit, extract, train, unlearn, viz
from salun.data.sources import SOURCES
from salun.unlearning import METHODS

MAINS = {"salun-train": train.main, "salun-unlearn": unlearn.main}
FLATTEN = ["--plugin", "my_method.py", "-M", "flatten", "--model", "resnet_tiny", "--dataset", "digits", "-CF", "0"]

Main = Callable[[list[str]], int]


@pytest.fixture(autouse=True)
def files() -> None:
    """Write the page's examples."""
    for name, code in FILES.items():
        Path(name).write_text(code)


def records() -> list[dict[str, Any]]:
    lines = Path("runs/command-line/records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def digest_of(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_the_commands_of_the_page_work_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [shlex.split(command) for command in COMMANDS if command.split()[0] in MAINS]
    assert len(commands) == len(FILES)
    for program, *arguments in commands:
        assert MAINS[program](arguments) == 0
    out = capsys.readouterr().out
    measured, unlearned = records()
    assert 0.5 < measured["metrics"]["forget_confidence"] <= 1
    assert measured["versions"]["plugin my_metric.py"] == digest_of("my_metric.py")
    assert unlearned["settings"]["method"] == "flatten"
    chosen = {"lr": 0.05, "epochs": 5, "batch_size": 64, "momentum": 0.9, "weight_decay": 0.0, "grad_clip": None}
    assert unlearned["settings"]["settings"] == chosen | {"schedule": "constant", "temperature": 1.0}
    assert unlearned["versions"]["plugin my_method.py"] == digest_of("my_method.py")
    assert unlearned["metrics"]["UA"] > 0.9
    assert unlearned["metrics"]["TA"] > 0.9
    passes = unlearned["passes"]["method"]
    assert passes["forward"] == passes["backward"] == 5 * 1295
    assert any(line.split()[:2] == ["flatten", f"{100 * unlearned['metrics']['UA']:.2f}"] for line in out.splitlines())
    assert "flatten" in Path("runs/command-line/summary.md").read_text()
    assert Path("checkpoints/resnet_tiny_parity_base.pt").is_file()
    reads_it_again_with_the_plugin(capsys)


def reads_it_again_with_the_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    """Read a checkpoint that was trained on a plugin's data set, which is forgotten as by a new process."""
    command = ["-D", "checkpoints/resnet_tiny_parity_base.pt", "-S", "10"]
    del SOURCES["parity"]
    assert extract.main(command) == 2
    assert "data set 'parity': unknown" in capsys.readouterr().err
    assert extract.main([*command, "--plugin", "my_data.py"]) == 0
    assert Path("features/resnet_tiny_parity_base.npz").is_file()


def test_a_finished_run_of_another_version_is_told(base_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--plugin", "my_method.py", "-M", "flatten", "-c", str(base_file), "-CF", "0", "-E", "1", "--nexp", "1"]
    assert unlearn.main([*flags, "-NL"]) == 0
    assert capsys.readouterr().err == ""
    with Path("my_method.py").open("a") as file:
        file.write("# changed\n")
    assert unlearn.main([*flags, "-NL"]) == 0
    out, err = capsys.readouterr()
    assert "1 run, 1 of them finished before" in out
    assert "plugin my_method.py: has changed since 1 of the finished runs" in err


def test_a_plugin_is_in_the_lists_and_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    plugins = ["--plugin", "my_method.py", "--plugin", "my_metric.py"]
    assert unlearn.main([*plugins, "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    entry = schema["$defs"]["flatten_entry"]["properties"]
    assert entry["lr"]["default"] == 0.05
    assert "forget_confidence" in entry["metrics"]["anyOf"][0]["items"]["enum"]
    assert unlearn.main([*plugins, "--list-methods", "--list-metrics"]) == 0
    out = capsys.readouterr().out
    assert "flatten" in out
    assert "forget_confidence" in out
    assert unlearn.main([*FLATTEN, "--dry-run"]) == 0
    assert "1. flatten on resnet_tiny on digits, forgetting class 0: 5 runs" in capsys.readouterr().out


def test_its_settings_are_validated_and_without_the_flag_it_is_unknown(
    refuse: Callable[[Main, list[str]], list[str]], write: Callable[[str, Any], Path]
) -> None:
    write("list.json", {"class_to_forget": 0, "method": "flatten", "lr": -1, "epoch": 2})
    lines = refuse(unlearn.main, ["--plugin", "my_method.py", "-L", "list.json"])
    assert lines == [
        "salun-unlearn: list.json: entry 1: lr: -1: input should be greater than 0",
        "salun-unlearn: list.json: entry 1: epoch: unknown key; did you mean 'epochs'?",
    ]
    METHODS.pop("flatten")
    (line,) = refuse(unlearn.main, FLATTEN[2:])
    assert line.startswith('salun-unlearn: command line: method: "flatten": unknown')


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (train.main, []),
        (unlearn.main, ["-CF", "0"]),
        (unlearn.main, ["--schema"]),
        (audit.main, ["-L", "list.json"]),
        (extract.main, []),
        (viz.main, ["cka"]),
    ],
)
def test_every_command_loads_plugins_before_all_else(
    main: Main, flags: list[str], refuse: Callable[[Main, list[str]], list[str]], write: Callable[[str, Any], Path]
) -> None:
    write("broken.py", "x = 1\n\nimport nowhere\n")
    (line,) = refuse(main, [*flags, "--plugin", "my_method.py", "--plugin", "broken.py"])
    assert line.endswith(": plugin broken.py: line 3: ModuleNotFoundError: No module named 'nowhere'")
    (line,) = refuse(main, [*flags, "--plugin", ""])
    assert "argument --plugin: must not be empty" in line
