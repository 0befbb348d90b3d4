import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from features import make_features
from salun.cli.viz import main
from salun.errors import SalunError
from salun.latent.features import write_features

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]

SMALL = ["--perplexity", "8", "--dpi", "40"]


def put(name: str, **made: Any) -> None:
    write_features(Path("features") / name, make_features(**({"count": 60} | made)))


@pytest.fixture
def study() -> None:
    """A base model, and one that was to forget class 1."""
    put("base.npz", seed=0, title="base")
    put("study/ga.npz", seed=1, forget=1, title="ga")


def written(folder: str = "images") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def coordinates(path: str) -> dict[str, np.ndarray]:
    with np.load(Path("images") / path, allow_pickle=False) as content:
        return dict(content)


def test_each_file_gets_its_pictures_where_it_lies_without_a_display(
    study: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    assert main(["tsne", *SMALL]) == 0
    names = ["tsne.gif", "tsne.npz", "tsne_2d.png", "tsne_3d.png"]
    assert written() == [f"base/{name}" for name in names] + [f"study/ga/{name}" for name in names]
    shown = capsys.readouterr().out.splitlines()
    assert sorted(shown) == [f"images/{name}" for name in written() if not name.endswith(".npz")]
    with Image.open("images/base/tsne.gif") as turning:
        assert turning.n_frames > 20
    found = coordinates("study/ga/tsne.npz")
    assert found["flat"].shape == (60, 2)
    assert found["solid"].shape == (60, 3)
    assert found["flat_prototypes"].shape == (4, 2)
    assert found["forgotten"].tolist() == (found["labels"] == 1).tolist()


def test_named_together_models_share_one_space(study: None) -> None:
    assert main(["tsne", "features/study", "features/base.npz", *SMALL]) == 0
    root = "study_with_base/d_class-1"
    assert f"{root}/tsne_side_by_side.png" in written()
    assert f"{root}/base/tsne_2d.png" in written()
    assert f"{root}/study/ga/tsne.gif" in written()
    both = [coordinates(f"{root}/{name}/tsne.npz") for name in ("base", "study/ga")]
    assert both[0]["key"] == both[1]["key"]
    assert both[0]["indices"].tolist() == both[1]["indices"].tolist()
    assert not np.array_equal(both[0]["flat"], both[1]["flat"])


UMAP = pytest.param(["umap", "--neighbours", "8", "--dpi", "40"], marks=pytest.mark.slow)


@pytest.mark.parametrize("command", [["tsne", *SMALL], UMAP])
def test_the_same_command_gives_the_same_coordinates(command: list[str]) -> None:
    put("base.npz")
    for folder in ("one", "two"):
        assert main([*command, "--out", folder]) == 0
    assert written("one") == written("two")
    for name in written("one"):
        if not name.endswith(".npz"):
            assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes(), name
    assert main([*command, "--out", "three", "--seed", "1"]) == 0
    name = f"base/{command[0]}.npz"
    with np.load(Path("one") / name) as first, np.load(Path("three") / name) as other:
        assert not np.array_equal(first["flat"], other["flat"])


def test_restyling_fits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    put("base.npz")
    assert main(["tsne", *SMALL]) == 0
    before = coordinates("base/tsne.npz")["flat"]

    def fitted(*arguments: object) -> None:
        raise SalunError("fitted again")

    monkeypatch.setattr("salun.cli.viz.tsne.in_plane", fitted)
    assert main(["tsne", "--perplexity", "8", "--format", "svg"]) == 0
    assert "base/tsne_2d.svg" in written()
    assert np.array_equal(coordinates("base/tsne.npz")["flat"], before)
    assert main(["tsne", "--perplexity", "9"]) == 2
    assert main(["tsne", "-S", "50", *SMALL]) == 2


def test_the_notebooks_figure_takes_equally_many_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    put("base.npz", count=110)
    assert main(["umap", "--notebook", "--dpi", "40"]) == 0
    assert re.search(r"base\.npz: 110 images allow \d+ of the notebook's 2,000", capsys.readouterr().err)
    found = coordinates("base/umap_notebook.npz")
    counts = np.bincount(found["labels"])
    assert len(set(counts.tolist())) == 1
    assert counts[0] == np.bincount(make_features(110).labels).min()
    assert not len(found["flat_prototypes"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["tsne", "nowhere"], "nowhere: no such file or folder, here or under features/"),
        (["tsne", "base.npz"], "--perplexity 30: 1 to 21 for 64 points"),
        (["tsne", "base.npz", "--dpi", "100000"], "--dpi 100000: at most"),
        (["tsne", "base.npz", "--out", "file"], "file is not a folder"),
        (["tsne", "base.npz", "other.npz", *SMALL], "cannot be compared: their data sets differ"),
        (["tsne", "base.npz", "study", "--perplexity", "50"], "--perplexity 50: 1 to 42 for 128 points"),
        (["umap", "base.npz", "--neighbours", "60"], "--neighbours 60: .* 60 points"),
        (["umap", "base.npz", "--min-dist", "2"], "--min-dist 2: must be from 0 to 1"),
        (["umap", "base.npz", "--notebook", "--neighbours", "9"], "--neighbours and --notebook exclude each other"),
        (["umap", "tested.npz", "--notebook"], "holds test images; --notebook draws training images"),
        ([], "COMMAND"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    study: None, write: Write, refuse: Refuse, argv: list[str], said: str
) -> None:
    write("file", "text")
    put("other.npz", dataset="svhn")
    put("tested.npz", split="test")
    lines = refuse(main, argv)
    assert len(lines) == 1
    assert re.search(said, lines[0]), lines[0]


def test_a_film_needs_ffmpeg(study: None, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--mp4: needs the program ffmpeg" in refuse(main, ["tsne", "--mp4", *SMALL])[0]
