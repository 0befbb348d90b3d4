import json
import os
from pathlib import Path
from typing import Any

import pytest
from hostile import damaged, examples, refused
from hypothesis import given
from hypothesis import strategies as st

from salun.data.forget_file import read_forget
from salun.data.sources import load
from salun.experiments.schema import json_schema, load_experiments
from salun.io.limits import read_plain
from salun.latent.features import read_features, read_source
from salun.unlearning import load_methods

FILE = Path("a.json")
load_methods()
KEYS = sorted({*(key for shape in json_schema()["$defs"].values() for key in shape["properties"]), "unknown", ""})
NAMES = ["", "rl", "ft", "retrain", "digits", "resnet_tiny", "resnet18.x", "sum", "all", "synthetic:n=", "folder:/dev"]
ODD = ["a\0b", "/dev/zero", "../../x", "\x1b[31m", "\u202e", "x" * 5000, "\ud800", "two\nlines"]
WORDS = st.sampled_from([*NAMES, *ODD])
NUMBERS = st.sampled_from([0, -1, 1, 0.5, 2**31, 2**63, 2**64, 10**400, -0.0, 1e308, 1e-320])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | WORDS | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
ENTRIES = st.fixed_dictionaries(
    {"method": st.sampled_from(["rl", "ft", "retrain", "salun_soft", "unsir"]), "class_to_forget": st.integers(-2, 11)},
    optional={key: VALUES for key in KEYS if key not in ("method", "class_to_forget")},
)
FEW = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)
LISTS = st.one_of(
    st.lists(FEW, max_size=2),
    st.lists(st.tuples(ENTRIES, st.integers(0, 3)).map(lambda pair: trimmed(*pair)), min_size=1, max_size=2),
    VALUES,
)


def trimmed(entry: dict[str, Any], keep: int) -> dict[str, Any]:
    """An entry whose first keys are right and of whose others a few are left."""
    rest = sorted(key for key in entry if key not in ("method", "class_to_forget"))[:keep]
    return {key: entry[key] for key in ("method", "class_to_forget", *rest)}


def tried(content: bytes | str, read: Any) -> list[str]:
    FILE.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    before = sorted(os.listdir())
    lines = refused(lambda: read(FILE))
    assert sorted(os.listdir()) == before
    return lines


@examples(50)
@given(LISTS)
def test_experiments_of_other_structures(content: Any) -> None:
    for line in tried(json.dumps(content), load_experiments):
        assert line.startswith("a.json")


HUNDRED = load("synthetic:n=100,size=8,classes=4")
EACH = pytest.mark.parametrize("read", [load_experiments, lambda path: read_forget(path, HUNDRED), read_features])
GOOD = json.dumps(
    [{"method": "rl", "dataset": "digits", "class_to_forget": [0, 3], "epochs": 3, "use_mask": True, "tag": "é"}] * 2
).encode()


@examples(40)
@given(st.one_of(st.lists(st.integers(-5, 120) | VALUES, max_size=6), VALUES))
def test_forget_files_of_other_content(content: Any) -> None:
    if not tried(json.dumps(content), lambda path: read_forget(path, HUNDRED)):
        assert all(type(index) is int and 0 <= index < 100 for index in content)


FEATURES: dict[str, Any] = {
    "all_features": [[1.0, 0.0], [0.5, 2.0]],
    "all_labels": [0, 1],
    "proto": [[1.0, 0.0], [0.0, 1.0]],
    "classes": ["a", "b"],
    "indices": [4, 5],
    "forgotten": [False, True],
    "source": {"title": "a model"},
}


@examples(40)
@given(st.dictionaries(st.sampled_from([*FEATURES]), VALUES, min_size=1, max_size=2))
def test_features_of_other_content(changed: dict[str, Any]) -> None:
    text = json.dumps(FEATURES | changed)
    tried(text, read_features)
    tried(text, read_source)


@pytest.mark.parametrize(
    ("whole", "read"),
    [
        (GOOD, load_experiments),
        (json.dumps(list(range(0, 100, 3))).encode(), lambda path: read_forget(path, HUNDRED)),
        (json.dumps(FEATURES).encode(), read_features),
    ],
)
@examples(40)
@given(st.data())
def test_a_damaged_file(whole: bytes, read: Any, data: st.DataObject) -> None:
    tried(data.draw(damaged(whole)), read)


@EACH
def test_text_without_end_is_refused_at_once(read: Any) -> None:
    for content in ("[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "1" * 100_000):
        assert tried(content, read)
    with FILE.open("wb") as file:
        file.truncate(2**40)
    assert any("MiB" in line for line in refused(lambda: read(FILE)))


@EACH
def test_devices_pipes_and_links_that_lead_to_themselves_are_refused_at_once(read: Any) -> None:
    os.mkfifo("pipe.json")
    Path("zeros.json").symlink_to("/dev/zero")
    Path("loop.json").symlink_to("loop.json")
    for name in ("pipe.json", "zeros.json", "loop.json"):
        lines = refused(lambda name=name: read(Path(name)))
        assert len(lines) == 1
        assert name in lines[0]


@pytest.mark.parametrize("depth", [1, 50, 51, 52])
def test_json_is_read_to_its_depth(depth: int) -> None:
    FILE.write_text("[" * depth + "]" * depth)
    assert bool(refused(lambda: read_plain(FILE))) == (depth > 50)
