from functools import cache

import numpy as np
import pytest
from figures import assert_tidy, laid_out
from matplotlib.figure import Figure

from salun.reports.plots.roc import draw_roc
from salun.reports.plots.style import styled
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
        return laid_out(draw_roc(title, CURVES[kind]))


@EACH
def test_every_method_has_a_line_that_is_its_curve_and_its_area_on_axes_that_show_every_level(kind: str) -> None:
    figure = drawn(kind)
    assert_tidy(figure)
    (axes,), (legend,) = figure.axes, figure.legends
    heading, *texts = [text.get_text() for text in legend.get_texts()]
    lines = axes.get_lines()[-len(CURVES[kind]) :]
    assert heading == "guessing"
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(CURVES[kind])
    for text, line, (name, curve) in zip(texts, lines, CURVES[kind], strict=True):
        assert text.endswith(f"  {curve.auc:.3f}")
        assert text.split()[0] == name.split()[0]
        fpr, tpr = line.get_data()
        assert [fpr[0], tpr[0]] == pytest.approx([axes.get_xlim()[0], axes.get_ylim()[0]], rel=1e-9)
        assert (fpr[-1], tpr[-1]) == (1, 1)
        points = np.column_stack([np.maximum(curve.fpr, fpr[0]), np.maximum(curve.tpr, fpr[0])])
        assert {*map(tuple, np.column_stack([fpr, tpr]))} <= {*map(tuple, points)}
        assert len(fpr) < 1000
    low, high = axes.get_xlim()
    smallest = min(curve.fpr[curve.fpr > 0].min() for _, curve in CURVES[kind])
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert {"0.1 %", "1 %", "10 %", "100 %"} <= {text.get_text() for text in axes.get_xticklabels()}
    assert low <= min(0.001, smallest)
    assert high == 1
    assert low > smallest / 10.001 or low == 0.001


def test_a_long_title_is_broken() -> None:
    assert_tidy(drawn("several", f"U-LiRA: {LONG} {LONG}"))
