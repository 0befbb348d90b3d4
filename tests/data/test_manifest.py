import csv
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from hostile import refuses
from pictures import draw

from salun.cli.data import main
from salun.data.dataset import Dataset
from salun.data.manifest import as_recorded, manifest_path, write_manifest
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split

MODEL = Path("model.pt")


@pytest.fixture
def before(tmp_path: Path) -> Dataset:
    draw(tmp_path / "pets", {"cat": 12, "dog": 12, "eel": 12})
    dataset = load("folder:pets")
    write_manifest(manifest_path(MODEL), dataset)
    return dataset


def test_the_command_counts_and_lists_every_image(before: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder:pets", "--manifest", "list.csv"]) == 0
    assert ["1", "dog", "9", "1", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = list(csv.DictReader(Path("list.csv").read_text().splitlines()))
    assert [row["split"] for row in rows].count("test") == 6
    held = make_split(before, ForgetRequest()).validation.tolist()
    assert [int(row["index"]) for row in rows if row["split"] == "validation"] == held
    for row in rows:
        assert row["sha256"] == hashlib.sha256(Path("pets", row["path"]).read_bytes()).hexdigest()
        assert row["path"].startswith(f"{before.classes[int(row['class'])]}/")
    assert main(["digits", "--manifest", "list.csv"]) == 0
    (first, *_) = csv.DictReader(Path("list.csv").read_text().splitlines())
    assert (first["path"], first["sha256"]) == ("", hashlib.sha256(load("digits").train.pixels[0].numpy()).hexdigest())


@pytest.mark.parametrize("limit", [None, "3000"])  # bytes: pixels in memory, or those of the larger part in a file
def test_moved_renamed_and_deleted_images_keep_their_indices(
    before: Dataset, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [(before.train.names or ())[4], (before.train.names or ())[7], (before.test.names or ())[0]]
    shutil.move("pets", "moved")
    for name in gone:
        Path("moved", name).unlink()
    Path("moved", (before.train.names or ())[0]).rename("moved/cat/zzz.png")
    if limit:
        monkeypatch.setenv("SALUN_MEMORY_LIMIT", limit)
    after = as_recorded(load("folder:moved"), MODEL, moved=True)
    assert (after.train.absent, after.test.absent) == ((4, 7), (0,))
    assert after.notes[1:] == (f"model.pt: 3 of its images deleted since, and left out: {', '.join(gone)}",)
    for was, now in ((before.train, after.train), (before.test, after.test)):
        kept = torch.tensor([row for row in range(len(was.labels)) if row not in now.absent])
        assert torch.equal(now.pixels[kept], was.pixels[kept])
        assert torch.equal(now.labels, was.labels)
    plain, split = make_split(before, ForgetRequest()), make_split(after, ForgetRequest((1,)))
    assert split.fingerprint == plain.fingerprint
    assert split.train.tolist() == [index for index in plain.train.tolist() if index not in (4, 7)]
    assert 0 not in torch.cat([split.test, split.forgotten_test])
    assert split.forget_fingerprint != make_split(before, ForgetRequest((1,))).forget_fingerprint


@pytest.mark.parametrize("source", ["new/b/00.png", "pets/dog/03.png"])
def test_images_that_a_manifest_does_not_list_are_refused(before: Dataset, source: str) -> None:
    draw(Path("new"), {"b": 1}, seed=5)
    shutil.move(source, "pets/cat/99.png")
    told = r"model\.pt: was trained on other images than 'folder:pets' holds: 1 of these .*: cat/99\.png; the data have"
    refuses(told, lambda: as_recorded(load("folder:pets"), MODEL, moved=False))


def test_a_broken_manifest_is_refused(before: Dataset) -> None:
    manifest_path(MODEL).write_text("index,path\n0,a")
    told = r"model_manifest\.csv: not a manifest: does not begin with index,path,class"
    refuses(told, lambda: as_recorded(before, MODEL, moved=False))
