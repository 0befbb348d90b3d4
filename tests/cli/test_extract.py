import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salun.cli.extract import main
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.latent.features import read_features
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]


def zeros_of(digits: Dataset) -> tuple[int, ...]:
    return tuple(make_split(digits, ForgetRequest(classes=(0,))).forget.tolist())


@pytest.fixture
def two(base_file: Path, digits: Dataset) -> Path:
    """A base model and one that was to forget class 0, at `checkpoints/` and `checkpoints/study/`."""
    base = load_checkpoint(base_file)
    run = {"method": "ga", "seed": 0, "mask": None, "forget": {"request": "class 0"}}
    after = replace(base, excluded=zeros_of(digits), config=base.config | {"unlearned": run})
    save_checkpoint(base_file.parent / "study" / "ga_class0.pt", after)
    return base_file.parent


def test_every_checkpoint_gives_the_same_samples(
    two: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-D", "checkpoints", "-S", "90"]) == 0
    base = read_features(Path("features/resnet_tiny_digits_base.npz"))
    after = read_features(Path("features/study/ga_class0.npz"))
    train = make_split(digits, ForgetRequest()).train[:90]
    for found in (base, after):
        assert found.indices.tolist() == train.tolist()
        assert found.labels.tolist() == digits.train.labels[train].tolist()
        assert found.forgotten.tolist() == (found.labels == 0).tolist()
        assert found.classes == digits.classes
        assert found.prototypes.shape == (10, 128)
    assert (base.source.role, after.source.role, after.source.title) == ("base", "unlearned", "ga")
    assert (after.source.dataset, after.source.model, after.source.split) == ("digits", "resnet_tiny", "train")
    assert base.predictions.tolist() == after.predictions.tolist()
    assert float((base.predictions == base.labels).mean()) > 0.9
    out = capsys.readouterr().out
    assert "[1/2] features/resnet_tiny_digits_base.npz: 90 x 128 (base; 12 forgotten)" in out


@pytest.mark.parametrize("directory", ["study", "./checkpoints/study/", "checkpoints/study/ga_class0.pt"])
def test_a_folder_is_mirrored_however_it_is_named(two: Path, directory: str) -> None:
    assert main(["-D", directory, "-S", "5"]) == 0
    assert [str(path) for path in Path("features").rglob("*.npz")] == ["features/study/ga_class0.npz"]


def test_finished_files_are_skipped_unless_something_changed(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, after = Path("features/resnet_tiny_digits_base.npz"), Path("features/study/ga_class0.npz")
    main(["-S", "20"])
    before = (base.stat().st_mtime_ns, after.stat().st_mtime_ns)
    capsys.readouterr()
    assert main(["-S", "20"]) == 0
    assert capsys.readouterr().out.count("finished before") == 2
    assert (base.stat().st_mtime_ns, after.stat().st_mtime_ns) == before
    changed = load_checkpoint(two / "study" / "ga_class0.pt")
    weights = {name: tensor * 1.01 if "fc" in name else tensor for name, tensor in changed.weights.items()}
    save_checkpoint(two / "study" / "ga_class0.pt", replace(changed, weights=weights))
    old = read_features(after).prototypes
    assert main(["-S", "20"]) == 0
    assert capsys.readouterr().out.count("finished before") == 1
    assert base.stat().st_mtime_ns == before[0]
    assert read_features(after).prototypes == pytest.approx(old * 1.01)
    for flags in (["-S", "21"], ["-S", "21", "--layer", "layer1"], ["-S", "21", "--split", "test"]):
        main(flags)
        assert "finished before" not in capsys.readouterr().out, flags
    after.write_bytes(after.read_bytes()[:100])  # damaged
    assert main(["-D", "study", "-S", "21", "--split", "test"]) == 0
    assert len(read_features(after).labels) == 21


def test_the_seed_systems_form_is_written(two: Path) -> None:
    assert main(["-D", "study", "-S", "7", "--format", "json", "-W", "4", "-B", "2"]) == 0
    content = json.loads(Path("features/study/ga_class0.json").read_text())
    assert np.asarray(content["all_features"]).shape == (7, 128)
    assert len(content["all_labels"]) == 7
    assert np.asarray(content["proto"]).shape == (10, 128)
    assert main(["-D", "study", "-S", "7", "--format", "npz"]) == 0
    found = read_features(Path("features/study/ga_class0.npz"))
    assert found.features == pytest.approx(np.asarray(content["all_features"]), abs=1e-5)


def test_a_forget_set_can_be_named(base_file: Path, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("list.json", [4, 900, 17])
    assert main(["--split", "train", "--itf", "list.json"]) == 0
    held = "1 in the validation split, which were never trained on"
    assert capsys.readouterr().err == f"salun-extract: list.json: 3 listed: 2 in the training split, {held}\n"
    found = read_features(Path("features/resnet_tiny_digits_base.npz"))
    assert set(found.indices[found.forgotten]) <= {4, 17, 900}
    assert found.forgotten.any()


def test_checkpoints_that_cannot_be_read_are_named_and_the_others_go_on(
    two: Path, write: Write, capsys: pytest.CaptureFixture[str], trained: Checkpoint
) -> None:
    write("checkpoints/broken.pt", b"no checkpoint")
    torch.save({"weights": torch.zeros(2)}, two / "other.pt")
    save_checkpoint(two / "far.pt", replace(trained, dataset="svhn"))
    assert main(["-S", "5", "--data-dir", "nowhere"]) == 3
    out, err = capsys.readouterr()
    assert sorted(str(path) for path in Path("features").rglob("*.npz")) == [
        "features/resnet_tiny_digits_base.npz",
        "features/study/ga_class0.npz",
    ]
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("salun-extract: ") for line in lines)
    for name in ("broken.pt", "other.pt", "svhn"):
        assert sum(name in line for line in lines) == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-D", "empty"], "empty: holds no checkpoint"),
        (["-S", "0"], "less than 1"),
        (["--split", "forget"], "--split forget: no checkpoint here records a forget set"),
        (["--itf", "wrong.json"], "wrong.json"),
        (["--layer", "layer9"], "--layer layer9: the model has none of that name; did you mean 'layer"),
        (["--out", "file"], "file is not a folder"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--format", "csv"], "'csv'"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    base_file: Path, write: Write, refuse: Refuse, tmp_path: Path, argv: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    write("file", "text")
    write("wrong.json", {"a": 1})
    lines = refuse(main, argv)
    assert len(lines) == 1
    assert said in lines[0]
