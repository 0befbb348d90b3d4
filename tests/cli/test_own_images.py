"""Images of a folder: forgotten by name, then deleted, then unlearned again from where they lie now."""

import json
import shutil
from pathlib import Path

import pytest
from pictures import draw

from salun.cli.train import main as train
from salun.cli.unlearn import main as unlearn

CHEAP = ["--device", "cpu", "-NL"]
BASE = "checkpoints/base.pt"


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    draw(tmp_path / "pets", {"cat": 15, "dog": 15, "7": 15})
    flags = ["--model", "resnet_tiny", "--dataset", "folder:pets", "--epochs", "1", "--comment", "base"]
    assert train([*flags, *CHEAP]) == 0
    for file in Path("checkpoints").glob("resnet_tiny_folder-pets_base*"):
        file.rename(file.with_name(file.name.replace("resnet_tiny_folder-pets_", "")))
    rows = [line.split(",") for line in Path("checkpoints/base_manifest.csv").read_text().splitlines()]
    return [row[1] for row in rows if row[4] == "train"]


def ids() -> list[str]:
    (records,) = Path("runs").glob("*/records.jsonl")
    return [json.loads(line)["id"] for line in records.read_text().splitlines()]


def unlearned(*flags: str) -> int:
    return unlearn(["-c", BASE, "-M", "ga_small", "-E", "1", "--nexp", "1", "--metrics", "UA", *flags, *CHEAP])


def test_images_forgotten_by_name_may_be_deleted(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("\n".join(names[:4]))
    assert unlearned("-IF", "list.txt") == 0
    assert "list.txt: 4 listed: 4 in the training split\n" in capsys.readouterr().err
    (written,) = Path("checkpoints").rglob("*_list_*_manifest.csv")
    assert written.read_bytes() == Path("checkpoints/base_manifest.csv").read_bytes()
    shutil.move("pets", "elsewhere")
    assert unlearned("-IF", "list.txt", "--dataset", "folder:elsewhere") == 0
    assert len(ids()) == 1  # the same images: the same run
    for name in names[:2]:
        Path("elsewhere", name).unlink()
    assert unlearned("-IF", "list.txt", "--dataset", "folder:elsewhere", "--jobs", "2") == 0
    told = capsys.readouterr().err
    assert f"{BASE}: 2 of its images deleted since, and left out: {', '.join(names[:2])}\n" in told
    assert f"list.txt: 2 of them deleted since, and left out: {', '.join(names[:2])}\n" in told
    assert len(set(ids())) == 2
    (again,) = Path("checkpoints").rglob(f"*{ids()[0][:8]}.pt")
    Path("list.txt").write_text(names[5])
    flags = ["-c", str(again), "-M", "ft", "-E", "1", "--nexp", "1", "--metrics", "UA", "-IF", "list.txt", *CHEAP]
    assert unlearn([*flags, "--dataset", "folder:elsewhere"]) == 0


def test_classes_go_by_name_into_titles_and_odd_ones_are_told(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert unlearned("-CF", "dog") == 0
    assert "forgetting class dog: " in capsys.readouterr().out
    assert unlearned("-CF", "2") == 0
    assert len(ids()) == 1  # dog is class 2
    assert unlearned("-CF", "0") == 0
    assert "class 0 is folder '7'; \"7\" as a string names the folder\n" in capsys.readouterr().err
    assert unlearned("-CF", '"7"') == 0
    assert len(ids()) == 2
    assert unlearned("-CF", "dgo") == 2
    assert "class 'dgo': unknown; did you mean 'dog'?" in capsys.readouterr().err
    assert unlearned("-CF", "dog", "--dataset", "digits") == 2
    assert "command line: dataset: excluded by checkpoint" in capsys.readouterr().err
