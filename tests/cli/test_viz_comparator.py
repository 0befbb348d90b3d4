import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trios
from records import recorded, write_runs

from salun.cli.viz import main
from salun.data.split import ForgetRequest

Refuse = Callable[[Any, list[str]], list[str]]
RUN = trios.run("rl")["id"]


@pytest.fixture
def trio() -> dict[str, Path]:
    return trios.put_trio()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay points out in no time, where their places do not matter."""
    monkeypatch.setattr("salun.latent.comparator_json.umap", lambda features, *_: features[:, :2])


def strictly(path: Path | str) -> dict[str, Any]:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refused)


def written(folder: str = "images") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
def test_the_comparators_definition_and_a_mask(trio: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    mask = {"keep": 0.25, "score": "sum", "batches": None, "file": None}
    trios.put(str(trio["unlearned"]), 1, trios.forget_of(), unlearned=trios.run(mask=mask))
    assert main(["comparator", "study/rl.pt", "--definition", "comparator", "--out", "page"]) == 0
    assert written("page") == [f"comparator/1/{RUN[:4]}_comparator.json"]
    content = strictly(f"page/comparator/1/{RUN[:4]}_comparator.json")
    assert content["ID"] == RUN[:4]
    assert content["definition"] == "comparator"
    assert content["saliency_threshold"] == 0.25
    assert content["Method"] == "rl + mask 0.25"
    assert content["RTE"] == "N/A"
    assert "no record in runs; RTE is not known" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
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
    before = written()
    assert main(["comparator", "study/rl.pt", "--definition", "comparator"]) == 0
    assert written() == sorted([*before, named[RUN].replace(".json", "_comparator.json")])  # one id in both definitions


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("run", ["../../x", "/etc/passwd", "", "~", "a\0b", "\x1b]0;x\x07", "x" * 5000])
def test_what_a_checkpoint_says_of_its_run_stays_in_the_folder(trio: dict[str, Path], run: str) -> None:
    trios.put(str(trio["unlearned"]), 1, trios.forget_of(), unlearned=trios.run(id=run))
    before = {path for path in Path().rglob("*") if path.is_file()}
    assert main(["comparator"]) == 0
    (path,) = {path for path in Path().rglob("*") if path.is_file()} - before
    assert path.parent == Path("images/comparator/1")
    assert path.name.isprintable()


@pytest.mark.usefixtures("quick")
def test_a_time_that_was_known_is_kept_when_the_record_is_lost(
    trio: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, path = Path("runs/records.jsonl"), f"images/comparator/1/{RUN[:4]}.json"
    for seconds, expected in ((2.0, 2.5), (None, 2.5), (7.0, 7.5)):
        if seconds is None:
            runs.unlink()
        else:
            write_runs(runs, [recorded(seconds={"mask": 0.5, "method": seconds, "evaluation": 9.0}, id=RUN)])
        assert main(["comparator"]) == 0
        assert strictly(path)["RTE"] == expected
        assert (f"no record in runs; RTE is kept as it was in {path}" in capsys.readouterr().err) == (seconds is None)


@pytest.mark.usefixtures("quick")
def test_the_time_of_another_run_is_not_taken(trio: dict[str, Path], write: Callable[[str, Any], Path]) -> None:
    for digits in (4, 8, len(RUN)):
        write(f"images/comparator/1/{RUN[:digits]}.json", {"run": "another", "RTE": 9.0})
    assert main(["comparator"]) == 0
    assert strictly(f"images/comparator/1/{RUN}.json")["RTE"] == "N/A"


@pytest.mark.usefixtures("quick")
def test_models_that_the_page_cannot_show_are_named_and_the_others_go_on(
    trio: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trios.put("checkpoints/orphan.pt", 3, trios.forget_of(), split_seed=1, unlearned=trios.run("ga"))
    share = trios.forget_of(ForgetRequest(share=0.2))
    trios.put("checkpoints/share.pt", 5, share, unlearned=trios.run("ga", forget={"request": "0.2 of the images"}))
    assert main(["comparator"]) == 3
    assert written() == [f"comparator/1/{RUN[:4]}.json"]
    err = capsys.readouterr().err
    assert "salun-viz comparator: checkpoints/orphan.pt: its base model (" in err
    assert "share.pt: was to forget 0.2 of the images; the page knows one" in err


def test_refusals(trio: dict[str, Path], refuse: Refuse) -> None:
    Path("file").write_text("")
    for argv, reason in (
        (["--out", "file"], "/file is not a folder"),
        (["--definition", "other"], "argument --definition: invalid choice: 'other'"),
        (["base.pt"], "none of an unlearned model"),
    ):
        (line,) = refuse(main, ["comparator", *argv])
        assert reason in line
    trio["retrained"].unlink()
    (line,) = refuse(main, ["comparator", "--definition", "comparator"])
    assert "name one with --retrained" in line
