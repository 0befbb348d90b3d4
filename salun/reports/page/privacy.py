"""The privacy view of a page: histograms of attack scores, their ROC curves and areas."""

from collections.abc import Iterator, Sequence

import numpy as np

from salun.errors import one_line
from salun.metrics.scores import Singles, area
from salun.reports.page.charts import Chart, hues, ranked
from salun.reports.page.outputs import SCORES, Sight, unseen
from salun.reports.statistics import Estimate, estimate
from salun.reports.summary import Row

_BINS = 24
_FLOOR = 1e-3
_RATES = 60
_NAMES = {"forget": "forget", "retain": "retain", "test": "test", "forgotten_test": "test, forgotten classes"}
_HIGH_FOR_MEMBERS = "confidence"
_ORDER = ("method", "retrain", "base")


def privacy(rows: Sequence[Row], sights: Sequence[Sight]) -> list[Chart]:
    """Draw what score attacks see of each model.

    Args:
        rows: of the group.
        sights: of the group's models.

    Returns:
        Histograms, ROC curves and areas; none where no outputs are kept.
    """
    able = _finite(sights)
    return [_histograms(able), _curves(able), _area_chart(rows, able)] if able else []


def _finite(sights: Sequence[Sight]) -> list[Sight]:
    """Leave out models whose outputs are no numbers."""
    return [sight for sight in sights if all(np.isfinite(v).all() for by in sight.scores.values() for v in by.values())]


def _histograms(sights: Sequence[Sight]) -> Chart:
    """Draw the distribution of each score over the sets, all runs of a row together."""
    found = []
    for score in SCORES:
        values = [part for sight in sights for part in sight.scores[score].values()]
        low, high = min(float(part.min()) for part in values), max(float(part.max()) for part in values)
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        for title, members in _by_title(sorted(sights, key=lambda sight: _ORDER.index(sight.kind))):
            for name in members[0].scores[score]:
                counts = np.histogram(np.concatenate([each.scores[score][name] for each in members]), edges)[0]
                shares = counts / counts.sum()
                found += [
                    {"score": score, "title": title, "set": _NAMES[name], "from": round(float(edges[place]), 4),
                     "to": round(float(edges[place + 1]), 4), "share": round(100 * float(share), 3)}
                    for place, share in enumerate(shares) if share
                ]  # fmt: skip
    domain = [_NAMES[name] for name in _NAMES if any(row["set"] == _NAMES[name] for row in found)]
    spec = {
        "height": 80,
        "mark": {"type": "bar", "binSpacing": 0},
        "encoding": {
            "x": {"field": "from", "bin": {"binned": True}, "type": "quantitative", "title": "score"},
            "x2": {"field": "to"},
            "y": {"field": "share", "type": "quantitative", "title": "% of images"},
            "row": {"field": "set", "title": None, "sort": domain, "header": {"labelAngle": 0, "labelAlign": "left",
                    "labelOrient": "top"}},
            "color": {"field": "set", "legend": None, "scale": {"domain": domain,
                      "range": ["var(--accent)", "var(--c3)", "var(--c6)", "var(--c4)"]}},
            "tooltip": [{"field": name, "type": "nominal"} for name in ("set", "from", "to", "share")],
        },
    }  # fmt: skip
    note = "Forget images of a model that forgot look like test images, not like retain images."
    return Chart("Scores that attacks look at", note, spec, found, {"title": "Model", "score": "Score"})


def _by_title(sights: Sequence[Sight]) -> Iterator[tuple[str, list[Sight]]]:
    """Gather the models of each row."""
    for title in dict.fromkeys(sight.title for sight in sights):
        yield one_line(title), [sight for sight in sights if sight.title == title]


def _sides(sight: Sight, score: str) -> tuple[Singles, Singles] | None:
    """Give the scores of forget images and of unseen ones, turned so that members' are high."""
    own, other = sight.scores[score].get("forget"), unseen(sight.scores[score])
    if own is None or other is None:
        return None
    sign = 1 if score.startswith(_HIGH_FOR_MEMBERS) else -1
    return sign * own, sign * other


def _curves(sights: Sequence[Sight]) -> Chart:
    """Draw the ROC curves of telling forget images from unseen ones, all runs of a row together."""
    from sklearn.metrics import roc_curve

    found = []
    levels = np.geomspace(_FLOOR, 1, _RATES)
    for score in SCORES:
        for title, members in _by_title(sights):
            sides = [side for side in (_sides(sight, score) for sight in members) if side is not None]
            if not sides:
                continue
            own, other = (np.concatenate(part) for part in zip(*sides, strict=True))
            truth, values = np.arange(len(own) + len(other)) < len(own), np.concatenate([own, other])
            fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
            rates = tpr[np.searchsorted(fpr, levels, "right") - 1]
            found += [
                {"score": score, "title": title, "fpr": round(float(x), 6), "tpr": round(max(float(y), _FLOOR), 6)}
                for x, y in zip(levels, rates, strict=True)
            ]
    kinds = {title: members[0].kind for title, members in _by_title(sights)}
    scale = {"type": "log", "domain": [_FLOOR, 1], "clamp": True}
    axes = {
        "x": {"field": "fpr", "type": "quantitative", "scale": scale, "title": "false-positive rate",
              "axis": {"format": "~g", "values": [0.001, 0.01, 0.1, 1]}},
        "y": {"field": "tpr", "type": "quantitative", "scale": scale, "title": "true-positive rate",
              "axis": {"format": "~g", "values": [0.001, 0.01, 0.1, 1]}},
    }  # fmt: skip
    chance = {"data": {"values": [{"fpr": _FLOOR, "tpr": _FLOOR}, {"fpr": 1, "tpr": 1}]}, "encoding": axes,
              "mark": {"type": "line", "color": "var(--faint)", "strokeDash": [4, 3]}}  # fmt: skip
    lines = {
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.8},
        "encoding": axes | {
            "color": hues(list(kinds), kinds),
            "tooltip": [{"field": name, "type": "nominal"} for name in ("title", "fpr", "tpr")],
        },
    }  # fmt: skip
    note = "An attack tells forget images from unseen ones by one score; the dashed diagonal is chance."
    return Chart(
        "ROC curves of score attacks", note, {"height": 320, "layer": [chance, lines]}, found, {"score": "Score"}
    )


def areas(sights: Sequence[Sight]) -> Iterator[tuple[str, str, str, Estimate]]:
    """Measure attacks by one score that tell forget images from unseen ones.

    Args:
        sights: of the group's models.

    Yields:
        Score, title and kind of a row, and the area under its ROC curve over the runs.
    """
    for score in SCORES:
        for title, members in _by_title(_finite(sights)):
            sides = [side for side in (_sides(sight, score) for sight in members) if side is not None]
            if sides:
                yield score, title, members[0].kind, estimate([area(own, other) for own, other in sides])


def _area_chart(rows: Sequence[Row], sights: Sequence[Sight]) -> Chart:
    """Draw the area under the ROC curve of each row, with its interval over the runs."""
    found = [
        {"score": score, "title": title, "kind": kind, "mean": value.mean, "low": value.low, "high": value.high,
         "runs": value.n} for score, title, kind, value in areas(sights)
    ]  # fmt: skip
    note = "0.5 is chance. The dashed line is retraining, where there is nothing to find. Intervals: 95 %, over runs."
    return Chart("Area under the ROC curve", note, ranked(rows, "mean", "area"), found, {"score": "Score"})
