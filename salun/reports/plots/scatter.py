"""Clouds of samples in two and three dimensions: still, side by side, and turning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from salun.reports.plots.style import FAINT, INK, shorten, style_of

_Floats = NDArray[np.float64]
_ELEVATION = 20.0
_AZIMUTH = 30.0
_FRAMES = 40
_RETAINED_OPACITY = 0.55
_LARGEST = 22.0
_STAR = 180.0
_HALO = 2.0
_LEGEND_ROWS = 25
_TALLEST_LEGEND = 5.2
_LONGEST_NAME = 20
_KEY_WIDTH, _LETTER_WIDTH = 0.45, 0.072
_ACROSS = 5
_FORGOTTEN, _TO_FORGET = " (forgotten)", "to be forgotten"
_UNIT_CUBE = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_EDGES = [(a, b) for a in range(8) for b in range(a) if np.abs(_UNIT_CUBE[a] - _UNIT_CUBE[b]).sum() == 2]


@dataclass(frozen=True)
class Cloud:
    """Samples of one model, placed in a plane or in space.

    Attributes:
        title: what the model is.
        points: (N, 2) or (N, 3), of samples with (N,) labels, some of which were to be forgotten.
        classes: C names.
        prototypes: (C, 2) or (C, 3); (0, 2) or (0, 3) for none.
    """

    title: str
    points: _Floats
    labels: NDArray[np.int64]
    forgotten: NDArray[np.bool_]
    classes: tuple[str, ...]
    prototypes: _Floats

    @property
    def gone(self) -> set[int]:
        """Classes all of whose samples were to be forgotten."""
        return set(self.labels[self.forgotten].tolist()) - set(self.labels[~self.forgotten].tolist())


def flat(cloud: Cloud, title: str) -> Figure:
    """Draw a cloud in the plane."""
    figure, axis = _framed([cloud], title)
    _place(axis, cloud, cloud.points, cloud.prototypes)
    _fit_limits(axis, [cloud])
    return figure


def side_by_side(clouds: Sequence[Cloud], title: str) -> Figure:
    """Draw several models' clouds of the same samples, embedded together, on the same axes."""
    down = -(-len(clouds) // _ACROSS)
    across = -(-len(clouds) // down)
    width, legend = 3.1 * across, _legend_width(clouds[0])
    figure = Figure(figsize=(width + legend, max(3.4 * down, _TALLEST_LEGEND)))
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, cloud in zip(axes, clouds, strict=False):
        _place(axis, cloud, cloud.points, cloud.prototypes)
        axis.set_title(shorten(cloud.title, 38))
        _bare(axis)
    for axis in axes[len(clouds) :]:
        axis.set_axis_off()
    _fit_limits(axes[0], clouds)
    _add_legend(figure, clouds)
    figure.suptitle(title, fontsize=10, x=width / 2 / (width + legend))
    return figure


def solid(cloud: Cloud, title: str) -> Figure:
    """Draw a cloud in space, seen from the side."""
    figure, axis = _framed([cloud], title)
    stage = _Stage(cloud)
    stage.frame(axis)
    stage.turn(axis, _AZIMUTH)
    return figure


def turning(cloud: Cloud, title: str, frames: int = _FRAMES) -> Iterator[Figure]:
    """Draw a cloud in space from all around."""
    figure, axis = _framed([cloud], title)
    stage = _Stage(cloud)
    stage.frame(axis)
    # The layout is settled once: nothing but the cloud moves.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for azimuth in np.linspace(0, 360, frames, endpoint=False):
        artists = stage.turn(axis, _AZIMUTH + float(azimuth))
        yield figure
        for artist in artists:
            artist.remove()


class _Stage:
    """A cube around a cloud, seen from one side or another in a frame that has room for all of them."""

    def __init__(self, cloud: Cloud) -> None:
        everything = np.concatenate([cloud.points, cloud.prototypes])
        low, high = everything.min(0), everything.max(0)
        centre, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-9)
        self.cloud = cloud
        self.points = (cloud.points - centre) / reach
        self.prototypes = (cloud.prototypes - centre) / reach

    def turn(self, axis: Axes, azimuth: float) -> list[Collection]:
        cube, _ = _project(_UNIT_CUBE, azimuth)
        points, depth = _project(self.points, azimuth)
        prototypes, _ = _project(self.prototypes, azimuth)
        edges = LineCollection([cube[[a, b]] for a, b in _EDGES], colors=FAINT, linewidths=0.6)
        axis.add_collection(edges, autolim=False)
        return [edges, _place(axis, self.cloud, points, prototypes, depth)]

    def frame(self, axis: Axes) -> None:
        reach = 2**0.5 * 1.03
        lean = np.deg2rad(_ELEVATION)
        height = reach * np.sin(lean) + np.cos(lean)
        axis.set(xlim=(-reach, reach), ylim=(-height, height), aspect="equal")
        axis.set_axis_off()


def _project(points: _Floats, azimuth: float) -> tuple[_Floats, _Floats]:
    """Project (N, 3) points in parallel: (N, 2) places on the screen, and (N,) how near they are to the eye."""
    turn, lean = np.deg2rad([azimuth, _ELEVATION])
    x, y, z = points.T
    away = -x * np.sin(turn) + y * np.cos(turn)
    screen = np.stack([x * np.cos(turn) + y * np.sin(turn), z * np.cos(lean) + away * np.sin(lean)], 1)
    return screen, z * np.sin(lean) - away * np.cos(lean)


@dataclass(frozen=True)
class _Layer:
    """Points that are drawn alike but for their class, with their markers' outlines and faces."""

    points: _Floats
    labels: NDArray[np.int64]
    size: float
    rim: str = INK
    width: float = 0.9
    opacity: float = 1.0
    star: bool = False

    def outlines(self) -> list[Path]:
        known = {label: _path_of("*" if self.star else style_of(label).marker) for label in set(self.labels.tolist())}
        return [known[label] for label in self.labels.tolist()]

    def faces(self) -> _Floats:
        colours = [to_rgba(style_of(label).colour, self.opacity) for label in self.labels.tolist()]
        return np.array(colours).reshape(-1, 4)

    def rims(self) -> _Floats:
        colours = [to_rgba(self.rim or style_of(label).colour) for label in self.labels.tolist()]
        return np.array(colours).reshape(-1, 4)


def _layers_of(cloud: Cloud, points: _Floats, prototypes: _Floats, nearness: _Floats | None) -> list[_Layer]:
    """Order what is drawn: forgotten samples above all others, whatever their depth, so that none is hidden."""
    order = np.arange(len(points)) if nearness is None else np.argsort(nearness, kind="stable")
    kept, gone = (order[cloud.forgotten[order] == wanted] for wanted in (False, True))
    every = np.arange(len(prototypes))
    plain, lost = (every[np.isin(every, list(cloud.gone)) == wanted] for wanted in (False, True))
    size = float(np.clip(_LARGEST * 640 / max(len(points), 1), 4, _LARGEST))
    star = float(np.clip(_STAR * 10 / len(cloud.classes), _STAR / 4, _STAR))
    return [
        _Layer(points[kept], cloud.labels[kept], size, width=0.0, opacity=_RETAINED_OPACITY),
        *_outlined(prototypes[plain], plain, star),
        _Layer(points[gone], cloud.labels[gone], 2.2 * size, width=0.6),
        *_outlined(prototypes[lost], lost, star),
    ]


def _outlined(prototypes: _Floats, labels: NDArray[np.int64], size: float) -> list[_Layer]:
    """Draw stars as outlines, so that the samples below them are seen."""
    return [
        _Layer(prototypes, labels, size, rim=rim, width=width, opacity=0.0, star=True)
        for rim, width in (("white", _HALO + 1.0), (INK, _HALO), ("", 1.1))
    ]


def _place(
    axis: Axes, cloud: Cloud, points: _Floats, prototypes: _Floats, nearness: _Floats | None = None
) -> PathCollection:
    """Put all samples and prototypes on an axis."""
    layers = _layers_of(cloud, points, prototypes, nearness)
    made = PathCollection(
        [path for layer in layers for path in layer.outlines()],
        sizes=np.concatenate([np.full(len(layer.labels), layer.size) for layer in layers]),
        facecolors=np.concatenate([layer.faces() for layer in layers]),
        edgecolors=np.concatenate([layer.rims() for layer in layers]),
        linewidths=np.concatenate([np.full(len(layer.labels), layer.width) for layer in layers]),
        offsets=np.concatenate([layer.points for layer in layers]),
        offset_transform=axis.transData,
    )
    made.set_transform(IdentityTransform())
    axis.add_collection(made, autolim=False)
    return made


def _path_of(marker: str) -> Path:
    """Give a marker's outline."""
    style = MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform())


