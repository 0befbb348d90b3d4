import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import make_features
from salun.errors import SalunError
from salun.latent.features import Features, Source, read_features, read_source, write_features

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
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_the_json_form_is_the_seed_systems(tmp_path: Path) -> None:
    features = make_features()
    write_features(tmp_path / "a.json", features)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["all_features"] == features.features.tolist()
    assert content["all_labels"] == features.labels.tolist()
    assert content["proto"] == features.prototypes.tolist()


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


def test_predictions_are_of_the_largest_logit() -> None:
    features = replace(make_features(count=5, classes=3), logits=np.eye(3, dtype=np.float32)[[2, 0, 1, 1, 2]])
    assert features.predictions.tolist() == [2, 0, 1, 1, 2]


@pytest.mark.parametrize(("samples", "left"), [(1, 1), (7, 7), (120, 120), (10_000, 120)])
def test_the_first_samples_are_kept(samples: int, left: int) -> None:
    whole = make_features()
    kept = whole.first(samples)
    for array in ARRAYS[:-1]:
        assert np.array_equal(getattr(kept, array), getattr(whole, array)[:left])
    assert kept.classes == whole.classes


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


def damage_nothing(path: Path) -> None:
    path.unlink()


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 64] = bytes(64)
    path.write_bytes(content)


def damage_text(path: Path) -> None:
    path.write_text("no archive")


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_missing(path: Path) -> None:
    np.savez(path, features=np.zeros((2, 2)))


def damage_source(path: Path) -> None:
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, **(arrays | {"source": np.array('{"colour": 1}')}))


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def damage_pickle(path: Path) -> None:
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, **(arrays | {"labels": np.array([Bomb()], dtype=object)}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_nothing,
        damage_cut,
        damage_flip,
        damage_text,
        damage_empty,
        damage_missing,
        damage_source,
        damage_pickle,
    ],
)
def test_a_broken_archive_is_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "a.npz"
    write_features(path, make_features())
    damage(path)
    with pytest.raises(SalunError, match=r"a\.npz: ") as caught:
        read_features(path)
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


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
    with pytest.raises(SalunError, match=r"a\.json: ") as caught:
        read_features(path)
    assert "\n" not in str(caught.value)
    assert read_source(path) is None


def test_nothing_is_known_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_source(tmp_path / "a.npz") is None


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


def test_an_array_cannot_hold_more_samples_than_labels() -> None:
    whole = make_features()
    assert isinstance(whole, Features)
    assert whole.source == Source(checkpoint="m0.pt", title="model 0", model="m", dataset="d")
    assert whole.at(np.array([5, 3])).indices.tolist() == [5, 3]
