"""What every figure must keep: texts inside, none on another, no panel under the legend."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_of(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def assert_tidy(figure: Figure) -> None:
    """Draw a figure and check where its texts fall."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    extents = [(text.get_text(), text.get_window_extent(renderer)) for text in texts_of(figure)]
    shown = [(text, box) for text, box in extents if box.width > 0]
    for text, box in shown:
        assert min(box.x0, box.y0) > -1.5, text
        assert box.x1 < figure.bbox.x1 + 1.5, text
        assert box.y1 < figure.bbox.y1 + 1.5, text
    for (one, first), (other, second) in combinations(shown, 2):
        assert not first.shrunk(0.9, 0.8).overlaps(second.shrunk(0.9, 0.8)), (one, other)
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        for axis in figure.axes:
            assert not box.shrunk(0.99, 0.99).overlaps(axis.get_window_extent(renderer)), "legend on a panel"