def _framed(clouds: Sequence[Cloud], title: str) -> tuple[Figure, Axes]:
    """Make a figure of one panel and a legend."""
    figure = Figure(figsize=(5.6 + _legend_width(clouds[0]), _TALLEST_LEGEND))
    axis = figure.subplots()
    axis.set_title(title)
    _bare(axis)
    _add_legend(figure, clouds)
    return figure, axis


def _bare(axis: Axes) -> None:
    """Take ticks away: the coordinates of an embedding have no unit."""
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=FAINT)


def _fit_limits(axis: Axes, clouds: Sequence[Cloud]) -> None:
    """Show every point of all clouds, at equal scales."""
    everything = np.concatenate([part for cloud in clouds for part in (cloud.points, cloud.prototypes)])
    low, high = everything.min(0), everything.max(0)
    margin = 0.04 * max(float((high - low).max()), 1e-9)
    axis.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))


def _legend_columns(cloud: Cloud) -> int:
    """Count the columns of a legend."""
    return -(-(len(cloud.classes) + 2) // _LEGEND_ROWS)


def _legend_width(cloud: Cloud) -> float:
    """Estimate the width of a legend."""
    marks = len(_FORGOTTEN) if cloud.gone else 0
    longest = max(len(_TO_FORGET) - marks, *(len(shorten(name, _LONGEST_NAME)) for name in cloud.classes))
    return _legend_columns(cloud) * (_KEY_WIDTH + _LETTER_WIDTH * longest) + _LETTER_WIDTH * marks


def _add_legend(figure: Figure, clouds: Sequence[Cloud]) -> None:
    """Explain colours, markers, rings and stars, beside the panels."""
    cloud = clouds[0]
    gone = cloud.gone
    labels = sorted(range(len(cloud.classes)), key=lambda label: (label not in gone, label))
    handles = []
    for label in labels:
        style = style_of(label)
        ring = INK if label in gone else "none"
        name = shorten(cloud.classes[label], _LONGEST_NAME) + (_FORGOTTEN if label in gone else "")
        handles.append(_key(name, style.marker, style.colour, ring))
    if cloud.forgotten.any() and not gone:
        handles.append(_key(_TO_FORGET, "o", "white", INK))
    if any(len(each.prototypes) for each in clouds):
        handles.append(_key("prototype", "*", "white", INK))
    columns = _legend_columns(cloud)
    legend = figure.legend(handles=handles, loc="outside right upper", ncols=columns, handletextpad=0.2)
    for text in legend.get_texts()[: len(gone)]:
        text.set_fontweight("bold")


def _key(name: str, marker: str, face: str, edge: str) -> Line2D:
    """Make an entry of a legend."""
    size = 10 if marker == "*" else 6
    return Line2D([], [], linestyle="", marker=marker, color=face, markeredgecolor=edge, markersize=size, label=name)
