from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from figures import assert_tidy, laid_out
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from salun.reports.plots.scatter import Cloud, flat, side_by_side, solid, turning
from salun.reports.plots.style import styled


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


Draw = Callable[[Cloud, str], Figure]


def points_of(figure: Figure) -> list[PathCollection]:
    return [artist for axis in figure.axes for artist in axis.collections if isinstance(artist, PathCollection)]


@pytest.mark.parametrize("classes", [2, 10, 43, 120])
@pytest.mark.parametrize("draw", [flat, solid])
def test_nothing_is_cut_off_or_covered(classes: int, draw: Draw) -> None:
    cloud = make_cloud(classes, 400, 2 if draw is flat else 3, names="a rather long class name {}")
    few = replace(make_cloud(2, 1 + classes % 2, axes := cloud.points.shape[1], None), prototypes=np.empty((0, axes)))
    for each in (cloud, few):
        with styled():
            title = "rl_split + mask 0.2\nt-SNE, perplexity 30: 3000 train images, resnet18 on cifar10"
            assert_tidy(laid_out(draw(each, title)))


@pytest.mark.parametrize(("models", "classes"), [(2, 10), (5, 10), (9, 10), (2, 43), (3, 100)])
def test_models_stand_side_by_side_on_the_same_axes(models: int, classes: int) -> None:
    title = "rl_split + random mask 0.25, seed {}"
    clouds = [replace(make_cloud(classes, seed=seed), title=title.format(seed)) for seed in range(models)]
    with styled():
        figure = side_by_side(clouds, "t-SNE, one fit for all models: 1000 train images, resnet_tiny on digits")
        assert_tidy(laid_out(figure))
    panels = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in panels] == [cloud.title for cloud in clouds]
    assert len({(axis.get_xlim(), axis.get_ylim()) for axis in panels}) == 1
    (left, right), (low, high) = panels[0].get_xlim(), panels[0].get_ylim()
    for cloud in clouds:
        x, y = np.concatenate([cloud.points, cloud.prototypes]).T
        assert left < x.min() <= x.max() < right
        assert low < y.min() <= y.max() < high
    assert len(figure.legends) == 1


def test_forgotten_samples_are_larger_ringed_and_on_top() -> None:
    cloud = make_cloud()
    with styled():
        (artist,) = points_of(flat(cloud, "t"))
    places = {tuple(place): at for at, place in enumerate(np.asarray(artist.get_offsets()))}
    forgotten = [places[tuple(point)] for point in cloud.points[cloud.forgotten]]
    others = [places[tuple(point)] for point in cloud.points[~cloud.forgotten]]
    assert min(forgotten) > max(others)
    everything = np.concatenate([cloud.points, cloud.prototypes])
    assert set(places) == set(map(tuple, everything))
    assert artist.get_sizes()[forgotten].min() > artist.get_sizes()[others].max()
    widths = np.asarray(artist.get_linewidths())
    assert widths[forgotten].min() > 0
    assert widths[others].max() == 0
    assert artist.get_facecolors()[forgotten][:, 3].min() == 1
    assert artist.get_facecolors()[others][:, 3].max() < 1


@pytest.mark.parametrize("draw", [flat, solid])
def test_no_prototype_of_another_class_covers_what_was_forgotten(draw: Draw) -> None:
    cloud = make_cloud(100, 500, 2 if draw is flat else 3)
    with styled():
        artist = points_of(draw(cloud, "t"))[-1]
    sizes, widths = artist.get_sizes(), np.asarray(artist.get_linewidths())
    stars = np.flatnonzero(np.isclose(widths, 1.1))
    assert (artist.get_facecolors()[np.isclose(widths, 1.1) | (widths > 1.1)][:, 3] == 0).all()
    ringed = np.flatnonzero(np.isclose(widths, 0.6))
    assert len(ringed) == int(cloud.forgotten.sum())
    assert (stars < ringed.min()).sum() == 99
    assert sizes[stars[stars < ringed.min()]].max() < 2 * sizes[ringed].min()


def test_the_legend_names_a_forgotten_class_first_and_bold_and_else_explains_the_ring() -> None:
    for cloud, found in (
        (
            make_cloud(),
            [("class 3 (forgotten)", "bold"), *[(f"class {at}", "normal") for at in (0, 1, 2, *range(4, 10))]],
        ),
        (
            replace(make_cloud(), forgotten=np.arange(300) % 7 == 0, prototypes=np.empty((0, 2))),
            [*[(f"class {at}", "normal") for at in range(10)], ("to be forgotten", "normal")],
        ),
    ):
        with styled():
            (legend,) = flat(cloud, "t").legends
        prototype = [("prototype", "normal")] if len(cloud.prototypes) else []
        assert [(text.get_text(), text.get_fontweight()) for text in legend.get_texts()] == found + prototype


def turn(cloud: Cloud, frames: int) -> list[tuple[np.ndarray, np.ndarray, Figure]]:
    """The corners of the cube and the places of what is drawn, frame by frame."""
    found = []
    with styled():
        for figure in turning(cloud, "t", frames):
            (edges,) = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)]
            (points,) = points_of(figure)
            found.append((np.concatenate(edges.get_segments()), np.asarray(points.get_offsets()), figure))
    return found


def test_the_cube_stays_in_the_frame_and_the_cloud_in_the_cube() -> None:
    for cube, points, figure in turn(make_cloud(axes=3), 24):
        (left, right), (low, high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
        assert left < cube[:, 0].min() < cube[:, 0].max() < right
        assert low < cube[:, 1].min() < cube[:, 1].max() < high
        assert (cube.min(0) < points.min(0)).all()
        assert (points.max(0) < cube.max(0)).all()


def test_a_parallel_projection_turns_about_the_vertical_axis() -> None:
    corners = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    labels, kept = np.zeros(8, dtype=np.int64), np.zeros(8, dtype=bool)
    cloud = Cloud("m", corners, labels, kept, ("a",), np.empty((0, 3)))
    for frame, (cube, points, _) in enumerate(turn(cloud, 12)):
        angle, lean = np.deg2rad([30 + 30 * frame, 20])
        x, y, z = corners.T
        away = y * np.cos(angle) - x * np.sin(angle)
        screen = np.stack([x * np.cos(angle) + y * np.sin(angle), z * np.cos(lean) + away * np.sin(lean)], 1)
        near = np.argsort(z * np.sin(lean) - away * np.cos(lean), kind="stable")
        assert points[[0, -1]] == pytest.approx(screen[near[[0, -1]]])
        assert {*map(tuple, points.round(9) + 0.0)} == {*map(tuple, screen.round(9) + 0.0)}
        assert {*map(tuple, cube.round(9) + 0.0)} == {*map(tuple, screen.round(9) + 0.0)}
