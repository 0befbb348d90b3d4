import csv
import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance_nd

from features import make_features
from salun.cli.viz import main
from salun.cli.viz.figures import FigureWriter
from salun.latent.features import Features, read_features, write_features

Refuse = Callable[[Callable[[list[str]], int], list[str]], list[str]]
Write = Callable[[str, Any], Path]
QUICK = ["--dpi", "30"]
PLACES = {"base": "base", "ga": "study/ga", "again": "study/again"}
PAIRS = [("base", "ga"), ("base", "again"), ("ga", "again")]


def put(name: str, **settings: Any) -> Features:
    features = make_features(**({"count": 60} | settings))
    write_features(Path("features") / name, features)
    return features


def row_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def put_study() -> dict[str, Features]:
    return {
        "base": put("base.npz", seed=0, title="base"),
        "ga": put("study/ga.npz", seed=1, forget=1, title="ga"),
        "again": put("study/again.npz", seed=2, forget=1, role="retrained", title="retrained"),
    }


@pytest.fixture
def study() -> dict[str, Features]:
    """A base model, one that forgot class 1, and one that was retrained without it."""
    return put_study()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All figures of the same three models: shared, so they must not be changed."""
    folder = tmp_path_factory.mktemp("album")
    with chdir(folder):
        put_study()
        assert main(["wasserstein", *QUICK]) == 0
    return folder


@pytest.fixture
def drawn(album: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Features]:
    """Stand where those figures are."""
    monkeypatch.chdir(album)
    return {name: read_features(Path(f"features/{place}.npz")) for name, place in PLACES.items()}


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(Path("images") / f"{name}.npz", allow_pickle=False) as content:
        return dict(content)


def rows(name: str) -> list[list[str]]:
    with (Path("images") / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def written(folder: str = "images") -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def clouds_of(features: Features) -> list[np.ndarray]:
    return [features.features[features.labels == label] for label in range(len(features.classes))]


def distances(features: Features) -> np.ndarray:
    clouds = clouds_of(features)
    return np.array([[wasserstein_distance_nd(one, other) for other in clouds] for one in clouds])


def test_each_file_has_a_matrix(drawn: dict[str, Features]) -> None:
    for name, place in PLACES.items():
        found = arrays(f"{place}/wasserstein")
        np.testing.assert_allclose(found["matrix"], distances(drawn[name]), rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found["matrix"], found["matrix"].T)
        assert found["classes"].tolist() == list(drawn[name].classes)
        assert found["counts"].tolist() == [len(cloud) for cloud in clouds_of(drawn[name])]
        assert found["samples"] == 60
        table = rows(f"{place}/wasserstein")
        assert table[0] == ["class", *drawn[name].classes]
        assert [row[0] for row in table[1:]] == list(drawn[name].classes)
        np.testing.assert_array_equal(np.array([row[1:] for row in table[1:]], dtype=float), found["matrix"])
        assert (Path("images") / place / "wasserstein.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_the_second_less_the_first(drawn: dict[str, Features]) -> None:
    for first, second in PAIRS:
        name = f"d_class-1/wasserstein_{second}_minus_{first}"
        wanted = distances(drawn[second]) - distances(drawn[first])
        np.testing.assert_allclose(arrays(name)["matrix"], wanted, atol=1e-8)
        np.testing.assert_allclose(np.array([row[1:] for row in rows(name)[1:]], dtype=float), wanted, atol=1e-8)
        assert f"{name}.png" in written()
    assert sum("_minus_" in name for name in written()) == 3 * len(PAIRS)
    assert "d_class-1/wasserstein.png" in written()


def test_differences_of_a_series_have_one_scale_centred_at_zero(
    study: dict[str, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    from salun.reports.plots import heatmap

    scales = []
    draw = heatmap.heatmaps

    def noted(panels: list[heatmap.Panel], scale: heatmap.Scale, *given: Any, caption: str = "") -> Any:
        scales.append((scale, np.abs(panels[0].values).max(), panels[0].marked))
        return draw(panels, scale, *given, caption=caption)

    monkeypatch.setattr("salun.cli.viz.wasserstein.heatmaps", noted)
    assert main(["wasserstein", *QUICK]) == 0
    diverging = [(scale, reach) for scale, reach, _ in scales if scale.centre == 0]
    assert len(diverging) == 3
    assert len({(scale.low, scale.high) for scale, _ in diverging}) == 1
    assert diverging[0][0].high == -diverging[0][0].low == max(reach for _, reach in diverging)
    assert [marked for *_, marked in scales].count(frozenset({"class 1"})) >= 5


def test_unlearned_models_are_compared_with_each_other_on_request_only(study: dict[str, Features]) -> None:
    put("study/rl.npz", seed=3, forget=1, title="rl")
    compared = {"ga_minus_base", "again_minus_base", "again_minus_ga", "rl_minus_base", "again_minus_rl"}
    for flags, more in (([], set()), (["--all-pairs"], {"rl_minus_ga"})):
        assert main(["wasserstein", *flags, *QUICK]) == 0
        names = {name for name in written() if "_minus_" in name and name.endswith(".csv")}
        assert names == {f"d_class-1/wasserstein_{pair}.csv" for pair in compared | more}
        assert len(arrays("d_class-1/wasserstein_between_models")["first"]) == len(compared | more)


def test_models_are_compared_class_by_class(drawn: dict[str, Features]) -> None:
    found = arrays("d_class-1/wasserstein_between_models")
    wanted = [
        [
            wasserstein_distance_nd(one, other)
            for one, other in zip(clouds_of(drawn[first]), clouds_of(drawn[second]), strict=True)
        ]
        for first, second in PAIRS
    ]
    np.testing.assert_allclose(found["matrix"], wanted, rtol=1e-9)
    assert found["first"].tolist() == ["base", "base", "ga"]
    assert found["second"].tolist() == ["ga", "retrained", "retrained"]
    table = rows("d_class-1/wasserstein_between_models")
    assert table[0] == ["first", "second", *drawn["base"].classes]
    assert [row[:2] for row in table[1:]] == [["base", "ga"], ["base", "retrained"], ["ga", "retrained"]]
    assert "d_class-1/wasserstein_between_models.png" in written()


def test_both_names_of_a_pair_can_be_read_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    tag = "a tag that says a great deal about what was done and why"
    titles = ["rl_split + mask 0.2, seed 2", f"{tag}, at first, to a model of that kind", f"{tag}, then, to a model"]
    put("base.npz", title="base")
    put("again.npz", seed=9, forget=1, role="retrained", title="retrained, seed 2")
    for seed, title in enumerate(titles):
        put(f"{seed}.npz", seed=seed, forget=1, title=title)
    labels: list[list[str]] = []
    monkeypatch.setattr(FigureWriter, "keep", lambda album, figure, place: labels.append(row_labels(figure)))
    assert main(["wasserstein", *QUICK]) == 0
    (pairs,) = [shown for shown in labels if "base → retrained, seed 2" in shown]
    assert len(set(pairs)) == len(pairs) == 7
    assert {"base → rl_split + mask 0.2, seed 2", "rl_split + mask 0.2, seed 2 → retrained, seed 2"} <= set(pairs)
    assert all(pair.startswith(("base → ", "rl_split + mask 0.2, seed 2 → ", "a tag that")) for pair in pairs)
    assert sum(pair.endswith(" → retrained, seed 2") for pair in pairs) == 4


def test_models_of_one_kind_are_compared_with_each_other() -> None:
    for seed in range(3):
        put(f"{seed}.json", seed=seed, title="alike")
    assert main(["wasserstein", "0.json", "1.json", "2.json", "-S", "30", *QUICK]) == 0
    assert arrays("0/wasserstein")["samples"] == 30
    found = arrays("0_with_1_with_2/d_models/wasserstein_between_models")
    assert found["first"].tolist() == ["alike (0)", "alike (0)", "alike (1)"]


def test_folders_are_compared_by_their_means(study: dict[str, Features]) -> None:
    more = [put(f"more/{seed}.npz", seed=seed, forget=1, title=f"rl, seed {seed}") for seed in (3, 4)]
    assert main(["wasserstein", "features/study", "more", *QUICK]) == 0
    name = "study_with_more/wasserstein_mean_of_more_minus_mean_of_features-study"
    one = np.mean([distances(study[model]) for model in ("ga", "again")], axis=0)
    other = np.mean([distances(features) for features in more], axis=0)
    np.testing.assert_allclose(arrays(name)["matrix"], other - one, atol=1e-8)
    assert {f"{name}.png", f"{name}.csv"} <= written()
    assert "study_with_more/d_class-1/wasserstein_between_models.csv" in written()


def test_empty_classes_are_empty() -> None:
    for name, settings in (("base", {}), ("ga", {"seed": 1, "forget": 1})):
        features = make_features(60, **settings)
        write_features(Path(f"features/{name}.npz"), features.at(np.flatnonzero(features.labels != 2)))
    assert main(["wasserstein", *QUICK]) == 0
    for name in ("base/wasserstein", "d_class-1/wasserstein_ga_minus_base"):
        table, matrix = rows(name), arrays(name)["matrix"]
        assert table[3] == ["class 2", "", "", "", ""]
        assert [row[3] for row in table[1:]] == [""] * 4
        assert np.isnan(matrix).sum() == 7
    assert arrays("base/wasserstein")["counts"][2] == 0
    assert [row[4] for row in rows("d_class-1/wasserstein_between_models")[1:]] == [""]


def test_sliced_distances_say_how_sure_they_are(study: dict[str, Features]) -> None:
    assert main(["wasserstein", "--sliced", "--format", "svg"]) == 0
    found = arrays("base/wasserstein")
    text = re.sub(r"(<[^>]*>|\s)+", " ", Path("images/base/wasserstein.svg").read_text())
    assert "Sliced 1-Wasserstein distance" in text
    assert "lower bound" in text
    assert f"standard error at most {found['errors'].max():.2g}" in text
    apart = ~np.eye(4, dtype=bool)
    assert (found["matrix"][apart] > 0).all()
    assert (found["matrix"][apart] < distances(study["base"])[apart]).all()
    assert (found["errors"][apart] > 0).all()
    assert (found["errors"] < found["matrix"] / 5)[apart].all()
    table = rows("base/wasserstein")
    assert table[0][:3] == ["class", "class 0", "class 0 (standard error)"]
    assert [float(table[1][at]) for at in (3, 4)] == [found["matrix"][0, 1], found["errors"][0, 1]]
    for name in ("wasserstein_ga_minus_base", "wasserstein_between_models"):
        assert np.isfinite(arrays(f"d_class-1/{name}")["errors"]).all()
        assert "class 3 (standard error)" in rows(f"d_class-1/{name}")[0]


def test_models_that_nothing_can_be_compared_with_are_drawn_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    put("a.npz", title="a")
    put("b.npz", title="b", dataset="svhn")
    assert main(["wasserstein", *QUICK]) == 0
    assert written() == {f"{name}/wasserstein{ending}" for name in "ab" for ending in (".csv", ".npz", ".png")}
    assert "can be compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["base.npz", "-S", "3"], r"-S 3: fewer samples than the 4 classes of features/base\.npz; at least 4"),
        (["few.npz"], r"few\.npz: holds 3 samples, fewer than its 4 classes"),
        (["base.npz", "--out", "file"], "file is not a folder"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    study: dict[str, Features], write: Write, refuse: Refuse, argv: list[str], said: str
) -> None:
    write("file", "text")
    write_features(Path("features/few.npz"), make_features(60).first(3))
    lines = refuse(main, ["wasserstein", *argv])
    assert len(lines) == 1
    assert re.search(said, lines[0]), lines[0]
