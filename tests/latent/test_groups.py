from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import make_features
from salun.errors import SalunError
from salun.latent.features import Features, write_features
from salun.latent.groups import comparable, find_features, gather, read_entries


def put(name: str, features: Features) -> Path:
    path = Path("features") / name
    write_features(path, features)
    return path


def titles(paths: list[str], strict: bool = True) -> list[list[str]]:
    return [[entry.title for entry in group.entries] for group in comparable(read_entries(paths), strict)]


def test_features_are_found_below_folders_each_once() -> None:
    for name in ("b/2.npz", "b/1.json", "a.npz"):
        put(name, make_features())
    for name in (".hidden.npz", "b/.x.npz.3.part"):
        Path("features", name).touch()
    expected = [Path("features") / name for name in ("a.npz", "b/1.json", "b/2.npz")]
    assert find_features([]) == expected
    assert find_features(["features/b", "features", "b/1.json"]) == [expected[1], expected[2], expected[0]]


@pytest.mark.parametrize(
    ("paths", "said"),
    [(["x" * 5000], "x: no such file or folder"), ([], "features: no such"), (["e"], "e: holds no features")],
)
def test_what_is_not_there_is_named(paths: list[str], said: str) -> None:
    Path("e").mkdir()
    with pytest.raises(SalunError, match=said):
        find_features(paths)


def test_models_of_one_forget_set_stand_beside_the_base_models() -> None:
    put("base.npz", make_features(seed=0, title="base"))
    put("s/b.npz", make_features(seed=1, forget=1, title="ga one"))
    put("s/a.npz", make_features(seed=2, forget=1, role="retrained", title="again"))
    put("s/c.npz", make_features(seed=3, forget=2, title="ga two"))
    assert titles([], strict=False) == [["base", "ga one", "again"], ["base", "ga two"]]
    assert titles(["features/s", "base.npz"]) == [["base", "ga one", "again"], ["base", "ga two"]]


def test_images_that_all_models_have_are_compared_with_the_same_marks_on_every_model() -> None:
    models = [make_features(100, seed=0), make_features(100, seed=1, forget=2)]
    put("a.npz", models[0].at(np.arange(60)))
    put("b.npz", models[1].at(np.random.default_rng(0).permutation(np.arange(30, 100))))
    (group,) = comparable(read_entries([]), strict=True)
    for entry, whole in zip(group.entries, models, strict=True):
        assert entry.features.indices.tolist() == list(range(30, 60))
        assert np.array_equal(entry.features.features, whole.features[30:60])
        assert entry.features.forgotten.tolist() == (entry.features.labels == 2).tolist()


def test_unlearned_models_without_a_base_are_one_group_where_they_are_named_together() -> None:
    put("a.npz", make_features(seed=1, forget=1, title="one"))
    put("b.npz", make_features(seed=2, forget=2, title="two"))
    assert titles(["a.npz", "b.npz"]) == [["one", "two"]]
    assert titles([], strict=False) == []


WHOLE = make_features(100)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (WHOLE, make_features(dataset="svhn"), "cannot be compared: their data sets differ: d, svhn"),
        (WHOLE, make_features(split="test"), "cannot be compared: their sets of images differ: train, test"),
        (WHOLE, make_features(layer="layer1"), "cannot be compared: their layers differ: pre-head, layer1"),
        (WHOLE, make_features(width=9), "cannot be compared: their widths differ: 16, 9"),
        (WHOLE, replace(WHOLE, classes=("w", "x", "y", "z")), "cannot be compared: their class names differ"),
        (WHOLE.at(np.arange(50)), WHOLE.at(np.arange(50, 100)), r"a\.npz and the others have no image in common"),
        (WHOLE, replace(WHOLE, labels=(WHOLE.labels + 1) % 4), "label the same images differently"),
    ],
)
def test_what_cannot_be_compared_is_refused_where_it_is_named_together(
    one: Features, other: Features, said: str
) -> None:
    put("a.npz", one)
    put("b.npz", other)
    with pytest.raises(SalunError, match=said):
        titles(["a.npz", "b.npz"])
    if "label" not in said:
        assert titles([], strict=False) == []


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["features/base", "features/study/"], "base_with_study"),
        (["a.npz", "b/c.0.2.npz"], "a_with_c.0.2"),
        (["..", "/"], None),
    ],
)
def test_a_comparison_is_named_after_what_is_compared(paths: list[str], name: str | None) -> None:
    found = gather(paths)
    assert "/" not in found
    assert found not in (".", "..", "")
    if name is not None:
        assert found == name
    assert len(gather(["x" * 100] * 9)) < 100


def test_every_file_has_a_place_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    paths = [tmp_path_factory.mktemp("far") / "same" / "a.npz" for _ in range(2)]
    for path in paths:
        write_features(path, make_features())
    put("a b.npz", make_features(key="one"))
    put("a-b.npz", make_features(key="two"))
    entries = read_entries([*map(str, paths), str(paths[0].parent), "features"])
    assert len(entries) == 4
    assert len({entry.place for entry in entries}) == 4


@pytest.mark.parametrize(("key", "files"), [("same", ["a.npz"]), ("", ["a.json", "a.npz"])])
def test_both_forms_of_the_same_features_are_drawn_once(key: str, files: list[str]) -> None:
    for name in ("a.npz", "a.json"):
        put(name, make_features(key=key))
    entries = read_entries([])
    assert [entry.path.name for entry in entries] == files
    assert len({entry.place for entry in entries}) == len(files)


def test_groups_that_would_share_a_name_do_not() -> None:
    for place, change in (
        ("a", {}),
        ("b", {"split": "test"}),
        ("c", {"layer": "layer1"}),
        ("d", {"forget_key": "other"}),
    ):
        put(f"{place}/base.npz", make_features(seed=0, **(change | {"forget_key": ""})))
        put(f"{place}/after.npz", make_features(seed=1, forget=1, **change))
    names = [group.name for group in comparable(read_entries([]), strict=False)]
    assert len(names) == len(set(names)) == 4
    assert "d_class-1_test" in names
