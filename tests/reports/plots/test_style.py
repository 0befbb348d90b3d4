from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
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


def least_distance(colours: np.ndarray, eye: np.ndarray) -> float:
    """The distance of the two most alike colours in OKLab, as an eye sees them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4) @ eye.T
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]])
    opponents = np.array([[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]])
    places = np.cbrt(np.clip(linear, 0, 1) @ cones.T) @ opponents.T
    return min(float(np.linalg.norm(one - other)) for one, other in combinations(places, 2))


def test_the_palette_survives_colour_blindness_and_grey_print() -> None:
    deuteranope = np.array([[0.625, 0.375, 0.0], [0.70, 0.30, 0.0], [0.0, 0.30, 0.70]])
    protanope = np.array([[0.567, 0.433, 0.0], [0.558, 0.442, 0.0], [0.0, 0.242, 0.758]])
    colours = np.array([to_rgb(colour) for colour in COLOURS])
    for eye in (np.eye(3), deuteranope, protanope):
        for first, second in pairwise(colours @ eye.T):
            assert np.abs(first - second).sum() > 0.25
    assert least_distance(colours, np.eye(3)) > 0.15
    # Machado, Oliveira and Fernandes (2009): eyes without green and without red cones.
    blind_to_green = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    blind_to_red = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    assert min(least_distance(colours, np.array(eye)) for eye in (blind_to_green, blind_to_red)) > 0.09
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


def test_a_script_that_our_font_lacks_is_drawn_in_one_that_has_it_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = (font_manager.get_font(font_manager.findfont(name)) for name in ("DejaVu Sans", "STIXGeneral"))
    mark = next(chr(code) for code in sorted(set(other.get_charmap()) - set(own.get_charmap())) if code > 0x2000)
    for fonts, missing in ((font_manager.fontManager.ttflist, "猫"), ([], "".join(sorted({mark, "猫"})))):
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [font for font in fonts if "mpl-data" in font.fname])
        with styled():
            figure = Figure()
            figure.suptitle(f"a{mark}猫")
            assert save_figure(figure, Path("a.png"), 60) == missing
            assert figure.texts[0].get_fontfamily()[0] == "DejaVu Sans"
            assert (len(figure.texts[0].get_fontfamily()) > 1) == bool(fonts)


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
