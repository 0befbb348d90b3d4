import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Bomb, refuses

from features import make_features
from salun.errors import SalunError
from salun.latent.features import read_features, read_source, write_features

ARRAYS = ("features", "labels", "indices", "logits", "forgotten", "prototypes")


@pytest.mark.parametrize("name", ["a.npz", "deep/er/a.npz", "a.json", "deep/er/a.json"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    written = make_features(forget=2, dataset="folder:é 'x'", layer="layer1.0")
    write_features(tmp_path / name, written)
    found = read_features(tmp_path / name)
    for array in ARRAYS:
        assert getattr(found, array).dtype == getattr(written, array).dtype
        assert np.array_equal(getattr(found, array), getattr(written, array)), array
    assert (found.classes, found.source) == (written.classes, written.source)
    assert read_source(tmp_path / name) == written.source
    if name == "a.json":
        content = json.loads((tmp_path / name).read_text())
        arrays = (written.features, written.labels, written.prototypes)
        assert [content[key] for key in ("all_features", "all_labels", "proto")] == [each.tolist() for each in arrays]
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_a_file_of_the_seed_system_is_read(tmp_path: Path) -> None:
    content = {"all_features": [[1.0, 2.0], [3.0, 4.0]], "all_labels": [0, 2], "proto": [[1, 0], [0, 1], [1, 1]]}
    (tmp_path / "resnet18_best_0.json").write_text(json.dumps(content))
    found = read_features(tmp_path / "resnet18_best_0.json")
    assert found.features.tolist() == content["all_features"]
    assert found.labels.tolist() == [0, 2]
    assert found.indices.tolist() == [0, 1]
    assert found.classes == ("0", "1", "2")
    assert found.logits.tolist() == [[1, 2, 3], [3, 4, 7]]
    assert not found.forgotten.any()
    assert found.source.title == "resnet18_best_0"


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": np.zeros(3, dtype=np.int64)},
        {"labels": np.full(120, 4, dtype=np.int64)},
        {"labels": np.full(120, -1, dtype=np.int64)},
        {"features": np.zeros((120, 2, 2), dtype=np.float32)},
        {"features": np.full((120, 16), np.nan, dtype=np.float32)},
        {"prototypes": np.zeros((3, 16), dtype=np.float32)},
        {"logits": np.zeros((120, 3), dtype=np.float32)},
        {"classes": ("a",)},
        {"labels": np.zeros((120, 1), dtype=np.int64)},
        {"labels": np.zeros(120)},
        {"indices": np.zeros(120)},
        {"forgotten": np.zeros(120, dtype=np.int64)},
        {"features": np.zeros((120, 16), dtype=np.complex64)},
        {"features": np.zeros((120, 0), dtype=np.float32)},
        {"prototypes": np.full((4, 16), np.nan, dtype=np.float32)},
        {"logits": np.full((120, 4), np.inf, dtype=np.float32)},
    ],
)
def test_what_does_not_fit_together_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(make_features(), **wrong)


def put_array(path: Path, **changed: Any) -> None:
    with np.load(path) as content:
        np.savez(path, **(dict(content) | changed))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:400] + bytes(64) + path.read_bytes()[464:]),
    "text": lambda path: path.write_text("no archive"),
    "empty": lambda path: path.write_bytes(b""),
    "incomplete": lambda path: np.savez(path, features=np.zeros((2, 2))),
    "another source": lambda path: put_array(path, source=np.array('{"colour": 1}')),
    "pickle": lambda path: put_array(path, labels=np.array([Bomb(Path("exploded"))], dtype=object)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_archive_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    write_features(path, make_features())
    DAMAGES[damage](path)
    refuses(r"a\.npz: ", lambda: read_features(path))
    assert not Path("exploded").exists()
    assert damage not in ("gone", "cut") or read_source(path) is None


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        "{}",
        '{"all_features": [[1]], "all_labels": [0]}',
        '{"all_features": [[1], [1, 2]], "all_labels": [0, 1], "proto": [[1], [1]]}',
        '{"all_features": [["x"]], "all_labels": [0], "proto": [[1]]}',
        '{"all_features": [[1]], "all_labels": [3], "proto": [[1]]}',
        '{"all_features": [], "all_labels": [], "proto": []}',
        '{"all_features": [[1]], "all_labels": [0], "proto": [[1]], "source": {"x": 1}}',
        '{"all_features": [[1]], "all_labels": [0], "proto": [[1]], "logits": [1]}',
        '{"all_features": [[1]], "all_labels": [0.5], "proto": [[1]]}',
        '{"all_features": [[1]], "all_labels": [[0]], "proto": [[1]]}',
        '{"all_features": [[1]], "all_labels": [1000000000000000000000000000000], "proto": [[1]]}',
        '{"all_features": [[1]], "all_labels": [0], "proto": [[NaN]]}',
        '{"all_features": [[1]], "all_labels": [0], "proto": [[1]], "source": {"role": "other"}}',
        '{"all_features": [[1]], "all_labels": [0], "proto": [[1]], "source": {"title": 7}}',
        '{"all_features": [[1]], "all_labels": [0], "proto": [[1]], "indices": [0.5]}',
        "{",
        "\x00",
    ],
)
def test_a_broken_json_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    refuses(r"a\.json: ", lambda: read_features(path))
    assert read_source(path) is None


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    write_features(path, make_features())
    before = path.read_bytes()

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    with pytest.raises(SalunError, match=r"a\.npz: cannot be written: No space left"):
        write_features(path, make_features(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arrays", "lacking"),
    [
        ({name: np.zeros(1) for name in (*ARRAYS[1:], "classes", "source")}, "the array 'features'"),
        ({"features": np.zeros(1), "x": np.zeros(1)}, "the arrays 'labels', 'indices', 'logits', 'forgotten', 'proto"),
    ],
)
def test_a_file_of_other_arrays_says_what_it_lacks(tmp_path: Path, arrays: dict[str, Any], lacking: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(SalunError) as caught:
        read_features(tmp_path / "x.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'x.npz'}: lacks {lacking}")
    assert str(caught.value).endswith(f"; salun-extract writes {', '.join(ARRAYS)}, predictions, classes, source")
