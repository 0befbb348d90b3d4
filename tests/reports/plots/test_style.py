from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from salun.errors import SalunError
from salun.reports.plots.style import COLOURS, save_figure, shorten, style_of, styled


def test_a_hundred_classes_look_different() -> None:
    looks = [style_of(label) for label in range(100)]
    assert len(set(looks)) == 100
    assert style_of(100) == style_of(0)
    for first, second in pairwise(looks):
        assert first.colour != second.colour
        assert first.marker != second.marker


def test_ten_classes_in_a_row_have_ten_colours() -> None:
    for start in range(0, 100, 10):
        assert {style_of(label).colour for label in range(start, start + 10)} == set(COLOURS)


def test_colours_are_dark_enough_for_white_paper() -> None:
    for colour in COLOURS:
        assert sum(to_rgb(colour)) / 3 < 0.75


def test_the_look_lasts_as_long_as_the_block() -> None:
    before = dict(mpl.rcParams)
    with styled():
        assert mpl.rcParams["figure.facecolor"] == "white"
        assert dict(mpl.rcParams) != before
    assert dict(mpl.rcParams) == before


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


def test_more_dots_make_a_larger_bitmap() -> None:
    with styled():
        for dpi in (20, 80):
            save_figure(Figure(figsize=(1, 1)), Path(f"{dpi}.png"), dpi)
    sizes = [int.from_bytes(Path(f"{dpi}.png").read_bytes()[16:20], "big") for dpi in (20, 80)]
    assert sizes == [20, 80]


def test_names_are_shown_as_they_are() -> None:
    with styled():
        figure = Figure()
        figure.text(0, 0, "$x_1$ & <b>")
        save_figure(figure, Path("a.svg"), 60)
    assert "$x_1$ &amp; &lt;b&gt;" in Path("a.svg").read_text()


def test_a_figure_that_cannot_be_written_leaves_nothing() -> None:
    Path("file").write_text("x")
    with styled(), pytest.raises(SalunError, match=r"^file/a\.png: cannot be written: "):
        save_figure(Figure(), Path("file/a.png"), 60)
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 200])
def test_long_names_are_cut_in_their_middle(length: int) -> None:
    text = "".join(chr(ord("a") + at % 26) for at in range(length))
    short = shorten(text, 10)
    assert len(short) <= 10
    if length <= 10:
        assert short == text
    else:
        head, tail = short.split("…")
        assert head
        assert tail
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(short) == 10


def test_text_is_dark_on_white() -> None:
    with styled():
        figure = Figure(figsize=(2, 1))
        text = figure.text(0.5, 0.5, "a")
        FigureCanvasAgg(figure).draw()
    assert max(to_rgb(text.get_color())) < 0.2
    assert min(to_rgb(figure.get_facecolor())) == 1
