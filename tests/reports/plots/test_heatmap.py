from collections.abc import Sequence

import numpy as np
import pytest
from figures import assert_tidy, laid_out
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from salun.reports.plots.heatmap import Panel, Scale, heatmaps, shared_limit
from salun.reports.plots.style import styled

Floats = NDArray[np.float64]

DISTANCE = Scale("1-Wasserstein distance", form="", rows="class", columns="class")
CHANGE = Scale("difference of 1-Wasserstein distance", centre=0, form="", rows="class", columns="class")
LONG = "difference of 1-Wasserstein distances between classes, of models that were made to forget"


def names(count: int, long: bool = False) -> list[str]:
    return [f"a class with a rather long name {at}" if long else f"class {at}" for at in range(count)]


def make_panels(count: int, classes: int, long: bool = False, empty: int | None = None) -> list[Panel]:
    random = np.random.default_rng(0)
    labels = names(classes, long)
    panels = []
    for at in range(count):
        values = random.normal(0, 4, (classes, classes))
        if empty is not None:
            values[empty] = values[:, empty] = np.nan
        panels.append(Panel(f"rl_split + random mask 0.{at}, seed {at}", values, labels, labels, frozenset(labels[:1])))
    return panels


def drawn(panels: Sequence[Panel], scale: Scale = DISTANCE, title: str = "", caption: str = "") -> Figure:
    with styled():
        return laid_out(heatmaps(panels, scale, title, caption=caption))


def panels_of(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.axison and axis.images]


def row_labels(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.get_yticklabels() if text.get_text()]


def luminance(colour: object) -> float:
    """As the Web Content Accessibility Guidelines have it."""
    parts = np.array(to_rgb(colour))
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize(
    ("count", "classes", "long"),
    [(1, 2, False), (5, 2, False), (6, 10, False), (3, 10, True), (12, 3, True), (1, 30, True), (3, 100, True)],
)
def test_nothing_is_cut_off_or_on_another(count: int, classes: int, long: bool) -> None:
    panels = make_panels(count, classes, long, empty=1)
    figure = drawn(panels, CHANGE, LONG, f"bold and framed: to be forgotten; {LONG}")
    assert_tidy(figure)
    assert (figure.get_size_inches() < 45).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 10), (21, 10), (1, 2), (3, 100), (60, 4)])
def test_matrices_that_are_no_squares(rows: int, columns: int) -> None:
    labels = [f"base → rl_split + mask 0.{at}, seed 2" for at in range(rows)]
    values = np.random.default_rng(0).uniform(0, 900, (rows, columns))
    figure = drawn([Panel("", values, labels, names(columns))], DISTANCE, "Between models", "digits")
    assert_tidy(figure)
    box = panels_of(figure)[0].get_window_extent()
    assert min(box.width / columns, box.height / rows) > 4


def test_each_cell_has_its_number_within_it() -> None:
    values = np.array([[0.0, -12.341], [3.0, np.nan]])
    figure = drawn([Panel("m", values, ["a", "b"], ["c", "d"])], CHANGE)
    axis = panels_of(figure)[0]
    assert [text.get_text() for text in axis.texts] == ["0", "-12.3", "+3.0"]
    width = axis.get_window_extent().width / 2
    assert all(text.get_window_extent().width < width for text in axis.texts)


def test_empty_cells_are_crossed_out_and_explained() -> None:
    empty = drawn(make_panels(2, 4, empty=2))
    for axis in panels_of(empty):
        crosses = axis.collections[0].get_offsets()
        assert {*map(tuple, np.asarray(crosses))} == {place for at in range(4) for place in ((2, at), (at, 2))}
        assert len(axis.texts) == 9
    assert "no images" in empty.get_supxlabel()
    assert_tidy(drawn([Panel("m", np.full((3, 3), np.nan), names(3), names(3))], CHANGE))
    assert "no images" not in drawn(make_panels(2, 4), caption="c").get_supxlabel()


def test_all_panels_share_limits_that_reach_as_far_on_both_sides_of_a_centre() -> None:
    low, high = make_panels(1, 4)[0], Panel("m", np.full((4, 4), 50.0), names(4), names(4))
    both = Panel("m", np.array([[-1.0, 0.0], [0.5, 4.0]]), names(2), names(2))
    for panels, scale, limits in (
        ([low, high], DISTANCE, (low.values.min(), 50.0)),
        ([both], CHANGE, (-4, 4)),
        ([both], Scale("d", -10, 10, 0), (-10, 10)),
    ):
        images = [axis.images[0] for axis in panels_of(drawn(panels, scale))]
        assert {image.get_clim() for image in images} == {limits}
    assert luminance(images[0].cmap(images[0].norm(0.0))) > 0.9


def test_one_outlier_does_not_flatten_the_others_and_is_told() -> None:
    several = [np.full((3, 3), value) for value in (-1.0, 1.2, 0.8, 40.0)]
    assert shared_limit(several) == pytest.approx(2 * 1.1)
    assert shared_limit(several[:3]) == 1.2
    assert shared_limit([np.full(2, np.nan), np.array([np.nan, 3.0])]) == 3.0
    assert shared_limit([np.zeros(2)]) == 0
    panels = [Panel("m", values, names(3), names(3)) for values in several]
    figure = drawn(panels, Scale("d", -2.2, 2.2, 0))
    assert "beyond the colour bar" in figure.get_supxlabel()
    assert "beyond" not in drawn(panels[:3], Scale("d", -2.2, 2.2, 0)).get_supxlabel()
    shades = [luminance(axis.images[0].cmap(axis.images[0].norm(1.0))) for axis in panels_of(figure)]
    assert max(shades) < 0.75


def test_rows_are_labelled_again_where_they_differ() -> None:
    same = Panel("m", np.zeros((2, 2)), names(2), names(2))
    other = Panel("m", np.zeros((2, 2)), ["x", "y"], names(2))
    for second, labels in ((same, []), (other, ["x", "y"])):
        figure = drawn([same, second])
        assert [row_labels(axis) for axis in panels_of(figure)] == [names(2), labels]
        assert_tidy(figure)


@pytest.mark.parametrize(
    ("largest", "shown"),
    [
        (0.0, "0"), (0.0123, "0.0123"), (0.987, "0.987"), (9.87654, "9.88"), (98.7, "98.7"), (4321.0, "4321"),
        (3e-7, "3.0e-07"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(largest: float, shown: str) -> None:
    figure = drawn([Panel("m", np.array([[0.0, largest, np.nan]]), ["a"], names(3))])
    assert [text.get_text() for text in panels_of(figure)[0].texts] == ["0", shown]


@pytest.mark.parametrize("scale", [DISTANCE, CHANGE])
def test_numbers_stand_out_on_every_colour_and_what_rounds_to_zero_has_no_sign(scale: Scale) -> None:
    values = np.linspace(-9, 9, 300).reshape(20, 15)
    axis = panels_of(drawn([Panel("m", values, names(20), names(15))], scale))[0]
    image = axis.images[0]
    for text, value in zip(axis.texts, values.flat, strict=True):
        light, dark = sorted((luminance(image.cmap(image.norm(value))), luminance(text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4
        assert float(text.get_text()) == pytest.approx(value, abs=0.006)
        assert float(text.get_text()) or text.get_text() == "0"
    shades = [luminance(image.cmap(part)) for part in np.linspace(0, 1, 50)]
    assert (np.diff(shades) < 0).all() == (scale is DISTANCE)
