import hashlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile import refuses
from PIL import ExifTags, Image
from test_folder import fill, picture, write
from torchvision import datasets

from salun.data.dataset import Dataset
from salun.data.images import Images
from salun.data.sources import class_count, load

ROOT = Path("x")
TINY = Path("data/tiny-imagenet-200")
IN_ORDER = "classes are numbered from 0 in the order of their names"


def said(dataset: Dataset) -> list[str]:
    return [line.removeprefix(f"{dataset.name}: ") for line in dataset.notices]


@pytest.mark.parametrize(
    ("folders", "tested", "notices"),
    [
        ("train val", "val", []), ("train test", "test", []),
        ("train val test", "test", ["val/ is not used: validation images are drawn from train/"]),
        ("train valid", "train", ["valid/ is not used: parts are train, val, test"]),
    ],
)  # fmt: skip
def test_what_is_the_test_part_is_said(folders: str, tested: str, notices: list[str]) -> None:
    for folder in folders.split():
        fill(ROOT / folder, {"a": 3, "b": 3} if folder == "train" else {"a": 2, "b": 1})
    dataset = load("folder:x")
    told = "a stratified fifth of 6 images, drawn by seed 0" if tested == "train" else f"{tested}/ (3 images)"
    assert said(dataset) == [f"test part: {told}", *notices]
    for part, folder in ((dataset.train, "train"), (dataset.test, tested)):
        assert {name.partition("/")[0] for name in part.names or ()} == {folder}


def test_tiny_imagenet_as_it_unpacks() -> None:
    for number, name in enumerate(("n02", "n01")):
        fill(TINY / "train" / name, {"images": 3})
        write(TINY / "val" / "images" / f"val_{number}.JPEG", picture(number))
    (TINY / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t7\t7\nval_1.JPEG\tn01\t1\t1\t7\t7\n")
    write(TINY / "test" / "images" / "test_0.JPEG", picture(9))
    dataset = load("tiny_imagenet", download=False)
    assert (dataset.classes, dataset.test.labels.tolist(), len(dataset.train.labels)) == (("n01", "n02"), [0, 1], 6)
    assert dataset.test.names == ("val/images/val_1.JPEG", "val/images/val_0.JPEG")
    assert said(dataset) == ["test part: val/ (2 images)", "test/ is not used: no folder in it is a class of train/"]
    (TINY / "val" / "val_annotations.txt").write_text("val_0.JPEG n02\n")
    refuses("val_annotations.txt: line 1: must hold", lambda: load("tiny_imagenet", download=False))


def test_a_class_whose_folder_is_another_number_is_questioned() -> None:
    fill(ROOT, {str(number): 5 for number in range(11)})
    told = "class 2 is folder '10', class 3 is folder '2', class 4 is folder '3' and 6 others"
    assert said(load("folder:x"))[1:] == [f"{told}: {IN_ORDER}"]


ROWS = "p/00.png,cat,train q/01.png,dog,train q/00.png,dog,train p/01.png,cat,test q/02.png,dog,val"
WITH_PARTS = "path,label,split " + ROWS
AS_JSON = json.dumps([dict(zip(("path", "label", "split"), row.split(","), strict=True)) for row in ROWS.split()])


@pytest.mark.parametrize(("file", "text"), [("l.csv", WITH_PARTS.replace(" ", "\n")), ("l.json", AS_JSON)])
def test_label_files_with_parts(file: str, text: str) -> None:
    fill(ROOT, {"p": 3, "q": 3})
    (ROOT / file).write_text(text)
    dataset = load(f"folder:x:labels={file}:size=12")
    assert (dataset.classes, dataset.size, dataset.test.names) == (("cat", "dog"), 12, ("p/01.png",))
    assert dataset.train.names == ("p/00.png", "q/00.png", "q/01.png")
    assert dataset.train.labels.tolist() == [0, 1, 1]
    unused = f"split val of {file} is not used: validation images are drawn from split train"
    unlisted = f"1 image that {file} does not list: not used"
    assert said(dataset) == [f"test part: split test of {file} (1 image)", unlisted, unused]


def test_label_files_without_parts_and_with_numbers() -> None:
    fill(ROOT, {"p": 3, "q": 3})
    (ROOT / "l.json").write_text(json.dumps({f"{name}/0{n}.png": 9 + (name == "q") for name in "qp" for n in range(3)}))
    dataset = load("folder:x:labels=l.json")
    assert dataset.classes == ("9", "10")
    assert said(dataset)[1:] == [f"class 0 is label '9', class 1 is label '10': {IN_ORDER}"]


@pytest.mark.parametrize("options", ["", ":labels=l.json"])
def test_images_of_the_working_folder(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ROOT, {"p": 3, "q": 3})
    (ROOT / "l.json").write_text(json.dumps({f"{name}/0{n}.png": name for name in "pq" for n in range(3)}))
    elsewhere = load(f"folder:x{options}")
    monkeypatch.chdir(ROOT)
    here = load(f"folder:.{options}")
    assert (here.train.names, here.test.names) == (elsewhere.train.names, elsewhere.test.names)
    assert said(here) == said(elsewhere)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,label p/00.png,cat p/9.png,cat", "l.csv: line 3: p/9.png: no such image in x"),
        ("path,label ../x/p/00.png,cat", "line 2: ../x/p/00.png: no such image in x"),
        ("path,label p/00.png,cat p/00.png,dog", "line 3: p/00.png is listed twice"),
        ("path,label p/00.png,", "line 2: label '': must be a class name or a whole number"),
        ("path,label p/00.png,cat", "its training images are of 1 class; at least 2 are needed"),
        ("path,label,split p/00.png,cat,test", "l.csv: lists no training images"),
        (WITH_PARTS + " p/02.png,cat,all", "line 7: split 'all': must be train, val or test"),
        (WITH_PARTS + " p/02.png,cow,test", "class 'cow' of x/p/02.png has no counterpart"),
        ("path,label,split p/00.png,cat, q/00.png,dog,test", "split 'test': earlier entries give none"),
        ("file,class", "columns are file, class; must be path, label and, where the parts are given, split"),
        ('path,label "p', "l.csv: line 2: no CSV"),
        ('["p/00.png"]', "l.json: must be a list of objects with the keys path, label and"),
        ('[{"path":3}]', "entry 1: path 3: must be that of an image, relative to x"),
        ('{"p/00.png":1.5}', "key 'p/00.png': label 1.5: must be a class name or a whole number"),
    ],
)
def test_wrong_label_files(text: str, line: str) -> None:
    fill(ROOT, {"p": 3, "q": 3})
    file = "l.json" if text[0] in "[{" else "l.csv"
    (ROOT / file).write_text(text.replace(" ", "\n"))
    refuses(re.escape(line), lambda: load(f"folder:x:labels={file}"))
    refuses("a label file ends in .csv or .json", lambda: load("folder:x:labels=l.txt"))


