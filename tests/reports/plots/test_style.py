from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from salun.errors import SalunError
from salun.reports.plots.style import COLOURS, INK, MARKERS, save_figure, shorten, style_of, styled


def test_a_hundred_classes_look_different_and_ten_in_a_row_have_ten_colours() -> None:
    looks = [style_of(label) for label in range(100)]
    assert len(set(looks)) == 100
    assert style_of(100) == style_of(0)
    for first, second in pairwise(looks):
        assert first.colour != second.colour
        assert first.marker != second.marker
    for start in range(0, 100, 10):
        assert {look.colour for look in looks[start : start + 10]} == set(COLOURS)
    assert {look.marker for look in looks} == set(MARKERS)


def test_the_palette_survives_colour_blindness_and_grey_print() -> None:
    deuteranope = np.array([[0.625, 0.375, 0.0], [0.70, 0.30, 0.0], [0.0, 0.30, 0.70]])
    protanope = np.array([[0.567, 0.433, 0.0], [0.558, 0.442, 0.0], [0.0, 0.242, 0.758]])
    colours = np.array([to_rgb(colour) for colour in COLOURS])
    for eye in (np.eye(3), deuteranope, protanope):
        for first, second in pairwise(colours @ eye.T):
            assert np.abs(first - second).sum() > 0.25
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert np.array(to_rgb(INK)) @ weights < 0.15
    assert (colours @ weights).max() < 0.72


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_bytes(kind: str) -> None:
    for name in ("one", "deep/er/two"):
        with styled():
            figure = Figure()
            figure.subplots().plot([1, 2], label="a")
            save_figure(figure, Path(f"{name}.{kind}"), 60)
    assert Path(f"one.{kind}").read_bytes() == Path(f"deep/er/two.{kind}").read_bytes()
    assert sorted(str(path) for path in Path().rglob("*") if path.is_file()) == sorted(
        [f"deep/er/two.{kind}", f"one.{kind}"]
    )


def test_a_figure_that_cannot_be_written_leaves_nothing() -> None:
    Path("file").write_text("x")
    with styled(), pytest.raises(SalunError, match=r"^file/a\.png: cannot be written: "):
        save_figure(Figure(), Path("file/a.png"), 60)
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 200])
def test_long_names_are_cut_in_their_middle(length: int) -> None:
    text = "".join(chr(ord("a") + at % 26) for at in range(length))
    head, _, tail = shorten(text, 10).partition("…")
    assert len(shorten(text, 10)) == min(length, 10)
    assert (head == text) == (length <= 10)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert bool(tail) == (length > 10)
