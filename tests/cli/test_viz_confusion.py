import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import make_features
from salun.cli.viz import main
from salun.latent.features import Features, write_features

Refuse = Callable[[Callable[[list[str]], int], list[str]], list[str]]
Write = Callable[[str, Any], Path]
QUICK = ["--dpi", "30"]


def put(name: str, logits: np.ndarray | None = None, **settings: Any) -> Features:
    features = make_features(60, **settings)
    features = features if logits is None else replace(features, logits=logits.astype(np.float32))
    write_features(Path("features") / name, features)
    return features


@pytest.fixture
def study() -> dict[str, Features]:
    """A base model that is always right, one that takes class 1 for class 2, and a retrained one."""
    right = 20 * np.eye(4)[make_features(60).labels]
    wrong = 20 * np.eye(4)[[0, 2, 2, 3]][make_features(60).labels]
    return {
        "base": put("base.npz", right, title="base"),
        "ga": put("study/ga.npz", wrong, forget=1, title="ga"),
        "again": put("study/again.npz", seed=2, forget=1, role="retrained", title="retrained"),
    }


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(Path("images") / f"{name}.npz", allow_pickle=False) as content:
        return dict(content)


def rows(name: str) -> list[list[str]]:
    with (Path("images") / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_each_model_has_its_predictions_and_confidence_and_tables_of_the_same_numbers(
    study: dict[str, Features],
) -> None:
    assert main(["confusion", *QUICK]) == 0
    np.testing.assert_array_equal(arrays("base/confusion")["predictions"], [np.eye(4)])
    np.testing.assert_allclose(arrays("base/confusion")["confidence"], [np.eye(4)], atol=1e-6)
    found = arrays("study/again/confusion")
    again = study["again"]
    powers = np.exp(again.logits - again.logits.max(1, keepdims=True))
    for label in range(4):
        mean = (powers / powers.sum(1, keepdims=True))[again.labels == label].mean(0)
        np.testing.assert_allclose(found["confidence"][0, label], mean, rtol=1e-5)
        share = np.bincount(again.predictions[again.labels == label], minlength=4) / (again.labels == label).sum()
        np.testing.assert_allclose(found["predictions"][0, label], share)
    assert found["classes"].tolist() == list(again.classes)
    assert found["counts"].tolist() == np.bincount(again.labels).tolist()
    assert (Path("images") / "study/ga/confusion.png").read_bytes().startswith(b"\x89PNG")
    for kind in ("predictions", "confidence"):
        table = rows(f"study/again/confusion_{kind}")
        assert table[0] == ["class", *study["again"].classes]
        numbers = np.array([row[1:] for row in table[1:]], dtype=float)
        np.testing.assert_array_equal(numbers, arrays("study/again/confusion")[kind][0])
        together = rows(f"d_class-1/confusion_{kind}")
        assert together[0] == ["model", "class", *study["base"].classes]
        assert [row[0] for row in together[1::4]] == ["base", "ga", "retrained"]
        np.testing.assert_array_equal(np.array([row[2:] for row in together[9:]], dtype=float), numbers)


def test_models_stand_side_by_side_before_after_and_retrained(study: dict[str, Features]) -> None:
    assert main(["confusion", "base.npz", "study", "--format", "svg"]) == 0
    root = "base_with_study/d_class-1"
    found = arrays(f"{root}/confusion")
    assert found["models"].tolist() == ["base", "ga", "retrained"]
    assert found["predictions"].shape == found["confidence"].shape == (3, 4, 4)
    np.testing.assert_array_equal(found["predictions"][1], np.eye(4)[[0, 2, 2, 3]])
    for kind in ("predictions", "confidence"):
        text = Path(f"images/{root}/confusion_{kind}.svg").read_text()
        places = [text.index(f">{title}</text>") for title in ("base", "ga", "retrained")]
        assert places == sorted(places)


def test_forgotten_classes_are_bold(study: dict[str, Features]) -> None:
    assert main(["confusion", "study/ga.npz", "--format", "svg"]) == 0
    text = Path("images/study/ga/confusion.svg").read_text()
    bold = re.findall(r"<text [^>]*font(?:-weight)?: (?:bold|700)[^>]*>([^<]*)</text>", text)
    assert set(bold) == {"class 1"}


def test_empty_classes_are_empty() -> None:
    features = make_features(60)
    write_features(Path("features/a.npz"), features.at(np.flatnonzero(features.labels != 2)))
    assert main(["confusion", *QUICK]) == 0
    assert rows("a/confusion_predictions")[3] == ["class 2", "", "", "", ""]
    assert np.isnan(arrays("a/confusion")["confidence"][0]).sum() == 4
    assert np.isfinite(arrays("a/confusion")["confidence"][0, :, 2]).sum() == 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["base.npz", "broken.npz"], r"broken\.npz: not a readable file of features"),
        (["base.npz", "other.npz"], "cannot be compared: their class names differ"),
        (["base.npz", "--out", "file"], "file is not a folder"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    study: dict[str, Features], write: Write, refuse: Refuse, argv: list[str], said: str
) -> None:
    write("file", "text")
    write("features/broken.npz", Path("features/base.npz").read_bytes()[:900])
    write_features(Path("features/other.npz"), make_features(60, classes=5))
    lines = refuse(main, ["confusion", *argv])
    assert len(lines) == 1
    assert re.search(said, lines[0]), lines[0]
