import json
import shutil
from pathlib import Path

import pytest
from pictures import draw

from salun.cli.extract import main as extract
from salun.cli.train import main as train
from salun.cli.unlearn import main as unlearn
from salun.cli.viz import main as viz
from salun.latent.features import read_features

CHEAP = ["-M", "ga_small", "-E", "1", "--nexp", "1", "--metrics", "UA", "--device", "cpu", "-NL"]
BASE = "checkpoints/resnet_tiny_folder-pets_base.pt"
MANIFEST = Path("checkpoints/resnet_tiny_folder-pets_base_manifest.csv")


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    draw(tmp_path / "pets", {"cat": 15, "dog": 15, "7": 15})
    assert train(["--model", "resnet_tiny", "--dataset", "folder:pets", "--epochs", "1", "--device", "cpu", "-NL"]) == 0
    rows = [line.split(",") for line in MANIFEST.read_text().splitlines()]
    return [row[1] for row in rows if row[4] == "train"]


def ids() -> list[str]:
    (records,) = Path("runs").glob("*/records.jsonl")
    return [json.loads(line)["id"] for line in records.read_text().splitlines()]


def test_images_forgotten_by_name_may_be_deleted(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("\n".join(names[:4]))
    flags = ["-IF", "list.txt", *CHEAP]
    assert unlearn(["-c", BASE, *flags]) == 0
    assert "list.txt: 4 listed: 4 in the training split\n" in capsys.readouterr().err
    (written,) = Path("checkpoints").rglob("*_list_*_manifest.csv")
    assert written.read_bytes() == MANIFEST.read_bytes()
    shutil.move("pets", "elsewhere")
    flags += ["--dataset", "folder:elsewhere"]
    assert unlearn(["-c", BASE, *flags]) == 0
    assert len(ids()) == 1  # the same images: the same run
    for name in names[:2]:
        Path("elsewhere", name).unlink()
    assert unlearn(["-c", BASE, *flags]) == 0
    told, gone = capsys.readouterr().err, ", ".join(names[:2])
    assert "list.txt: 4 listed: 2 in the training split, 2 deleted since\n" in told
    assert f"{BASE}: 2 of its images deleted since, and left out: {gone}\n" in told
    assert f"list.txt: 2 of them deleted since, and left out: {gone}\n" in told
    assert len(set(ids())) == 2
    (again,) = Path("checkpoints").rglob(f"*{ids()[0][:8]}.safetensors")
    Path("list.txt").write_text(names[5])
    assert unlearn(["-c", str(again), *flags]) == 0
    capsys.readouterr()
    assert extract(["-D", str(again), "--dataset", "folder:elsewhere", "--split", "forget"]) == 0
    assert ": 2 x 128 (ga_small; 2 forgotten)" in capsys.readouterr().out
    assert extract(["-D", str(again), "--dataset", "folder:elsewhere", "--split", "train"]) == 0
    features = read_features(next(Path("features").rglob("*.npz")))
    assert len(features.features) == len(names) - 2
    assert viz(["cka", str(again), "--base", BASE, "--dataset", "folder:elsewhere", "-B", "4", "--dpi", "20"]) == 0
    capsys.readouterr()
    for command in (lambda: extract(["-D", str(again)]), lambda: unlearn(["-c", BASE, "-CF", "cat", *CHEAP])):
        assert command() == 2
        assert "have moved, --dataset folder:NEW names their place\n" in capsys.readouterr().err
    for name in names[2:4]:
        Path("elsewhere", name).unlink()
    Path("list.txt").write_text("\n".join(names[:4]))
    assert unlearn(["-c", BASE, *flags]) == 2
    gone = "none of these images is in the training split; 4 of them deleted since: unlearning needs the images"
    assert gone in capsys.readouterr().err


def test_classes_go_by_name_into_titles(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dog", "2", "0", '"7"'):
        assert unlearn(["-c", BASE, "-CF", name, *CHEAP]) == 0
    assert len(ids()) == 2  # dog is class 2, and 7 is class 0
    output = capsys.readouterr()
    assert "forgetting class dog: " in output.out
    assert output.err.count("class 0 is folder '7'; \"7\" as a string names the folder '7'\n") == 1
    assert unlearn(["-c", BASE, "-CF", "7", *CHEAP]) == 2
    told = "class 7: 'folder:pets' has the classes 0 to 2; \"7\" as a string names the class '7'"
    assert told in capsys.readouterr().err
    assert unlearn(["-c", BASE, "-CF", "1", "--dry-run", *CHEAP]) == 0
    assert "forgetting class cat: 1 run" in capsys.readouterr().out
    assert unlearn(["-c", BASE, "-CF", "dgo", *CHEAP]) == 2
    assert "class 'dgo': unknown; did you mean 'dog'?" in capsys.readouterr().err
