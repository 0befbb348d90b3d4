import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trios
from recorded import recorded, write_runs

from salun.cli.viz import main
from salun.data.split import ForgetRequest

Refuse = Callable[[Any, list[str]], list[str]]
RUN = trios.run("rl")["id"]


@pytest.fixture
def trio() -> dict[str, Path]:
    return trios.put_trio()


def strictly(path: Path | str) -> dict[str, Any]:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refused)


def written(folder: str = "images") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_a_run_becomes_a_file_of_the_page(trio: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = recorded(
        seconds={"mask": 0.5, "method": 2.04, "evaluation": 9.0}, id=RUN, finished="2026-01-02T03:04:05+00:00"
    )
    write_runs(Path("runs/study/records.jsonl"), [record])
    assert main(["comparator"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == f"images/comparator/1/{RUN[:4]}.json\n"
    content = strictly(f"images/comparator/1/{RUN[:4]}.json")
    assert (content["ID"], content["FC"], content["RTE"]) == (RUN[:4], 1, 2.5)
    assert content["CreatedAt"] == "2026-01-02 03:04:05"
    assert "saliency_threshold" not in content
    before = Path(f"images/comparator/1/{RUN[:4]}.json").read_bytes()
    assert main(["comparator"]) == 0
    assert Path(f"images/comparator/1/{RUN[:4]}.json").read_bytes() == before


def test_the_comparators_definition_and_a_mask(trio: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    mask = {"keep": 0.25, "score": "sum", "batches": None, "file": None}
    trios.put(str(trio["unlearned"]), 1, trios.forget_of(), unlearned=trios.run(mask=mask))
    assert main(["comparator", "study/rl.pt", "--definition", "comparator", "--out", "page"]) == 0
    content = strictly(f"page/comparator/1/{RUN[:4]}.json")
    assert content["definition"] == "comparator"
    assert content["saliency_threshold"] == 0.25
    assert content["Method"] == "rl + mask 0.25"
    assert content["RTE"] == "N/A"
    assert "no record in runs; RTE is not known" in capsys.readouterr().err


def test_runs_whose_ids_begin_alike_do_not_overwrite_each_other(trio: dict[str, Path]) -> None:
    other = RUN[:4] + "f" * 12
    trios.put("checkpoints/study/other.pt", 5, trios.forget_of(), unlearned=trios.run("ga", id=other))
    for _ in range(2):
        assert main(["comparator"]) == 0
        assert len(written()) == 2
    named = {strictly(Path("images", name))["run"]: name for name in written()}
    assert set(named) == {RUN, other}
    assert sorted(len(Path(name).stem) for name in named.values()) == [4, 8]
    assert all(strictly(Path("images", name))["ID"] == Path(name).stem for name in named.values())


def test_models_that_the_page_cannot_show_are_named_and_the_others_go_on(
    trio: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    share = trios.forget_of(ForgetRequest(share=0.2))
    trios.put("checkpoints/share.pt", 5, share, unlearned=trios.run("ga", forget={"request": "0.2 of the images"}))
    assert main(["comparator"]) == 3
    assert written() == [f"comparator/1/{RUN[:4]}.json"]
    assert "share.pt: was to forget 0.2 of the images; the page knows one" in capsys.readouterr().err


def test_a_damaged_record_is_passed_over(trio: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    Path("runs/records.jsonl").write_text("{torn\n")
    assert main(["comparator"]) == 0
    assert "runs/records.jsonl: line 1 is no record" in capsys.readouterr().err


def test_refusals(trio: dict[str, Path], refuse: Refuse) -> None:
    Path("file").write_text("")
    for argv, reason in (
        (["nowhere"], "nowhere: no such folder"),
        (["--out", "file"], "/file is not a folder"),
        (["--definition", "other"], "argument --definition: invalid choice: 'other'"),
        (["base.pt"], "none of an unlearned model"),
    ):
        (line,) = refuse(main, ["comparator", *argv])
        assert reason in line
    trio["retrained"].unlink()
    (line,) = refuse(main, ["comparator", "--definition", "comparator"])
    assert "name one with --retrained" in line
    trios.put(str(trio["unlearned"]), 1, trios.forget_of(ForgetRequest(share=0.1)), unlearned=trios.run())
    (line,) = refuse(main, ["comparator"])
    assert line.startswith("salun-viz comparator: checkpoints/study/rl.pt: was to forget")
