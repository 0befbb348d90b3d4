import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hostile import refuses
from pictures import draw
from torchvision.datasets import ImageFolder

from salun.data.dataset import Dataset
from salun.data.forget_file import read_forget
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    draw(tmp_path / "pets", {"cat": 12, "dog": 12, "10": 12})
    return load("folder:pets")


def test_images_are_named_by_index_path_or_digest_in_every_form(pets: Dataset) -> None:
    places, names = [3, 8, 20], [(pets.train.names or ())[place] for place in (3, 8, 20)]
    marks = [hashlib.sha256(Path("pets", name).read_bytes()).hexdigest() for name in names]
    columns = {"index": places, "path": names, "sha256": marks}
    texts = {"a.json": json.dumps(places), "b.json": json.dumps([*names[:2], marks[2]]), "c.txt": "\n\n".join(names)}
    texts |= {"d.txt": f"{places[0]}\r\n {names[1]} \n{marks[2].upper()}"}
    texts |= {f"{name}.csv": "\n".join([f"note,{name}", *(f'"a, b",{x}' for x in columns[name])]) for name in columns}
    for name, text in texts.items():
        Path(name).write_text(text)
    np.save("e.npy", np.array(places, np.int32))
    for name in (*texts, "e.npy"):
        assert read_forget(Path(name), pets).train.tolist() == places, name


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "cat/0l.png\nno", r"a\.txt: 'cat/0l\.png', 'no': not among .* 36 images; did you mean 'cat/"),
        ("a.json", json.dumps(["f" * 64]), rf"a\.json: '{'f' * 64}': not among the names of 36 images$"),
        ("a.txt", "\n", r"a\.txt: names no image"),
        ("a.txt", "30", r"a\.txt: entry 1: index 30 is not in the training part \(0 to 29\)"),
        ("a.csv", "image\nx", r"a\.csv: must have rows, and a column path, sha256 or index .*; has \['image'\]"),
        ("a.npy", "[1]", r"a\.npy: not a readable file of indices: "),
    ],
)
def test_what_is_no_such_list_is_refused_in_a_line(pets: Dataset, name: str, content: str, told: str) -> None:
    Path(name).write_text(content)
    refuses(told, lambda: read_forget(Path(name), pets))


def test_a_line_says_in_which_split_the_images_are(pets: Dataset) -> None:
    plain, names = make_split(pets, ForgetRequest()), pets.train.names or ()
    listed = [names[place] for place in [*plain.train[:4].tolist(), int(plain.validation[0])]]
    Path("list.txt").write_text("\n".join([*listed, (pets.test.names or ())[0]]))
    split = make_split(pets, ForgetRequest(indices=Path("list.txt")))
    told = "4 in the training split, 1 in the validation split, 1 in the test part, which were never trained on"
    assert split.notices == (f"list.txt: 6 listed: {told}",)
    assert split.forget.tolist() == plain.train[:4].tolist()


@pytest.mark.parametrize("top", ["train", ""])
def test_indices_may_count_as_imagefolder_does(top: str) -> None:
    draw(Path("x", top), {"b": 9, "b-1": 9, "a": 9, "b/sub": 2}, seed=1)
    if top:
        draw(Path("x/test"), {"a": 2, "b": 2}, seed=2)
    dataset, samples = load("folder:x"), ImageFolder(str(Path("x", top))).samples
    Path("list.json").write_text(json.dumps([10, 12, 22]))
    found = read_forget(Path("list.json"), dataset, "imagefolder")
    parts = ((dataset.train, found.train), (dataset.test, found.test))
    named = [(part.names or ())[at] for part, rows in parts for at in rows]
    wanted = tuple(Path(samples[place][0]).relative_to("x").as_posix() for place in (10, 12, 22))
    assert sorted(named) == sorted(wanted)
    assert found.first == wanted


def test_what_a_file_of_indices_begins_with_is_told(pets: Dataset) -> None:
    names = pets.train.names or ()
    Path("list.json").write_text(json.dumps([3, 0, 1, 2]))
    _, line = make_split(pets, ForgetRequest(indices=Path("list.json"))).notices
    assert line == f"list.json: its indices begin with {names[3]}, {names[0]}, {names[1]}"
    Path("list.txt").write_text(names[0])
    _, line = make_split(pets, ForgetRequest(indices=Path("list.txt"), order="imagefolder")).notices
    assert line == "list.txt: holds no indices, so indices_in is without effect"
