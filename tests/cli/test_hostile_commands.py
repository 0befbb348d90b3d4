import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Bomb
from PIL import Image

from salun.cli import audit, extract, train, unlearn, viz

Refuse = Callable[[Any, list[str]], list[str]]
SECRET = "5ecret0123456789abcdef0123456789abcdef01"
FORGET = ["-CF", "0", "-NL"]


def bomb_files(folder: Path, mark: Path) -> dict[str, str]:
    """A file of each kind that is a pickle, or holds one."""
    folder.mkdir()
    files = {suffix: str(folder / f"bomb.{suffix}") for suffix in ("pt", "mask", "npz", "json")}
    torch.save({"model": Bomb(mark), "optimizer": None, "config": {}}, files["pt"])
    torch.save({"fc.weight": Bomb(mark)}, files["mask"])
    np.savez(files["npz"], features=np.array([Bomb(mark)], dtype=object))
    Path(files["json"]).write_bytes(pickle.dumps(Bomb(mark)))
    return files


def test_a_pickle_in_any_file_that_a_command_takes_is_refused_and_does_not_run(
    tmp_path: Path, refuse: Refuse, base_file: Path
) -> None:
    mark = tmp_path / "mark"
    file = bomb_files(tmp_path / "in", mark)
    for main, argv in (
        (unlearn.main, ["-c", file["pt"], *FORGET]),
        (unlearn.main, ["-c", str(base_file), "-LM", file["mask"], *FORGET]),
        (unlearn.main, ["-c", str(base_file), "-IF", file["json"], "-NL"]),
        (unlearn.main, ["-L", file["json"], "-NL"]),
        (audit.main, ["-L", file["json"]]),
        (train.main, ["--dataset", "digits", "--itf", file["json"], "-NL"]),
        (viz.main, ["tsne", file["npz"], file["npz"]]),
        (viz.main, ["umap", file["json"], file["json"]]),
    ):
        lines = refuse(main, argv)
        assert lines, argv
        assert all(line.isprintable() for line in lines)
    assert extract.main(["-D", str(Path(file["pt"]).parent)]) in (2, 3)
    assert not mark.exists()


@pytest.mark.parametrize("text", ["\x1b]0;x\x07", "../../../x", "a\nb", "\u202e", "/etc/passwd", "x" * 3000])
def test_harmful_names_in_a_list_leave_one_line_a_mistake(refuse: Refuse, write: Any, text: str) -> None:
    for key in ("method", "dataset", "model", "checkpoint", "idxs_to_forget", "load_mask", "metrics", text):
        path = write("list.json", [{"class_to_forget": 0, "dataset": "digits"} | {key: text}])
        for line in refuse(unlearn.main, ["-L", str(path), "-NL"]):
            assert line.startswith("salun-unlearn: ")
            assert line.isprintable()


def fill_folder(root: Path, count: int = 20) -> None:
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = np.full((8, 8, 3), 200 * label, np.uint8) + np.uint8(number)
            Image.fromarray(image).save(root / name / f"{number:02}.png")


TRAIN = ["--dataset", "folder:x", "--model", "resnet_tiny", "--epochs", "1", "--device", "cpu", "-NL"]


def test_corrupt_images_are_refused_or_named_and_skipped(
    tmp_path: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_folder(tmp_path / "x")
    (tmp_path / "x" / "b" / "03.png").write_bytes(b"no image")
    (line,) = refuse(train.main, TRAIN)
    assert "x/b/03.png" in line
    assert train.main([*TRAIN, "--skip-corrupt"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert len(told) == 1
    assert "x/b/03.png" in told[0]
    (file,) = Path("checkpoints").glob("*.pt")
    one = ["-c", str(file), "-CF", "0", "-M", "ga", "-E", "1", "--nexp", "1", "--device", "cpu", "-NL"]
    assert any("x/b/03.png" in line for line in refuse(unlearn.main, one))
    assert unlearn.main([*one, "--skip-corrupt"]) == 0
    assert sum("skipped" in line for line in capsys.readouterr().err.splitlines()) == 1
    assert extract.main(["-D", "checkpoints", "--device", "cpu", "--skip-corrupt"]) == 0
    assert sum("skipped" in line for line in capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_a_secret_of_dotenv_is_in_nothing_that_a_command_says_or_writes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"WANDB_API_KEY={SECRET}\nMY_PASSWORD={SECRET}\n")
    closed = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2", "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    recipe = {"epochs": 1, "lr": 0.1, "batch_size": 256, "schedule": "constant"}
    entry = {"model": "resnet_tiny", "dataset": "digits", "recipe": recipe, "method": "ga", "epochs": 1}
    (tmp_path / "list.json").write_text(json.dumps([entry | {"class_to_forget": 0}]))
    command = [sys.executable, "-c", "import sys; from salun.cli.unlearn import main; sys.exit(main())"]
    command += ["-L", "list.json", "--nexp", "2", "--jobs", "2", "--device", "cpu"]
    told = {"capture_output": True, "text": True, "timeout": 120, "check": False}
    done = subprocess.run(command, env=os.environ | closed, cwd=tmp_path, **told)
    assert done.returncode == 0, done.stderr
    assert "not logged to Weights & Biases" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"]
    assert any(path.name == "records.jsonl" for path in written)
    assert any(path.suffix == ".pt" for path in written)
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
