"""What every figure must keep: texts inside, none on another, no panel under the legend."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def texts_of(figure: Figure) -> list[Text]:
    """The texts that are shown: no labels of ticks outside the limits, or of axes that are switched off."""
    hidden = set()
    for axis in figure.axes:
        for one in (axis.xaxis, axis.yaxis):
            low, high = sorted(one.get_view_interval())
            ticks = [*one.get_major_ticks(), *one.get_minor_ticks()]
            outside = [tick for tick in ticks if not axis.axison or not low <= tick.get_loc() <= high]
            hidden |= {label for tick in outside for label in (tick.label1, tick.label2)}
            hidden |= set() if axis.axison else {one.label}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in shown if text not in hidden]


def laid_out(figure: Figure) -> Figure:
    """Let every part of a figure find its place, without the cost of its pixels."""
    figure.draw_without_rendering()
    return figure


def outline(text: Text, box: Bbox) -> Floats:
    """The four corners of a text, turned as it is; what touches by a pixel does not count."""
    turn = text.get_rotation()
    if turn:
        text.set_rotation(0)
        box = text.get_window_extent()
        text.set_rotation(turn)
    box = box.padded(-min(1.5, 0.02 * box.width), -min(1.5, 0.1 * box.height))
    anchor = text.get_transform().transform(text.get_position()) if turn else (box.x0, box.y0)
    return Affine2D().rotate_deg_around(*anchor, turn).transform(box.corners()[[0, 2, 3, 1]])


def apart(one: Floats, other: Floats) -> bool:
    """Whether some line parallel to a side separates two rectangles."""
    for corners in (one, other):
        for side in (corners[1] - corners[0], corners[2] - corners[1]):
            first, second = one @ side, other @ side
            if first.max() < second.min() or second.max() < first.min():
                return True
    return False


def assert_tidy(figure: Figure) -> None:
    """Check where the texts of a figure fall that is laid out."""
    extents = [(text, text.get_window_extent()) for text in texts_of(figure)]
    shown = [(text, box) for text, box in extents if box.width > 0]
    for text, box in shown:
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) > -1.5, text
    boxes = np.array([outline(*each) for each in shown])
    low, high = boxes.min(1), boxes.max(1)
    for at, box in enumerate(boxes):
        near = np.flatnonzero(((low < high[at]) & (high > low[at])).all(1))
        for place in near[near > at]:
            assert apart(box, boxes[place]), (shown[at], shown[place])
    for legend in figure.legends:
        for axis in figure.axes:
            panel = axis.get_window_extent().shrunk(0.99, 0.99)
            assert not panel.overlaps(legend.get_window_extent()), "legend on a panel"
