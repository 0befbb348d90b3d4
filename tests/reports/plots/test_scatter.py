from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from figures import assert_tidy, texts_of

from salun.reports.plots.scatter import UNIT_CUBE, Cloud, flat, project, side_by_side, solid, turning
from salun.reports.plots.style import COLOURS, INK, MARKERS, save_figure, style_of, styled


def make_cloud(
    classes: int = 10, count: int = 300, axes: int = 2, gone: int | None = 3, names: str = "class {}", seed: int = 0
) -> Cloud:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = random.normal(size=(classes, axes)) * 10
    return Cloud(
        title=f"model {seed}",
        points=centres[labels] + random.normal(size=(count, axes)),
        labels=labels,
        forgotten=labels == gone if gone is not None else np.zeros(count, dtype=bool),
        classes=tuple(names.format(label) for label in range(classes)),
        prototypes=centres,
    )


def points_of(figure: Figure) -> list[PathCollection]:
    return [artist for axis in figure.axes for artist in axis.collections if isinstance(artist, PathCollection)]


@pytest.mark.parametrize("classes", [2, 10, 43, 100, 120])
@pytest.mark.parametrize("draw", [flat, solid])
def test_nothing_is_cut_off_or_covered(classes: int, draw: object) -> None:
    cloud = make_cloud(classes, 400, 2 if draw is flat else 3, names="a rather long class name {}")
    with styled():
        assert_tidy(draw(cloud, "rl_split + mask 0.2\nt-SNE, perplexity 30: 3000 train images, resnet18 on cifar10"))


@pytest.mark.parametrize(("models", "classes"), [(2, 10), (3, 10), (5, 10), (9, 10), (2, 43), (3, 100)])
def test_models_stand_side_by_side_on_the_same_axes(models: int, classes: int) -> None:
    clouds = [
        replace(make_cloud(seed=seed), title=f"rl_split + random mask 0.25, seed {seed}") for seed in range(models)
    ]
    with styled():
        figure = side_by_side(clouds, "t-SNE, one fit for all models: 1000 train images, resnet_tiny on digits")
        assert_tidy(figure)
    panels = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in panels] == [cloud.title for cloud in clouds]
    assert len({(axis.get_xlim(), axis.get_ylim()) for axis in panels}) == 1
    (left, right), (low, high) = panels[0].get_xlim(), panels[0].get_ylim()
    for cloud in clouds:
        x, y = np.concatenate([cloud.points, cloud.prototypes]).T
        assert left < x.min() <= x.max() < right
        assert low < y.min() <= y.max() < high
    assert len(figure.legends) == 1


def test_every_sample_and_prototype_is_drawn_once() -> None:
    cloud = make_cloud(gone=None)
    with styled():
        (artist,) = points_of(flat(cloud, "t"))
    drawn = np.asarray(artist.get_offsets())
    expected = np.concatenate([cloud.points, cloud.prototypes])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, expected))


def test_forgotten_samples_are_larger_ringed_and_on_top() -> None:
    cloud = make_cloud()
    with styled():
        (artist,) = points_of(flat(cloud, "t"))
    places = {tuple(place): at for at, place in enumerate(np.asarray(artist.get_offsets()))}
    forgotten = [places[tuple(point)] for point in cloud.points[cloud.forgotten]]
    others = [places[tuple(point)] for point in cloud.points[~cloud.forgotten]]
    assert min(forgotten) > max(others)
    assert artist.get_sizes()[forgotten].min() > artist.get_sizes()[others].max()
    widths = np.asarray(artist.get_linewidths())
    assert widths[forgotten].min() > 0
    assert widths[others].max() == 0
    assert artist.get_facecolors()[forgotten][:, 3].min() == 1
    assert artist.get_facecolors()[others][:, 3].max() < 1


@pytest.mark.parametrize("draw", [flat, solid])
def test_no_prototype_of_another_class_covers_what_was_forgotten(draw: object) -> None:
    cloud = make_cloud(100, 500, 2 if draw is flat else 3)
    with styled():
        artist = points_of(draw(cloud, "t"))[-1]
    sizes, widths = artist.get_sizes(), np.asarray(artist.get_linewidths())
    stars = np.flatnonzero(np.isclose(widths, 0.9))
    ringed = np.flatnonzero(np.isclose(widths, 0.6))
    assert len(ringed) == int(cloud.forgotten.sum())
    assert (stars < ringed.min()).sum() == 99
    assert sizes[stars[stars < ringed.min()]].max() < 2 * sizes[ringed].min()