@pytest.mark.parametrize("limit", ["1", "9999"])
def test_images_are_turned_upright(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALUN_MEMORY_LIMIT", limit)
    fill(ROOT, {"a": 5, "b": 5})
    turned = Image.fromarray(picture(4))
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    for path in ROOT.glob("*/*.png"):
        turned.save(path, exif=exif)
    expected = torch.from_numpy(np.rot90(picture(4), -1).copy()).permute(2, 0, 1)
    assert (load("folder:x").train.pixels[torch.arange(8)] == expected).all()
    assert (Images.from_folder(ROOT).pixels == expected).all()


def test_celeba_in_the_files_of_its_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = Path("data/celeba"), [f"{number:06}.jpg" for number in range(1, 7)]
    content = {"list_attr_celeba.txt": "6\nMale Smiling \n" + "\n".join(f"{file} -1  1" for file in files)}
    for file in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt", "identity_CelebA.txt"):
        content[file] = ("" if file[0] == "i" else "6\nx\n") + "\n".join(f"{file} 1" for file in files)
    content["list_eval_partition.txt"] = "\n".join(f"{file} {'000122'[place]}" for place, file in enumerate(files))
    for number, file in enumerate(files):
        write(folder / "img_align_celeba" / file, picture(number, 178, 218))
    for file, text in content.items():
        (folder / file).write_text(text)
    sums = [("", hashlib.md5(text.encode()).hexdigest(), file) for file, text in content.items()]
    monkeypatch.setattr(datasets.CelebA, "file_list", sums)
    smiling, male = load("celeba", download=False), load("celeba:Male", download=False)
    assert (smiling.train.names, smiling.train.labels.tolist(), smiling.size) == (tuple(files[:3]), [1, 1, 1], 64)
    assert (male.classes, male.test.labels.tolist()) == (("not Male", "Male"), [0, 0])
    refuses("attribute 'Mail' unknown; did you mean 'Male'?", lambda: load("celeba:Mail"))


def test_medmnist(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"python_class": "BloodMNIST", "task": "multi-class", "label": {"0": "basophil", "1": "eosinophil"}}
    known = {"bloodmnist": info, "chestmnist": info | {"task": "multi-label, binary-class"}}
    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(INFO=known))
    images = np.stack([picture(number, 28, 28) for number in range(3)])
    Path("data").mkdir()
    parts = {f"{part}_images": images for part in ("train", "val", "test")}
    np.savez("data/bloodmnist.npz", **parts, train_labels=[[0], [1], [1]], test_labels=[[1], [0], [1]])
    found = load("medmnist:bloodmnist", download=False)
    assert np.array_equal(found.test.pixels.permute(0, 2, 3, 1), images)
    assert (found.test.labels.tolist(), found.classes) == ([1, 0, 1], ("basophil", "eosinophil"))
    refuses("'chestmnist' unknown, or not of images with one label", lambda: load("medmnist:chestmnist"))
    monkeypatch.setitem(sys.modules, "medmnist", None)
    refuses(r"needs the package medmnist: pip install 'salun\[medmnist\]'", lambda: class_count("medmnist:bloodmnist"))
