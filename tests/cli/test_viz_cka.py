import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trios
from PIL import Image

from salun.cli.viz import main
from salun.data.split import ForgetRequest

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]

SMALL = ["-S", "60", "--batch-size", "32", "--dpi", "50"]
LAYERS = ["conv1", *(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)), "fc"]
SETS = ["train, forgotten", "train, other", "test, forgotten", "test, other"]


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def written() -> list[str]:
    return sorted(str(path.relative_to("images")) for path in Path("images").rglob("*") if path.is_file())


@pytest.fixture
def trio() -> dict[str, Path]:
    return trios.put_trio()


def test_without_paths_every_unlearned_model_is_compared_and_the_table_names_set_models_and_layer(
    trio: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trio["unlearned"], "checkpoints/study/again.pt")
    assert main(["cka", *SMALL]) == 0
    assert written() == [f"study/{name}/cka.{ending}" for name in ("again", "rl") for ending in ("csv", "png")]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["images/study/again/cka.png", "images/study/rl/cka.png"]
    assert captured.err == ""
    with Image.open("images/study/rl/cka.png") as picture:
        assert picture.width > picture.height > 100
    table = rows("images/study/rl/cka.csv")
    assert list(dict.fromkeys(row["set"] for row in table)) == SETS
    pairs = [("unlearned", "base"), ("unlearned", "retrained"), ("retrained", "base")]
    assert list(dict.fromkeys((row["first"], row["second"]) for row in table)) == pairs
    assert [row["layer"] for row in table] == LAYERS * 12
    assert all(row["layer"] == row["other_layer"] for row in table)
    images = {row["set"]: int(row["images"]) for row in table}
    assert images["train, other"] == 60
    assert 0 < images["test, forgotten"] < images["train, forgotten"] < 60
    assert all(-1 <= float(row["cka"]) <= 1 for row in table)


def test_every_layer_with_every_layer(trio: dict[str, Path]) -> None:
    assert main(["cka", "study/rl.pt", *SMALL]) == 0
    assert main(["cka", "study/rl.pt", "--all-layers", "--layers", "conv1", "fc", *SMALL]) == 0
    table = rows("images/study/rl/cka_all_layers.csv")
    assert len(table) == 4 * 3 * 2 * 2
    pairs = [(row["layer"], row["other_layer"]) for row in table[:4]]
    assert pairs == [("conv1", "conv1"), ("conv1", "fc"), ("fc", "conv1"), ("fc", "fc")]
    alone = {tuple(row.values())[:-1]: float(row["cka"]) for row in rows("images/study/rl/cka.csv")}
    for row in table:
        if row["layer"] == row["other_layer"]:
            assert float(row["cka"]) == pytest.approx(alone[tuple(row.values())[:-1]], abs=1e-9)
    assert Path("images/study/rl/cka_all_layers.png").is_file()


def test_a_random_forget_set_leaves_a_set_empty(trio: dict[str, Path]) -> None:
    listed = trios.forget_of(ForgetRequest(share=0.2))
    trios.put("checkpoints/share.pt", 3, listed, unlearned=trios.run(base=trios.identity(trio["base"])))
    assert main(["cka", "share.pt", *SMALL]) == 0
    table = rows("images/share/cka.csv")
    empty = [row for row in table if row["set"] == "test, forgotten"]
    assert {(row["images"], row["cka"]) for row in empty} == {("0", "")}
    assert all(row["cka"] for row in table if row["set"] != "test, forgotten")


def test_without_a_retrained_model_there_is_no_yardstick(
    trio: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trio["retrained"].unlink()
    assert main(["cka", *SMALL]) == 0
    assert {(row["first"], row["second"]) for row in rows("images/study/rl/cka.csv")} == {("unlearned", "base")}
    assert "--retrained names one" in capsys.readouterr().err


def test_a_dead_layer_is_told_from_a_lack_of_images(trio: dict[str, Path]) -> None:
    content = torch.load(trio["unlearned"], weights_only=True)
    content["model"]["fc.weight"].zero_()
    torch.save(content, trio["unlearned"])
    assert main(["cka", "--format", "svg", *SMALL]) == 0
    empty = {(row["layer"], row["first"]) for row in rows("images/study/rl/cka.csv") if not row["cka"]}
    assert empty == {("fc", "unlearned")}
    assert "a layer gives the same for all of them" in Path("images/study/rl/cka.svg").read_text()


def test_models_that_cannot_be_compared_are_named_and_the_others_go_on(
    trio: dict[str, Path], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("checkpoints/broken.pt", b"nothing")
    trios.put("checkpoints/missing.pt", 3, trios.forget_of(), split_seed=1, unlearned=trios.run())
    trios.put("checkpoints/unknown.pt", 4, unlearned=trios.run())
    for seed in (5, 6):
        trios.put(f"checkpoints/base{seed}.pt", seed, split_seed=2)
    trios.put("checkpoints/which.pt", 7, trios.forget_of(), split_seed=2, unlearned=trios.run())
    vit = {"model": "vit_tiny_patch16_224"}
    base = trios.identity(trios.put("checkpoints/vit.pt", **vit))
    trios.put("checkpoints/other.pt", 1, trios.forget_of(), unlearned=trios.run(base=base), **vit)
    assert main(["cka", "--layers", "conv1", *SMALL]) == 3
    assert written() == ["study/rl/cka.csv", "study/rl/cka.png"]
    lines = sorted(capsys.readouterr().err.splitlines())
    reasons = (
        "broken.pt: ",
        "missing.pt: its base model (",
        "other.pt: --layers conv1: the model has none of that name",
        "unknown.pt: does not record which images",
        "which.pt: ",
    )
    for line, reason in zip(lines, reasons, strict=True):
        assert line.startswith(f"salun-viz cka: checkpoints/{reason}")
    assert "checkpoints/base5.pt and" in lines[-1]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["base.pt"], "base.pt: 1 readable checkpoints, none of an unlearned model"),
        (["--layers", "layer9"], "--layers layer9: the model has none of that name; did you mean 'layer"),
        (["-S", "3"], "-S 3: at least 4"),
        (["--batch-size", "2"], "--batch-size 2: at least 4"),
        (["--base", "checkpoints/study"], "checkpoints/study: holds 2 checkpoints; name one"),
        (["--retrained", "base.pt"], "--retrained checkpoints/base.pt: was trained without other images than"),
        (["--out", "checkpoints/base.pt"], "base.pt is not a folder"),
    ],
)
def test_refusals(trio: dict[str, Path], refuse: Refuse, argv: list[str], reason: str) -> None:
    (line,) = refuse(main, ["cka", *argv])
    assert line.startswith("salun-viz cka: ")
    assert reason in line