def test_the_legend_names_the_forgotten_class_first_and_bold() -> None:
    with styled():
        (legend,) = flat(make_cloud(), "t").legends
    texts = legend.get_texts()
    assert (texts[0].get_text(), texts[0].get_fontweight()) == ("class 3 (forgotten)", "bold")
    assert [text.get_fontweight() for text in texts[1:]] == ["normal"] * 10
    assert texts[-1].get_text() == "prototype"


def test_forgotten_samples_of_many_classes_are_explained_by_their_ring() -> None:
    cloud = replace(make_cloud(), forgotten=np.arange(300) % 7 == 0, prototypes=np.empty((0, 2)))
    with styled():
        (legend,) = flat(cloud, "t").legends
    names = [text.get_text() for text in legend.get_texts()]
    assert "to be forgotten" in names
    assert "prototype" not in names
    assert not any("(forgotten)" in name for name in names)


@pytest.mark.parametrize("name", ["$x^2$ {}", "a_b {}", "<b>{}</b>", "ünï {}", "% \\frac {}"])
def test_class_names_are_plain_text(name: str, tmp_path: Path) -> None:
    with styled():
        figure = flat(make_cloud(names=name), "$t$")
        save_figure(figure, tmp_path / "a.png", 50)
    shown = [text.get_text() for text in texts_of(figure)]
    assert name.format(0) in shown


def test_a_hundred_classes_look_different() -> None:
    looks = [style_of(label) for label in range(100)]
    assert len(set(looks)) == 100
    assert {look.colour for look in looks} == set(COLOURS)
    assert {look.marker for look in looks} == set(MARKERS)
    for first, second in pairwise(looks):
        assert first.colour != second.colour
        assert first.marker != second.marker


def test_the_palette_survives_colour_blindness() -> None:
    deuteranope = np.array([[0.625, 0.375, 0.0], [0.70, 0.30, 0.0], [0.0, 0.30, 0.70]])
    protanope = np.array([[0.567, 0.433, 0.0], [0.558, 0.442, 0.0], [0.0, 0.242, 0.758]])
    colours = np.array([to_rgb(colour) for colour in COLOURS])
    for eye in (np.eye(3), deuteranope, protanope):
        seen = colours @ eye.T
        for first, second in pairwise(seen):
            assert np.abs(first - second).sum() > 0.25


def test_ink_and_markers_survive_grey_print() -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert np.array(to_rgb(INK)) @ weights < 0.15
    assert all(np.array(to_rgb(colour)) @ weights < 0.72 for colour in COLOURS)


def test_parallel_projection_keeps_what_lies_on_the_screen() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    front, _ = project(points, 0, 0)
    assert front == pytest.approx(points[:, [0, 2]])
    around, nearness = project(points, 360, 0)
    assert around == pytest.approx(front)
    assert nearness == pytest.approx(-points[:, 1])
    for azimuth in (0.0, 33.0, 120.0):
        screen, depth = project(points, azimuth, 20)
        assert (screen**2).sum(1) + depth**2 == pytest.approx((points**2).sum(1))


@pytest.mark.parametrize("azimuth", range(0, 360, 15))
def test_the_cube_stays_in_the_frame(azimuth: int) -> None:
    with styled():
        axis = solid(make_cloud(axes=3), "t").axes[0]
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    screen, _ = project(UNIT_CUBE, azimuth)
    assert left < screen[:, 0].min() < screen[:, 0].max() < right
    assert low < screen[:, 1].min() < screen[:, 1].max() < high


def rasters(count: int) -> list[np.ndarray]:
    """The pictures of a turn."""
    with styled():
        return [raster(figure) for figure in turning(make_cloud(axes=3), "t", count)]


def raster(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def test_a_turn_shows_the_cloud_from_all_sides() -> None:
    pictures = rasters(6)
    assert len(pictures) == 6
    for one, other in pairwise([*pictures, pictures[0]]):
        assert (one != other).any()
    legend = [picture[:, int(picture.shape[1] * 0.8) :] for picture in pictures]
    assert all(np.array_equal(legend[0], part) for part in legend)


def test_a_turn_leaves_nothing_of_the_frame_before() -> None:
    assert np.array_equal(rasters(2)[1], rasters(4)[2])


@pytest.mark.parametrize("count", [1, 2])
def test_one_sample_can_be_drawn(count: int) -> None:
    for axes, draw in ((2, flat), (3, solid)):
        cloud = replace(make_cloud(2, count, axes, None), prototypes=np.empty((0, axes)))
        with styled():
            assert_tidy(draw(cloud, "t"))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_cloud_gives_the_same_file(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        with styled():
            save_figure(flat(make_cloud(), "t"), tmp_path / f"{name}.{ending}", 60)
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{ending}", f"b.{ending}"]
