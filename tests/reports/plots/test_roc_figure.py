from functools import cache
from pathlib import Path

import numpy as np
import pytest
from figures import assert_tidy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from salun.reports.plots.roc import draw_roc
from salun.reports.plots.style import save_figure, styled
from salun.reports.roc import Roc, roc_of

TITLE = "U-LiRA: resnet_tiny on digits, forgetting 0.1 of the training split: 235 images asked for"
LONG = "a tag that says a great deal about what was done and why, and then goes on to say it once more"


@cache
def attack(shift: float, models: int = 6, images: int = 300) -> Roc:
    random = np.random.default_rng(0)
    members, others = random.normal(shift, 1, (models, images)), random.normal(0, 1, (models, images))
    places = np.repeat(np.arange(models)[:, None], images, axis=1)
    return roc_of(members, places, others, places, 20)


CURVES = {
    "one": [("retrain", attack(0.0))],
    "several": [("base", attack(1.0)), ("retrain", attack(0.0)), ("ft", attack(0.5)), ("rl + mask 0.5", attack(0.5))],
    "perfect": [("base", attack(100.0)), ("ga", attack(100.0)), ("retrain", attack(0.0))],
    "useless": [("backwards", attack(-100.0)), ("all alike", roc_of(*[np.zeros((3, 9)), np.zeros((3, 9), int)] * 2))],
    "few images": [("a", attack(0.5, 2, 3)), ("b", attack(0.0, 3, 2))],
    "many images": [("a", attack(0.5, 20, 2000)), ("b", attack(0.0, 20, 2000))],
    "long names": [(f"{LONG} {place}", attack(place / 3)) for place in range(4)],
    "odd names": [("_under $x^2$ <b> %", attack(1.0)), ("鉄腕アトム", attack(0.5))],
    "thirty methods": [(f"method {place} + mask 0.{place}", attack(place / 10)) for place in range(30)],
}
EACH = pytest.mark.parametrize("kind", CURVES)
pytestmark = pytest.mark.filterwarnings("ignore:Glyph")


@cache
def drawn(kind: str, title: str = TITLE) -> Figure:
    with styled():
        figure = draw_roc(title, CURVES[kind])
        FigureCanvasAgg(figure).draw()
    return figure


@EACH
def test_nothing_collides(kind: str) -> None:
    assert_tidy(drawn(kind))


def test_a_long_title_is_broken() -> None:
    assert_tidy(drawn("several", f"U-LiRA: {LONG} {LONG}"))


@EACH
def test_every_method_has_its_own_line_and_area(kind: str) -> None:
    figure = drawn(kind)
    (axes,), (legend,) = figure.axes, figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == "guessing"
    assert len(texts) == 1 + len(CURVES[kind])
    for text, (name, curve) in zip(texts[1:], CURVES[kind], strict=True):
        assert text.endswith(f"  {curve.auc:.3f}")
        assert text.split()[0] == name.split()[0]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()[-len(CURVES[kind]) :]}
    assert len(looks) == len(CURVES[kind])


@EACH
def test_axes_are_logarithmic_percentages_that_show_every_level(kind: str) -> None:
    (axes,) = drawn(kind).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    low, high = axes.get_xlim()
    labels = {text.get_text() for text in axes.get_xticklabels()}
    assert low <= 0.001
    assert high == 1
    assert {"0.1 %", "1 %", "10 %", "100 %"} <= labels
    resolved_settings = min(curve.fpr[curve.fpr > 0].min() for _, curve in CURVES[kind])
    assert low <= resolved_settings
    assert low > resolved_settings / 10.001 or low == 0.001


@EACH
def test_lines_are_the_curves(kind: str) -> None:
    (axes,) = drawn(kind).axes
    for line, (_, curve) in zip(axes.get_lines()[-len(CURVES[kind]) :], CURVES[kind], strict=True):
        fpr, tpr = line.get_data()
        least = fpr[0]
        assert [least, tpr[0]] == pytest.approx([axes.get_xlim()[0], axes.get_ylim()[0]], rel=1e-9)
        assert (fpr[-1], tpr[-1]) == (1, 1)
        points = np.column_stack([np.maximum(curve.fpr, least), np.maximum(curve.tpr, least)])
        assert {*map(tuple, np.column_stack([fpr, tpr]))} <= {*map(tuple, points)}
        assert len(fpr) < 1000


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_curves_give_the_same_file(kind: str) -> None:
    for name in ("one", "two"):
        with styled():
            save_figure(draw_roc(TITLE, CURVES["several"]), Path(f"{name}.{kind}"), 50)
    assert Path(f"one.{kind}").read_bytes() == Path(f"two.{kind}").read_bytes()
