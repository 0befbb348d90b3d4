import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lists import BASE, SHORT, SMALL, entries, train_small

from salun.cli import audit, unlearn
from salun.errors import SalunError
from salun.experiments.source import COMMAND_LINE, check_source, find_list, keep_source, source_of
from salun.models.checkpoint import Checkpoint, save_checkpoint

RUNS = Path("runs/x")
FLAGS = ["--nexp", "1", "-NL"]


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return train_small()


@pytest.fixture(autouse=True)
def two_lists(alone: None, small: Checkpoint) -> None:
    save_checkpoint(Path(BASE), small)
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "x.json").write_text(json.dumps(entries({"seed": ord(name)})))


def error_of(call: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert call() == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def seeds(folder: Path = RUNS) -> list[int]:
    return [json.loads(line)["seed"] for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_second_list_of_the_same_name_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert unlearn.main(["-L", "a/x.json", *FLAGS]) == 0
    before = {path: path.read_bytes() for path in RUNS.iterdir() if path.is_file()}
    line = error_of(lambda: unlearn.main(["-L", "b/x.json", *FLAGS, *more]), capsys)
    said = "runs/x: holds the results of a/x.json; --name gives those of b/x.json another folder"
    assert line == f"salun-unlearn: {said}"
    assert {path: path.read_bytes() for path in RUNS.iterdir() if path.is_file()} == before
    assert unlearn.main(["-L", "b/x.json", "--name", "y", *FLAGS, *more]) == 0
    assert seeds() == [ord("a")]
    assert Path("runs/y/summary.json").exists() == Path("checkpoints/y").exists() == (not more)


def test_a_list_that_is_edited_moved_or_named_otherwise_goes_on() -> None:
    assert unlearn.main(["-L", "a/x.json", *FLAGS]) == 0
    Path("a/x.json").write_text(json.dumps(entries({"seed": 5})))
    assert unlearn.main(["-L", str(Path("a/x.json").resolve()), *FLAGS]) == 0
    Path("c").mkdir()
    Path("a/x.json").rename("c/x.json")
    assert unlearn.main(["-L", "c/x.json", *FLAGS]) == 0
    Path("d").symlink_to("c")
    assert unlearn.main(["-L", "d/x.json", *FLAGS]) == 0
    assert seeds() == [ord("a"), 5]
    assert json.loads((RUNS / "source.json").read_text()) == {"list": "../../c/x.json"}


def test_results_that_are_copied_with_their_list_belong_to_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_source(RUNS, "a/x.json")
    for name in ("a", "runs"):
        shutil.copytree(name, f"copy/{name}")
    monkeypatch.chdir("copy")
    check_source(RUNS, "a/x.json")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"list": 5}', '{"list": "\\u0000"}', json.dumps({"list": "x" * 9000})]
)
def test_what_does_not_say_whose_it_is_is_nobodys(content: str) -> None:
    RUNS.mkdir(parents=True)
    (RUNS / "source.json").write_text(content)
    keep_source(RUNS, "a/x.json")
    assert json.loads((RUNS / "source.json").read_text()) == {"list": "../../a/x.json"}


def test_the_command_line_has_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert unlearn.main(["-c", BASE, "-CF", "0", "-M", "ga_small", "-E", "1", "--metrics", "UA", *FLAGS]) == 0
    Path("a/x.json").rename("command line.json")
    line = error_of(lambda: unlearn.main(["-L", "command line.json", *FLAGS]), capsys)
    said = "runs/command-line: holds the results of the command line; --name gives those of command line.json another"
    assert line == f"salun-unlearn: {said} folder"
    keep_source(RUNS, "b/x.json")
    call = ["-c", BASE, "-CF", "0", "--name", "x", *FLAGS]
    line = error_of(lambda: unlearn.main(call), capsys)
    assert f"holds the results of b/x.json; --name gives those of the {COMMAND_LINE} another folder" in line


def test_an_audit_does_not_overwrite_another_lists(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"model": "resnet_tiny", "dataset": SMALL, "recipe": SHORT, "unlearning_rate": 0.3, "method": "ga_small"}
    for name in ("a", "b"):
        Path(name, "x.json").write_text(json.dumps([entry | {"epochs": 1}]))
    keep_source(RUNS, "a/x.json")
    flags = ["--shadows", "6", "--dpi", "30"]
    line = error_of(lambda: audit.main(["-L", "b/x.json", *flags]), capsys)
    assert line == "salun-audit: runs/x: holds the results of a/x.json; --name gives those of b/x.json another folder"
    assert audit.main(["-L", "b/x.json", *flags, "--name", "y"]) == 0
    assert Path("runs/y/audit.json").exists()
    assert Path("images/y/audit.png").exists()


def test_lists_of_the_package_are_found_by_name_where_no_file_has_it() -> None:
    shipped = find_list("quickstart")
    assert json.loads(Path(shipped).read_text())[0]["method"] == "retrain"
    assert find_list("a/x.json") == "a/x.json"
    assert find_list("gone.json") == "gone.json"
    Path("quickstart").mkdir()
    assert find_list("quickstart") == shipped
    Path("audit").write_text("[]")
    assert find_list("audit") == "audit"
    with pytest.raises(SalunError, match=r"^list 'gone': no such file; .*: all_methods_class, all_"):
        find_list("gone")


def test_entries_share_a_folder_with_none_but_those_added_to_them() -> None:
    first, second = {"method": "ft", "lr": 0.1}, {"method": "ga"}
    keep_source(RUNS, source_of([first]))
    keep_source(RUNS, source_of([second, dict(reversed(first.items()))]))
    for other in (source_of([first]), source_of([second, first | {"lr": 0.2}])):
        with pytest.raises(
            SalunError, match=r"runs/x: holds the results of other entries; name= gives those of these ent"
        ):
            check_source(RUNS, other)
    with pytest.raises(SalunError, match=r"of other entries; --name gives those of a/x.json another folder"):
        check_source(RUNS, "a/x.json")
