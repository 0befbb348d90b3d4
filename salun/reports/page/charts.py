"""Charts of a page, as Vega-Lite specifications with their rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salun.errors import one_line
from salun.experiments.problem import Group
from salun.metrics import GAP_METRICS, METRICS
from salun.reports.curves import curve_of, sweeps_of
from salun.reports.plots.gone import WAYS
from salun.reports.plots.rows import MEANINGS
from salun.reports.requests import Chain, sequences_of
from salun.reports.statistics import Estimate
from salun.reports.summary import Row, floor_of
from salun.reports.tables import group_titles

_Spec = dict[str, Any]
_HUES = 10
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_NEUTRAL = {"base": "var(--faint)", "retrain": "var(--ink)"}
_OUTCOMES = ("gap", *GAP_METRICS)
_REQUESTED = ("UA", "UA_earlier", "RA", "TA", "MIA", "gap", "passes_total")
_CURVES = {"accuracy": "accuracy in training", "validation": "validation accuracy", "loss": "loss in training"}
_WHOLE: _Spec = {"axis": {"tickMinStep": 1, "format": "d"}}


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: what it shows.
        note: how to read it.
        spec: of Vega-Lite, without data; it reads the rows "rows".
        rows: what is drawn.
        choices: fields of the rows by which the reader chooses, with their labels; one value is drawn at a time.
    """

    title: str
    note: str
    spec: _Spec
    rows: list[dict[str, Any]]
    choices: Mapping[str, str]

    @property
    def options(self) -> dict[str, list[Any]]:
        """Values of each field of `choices`, in the order of the rows."""
        return {field: list(dict.fromkeys(row[field] for row in self.rows)) for field in self.choices}


def _axis(field: str, title: str) -> _Spec:
    """Describe a quantitative axis, of a field of the rows, that need not begin at 0."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": False, "padding": 12},
    }


def hues(titles: Sequence[str], kinds: Mapping[str, str] | None = None) -> _Spec:
    """Describe the colours of titles: neutral for base and retrained models, the palette's for others."""
    kinds = kinds or {}
    methods = [title for title in titles if kinds.get(title) not in _NEUTRAL]
    places = {title: f"var(--c{place % _HUES + 1})" for place, title in enumerate(methods)}
    colours = [_NEUTRAL.get(kinds.get(title, ""), places.get(title, "")) for title in titles]
    return {"field": "title", "type": "nominal", "title": None, "scale": {"domain": list(titles), "range": colours},
            "legend": {"orient": "bottom", "columns": 2, "labelLimit": 300, "symbolLimit": 80}}  # fmt: skip


def _kinds_of(rows: Sequence[Row]) -> dict[str, str]:
    return {one_line(row.title): row.kind for row in rows}


def _parts(name: str, value: Estimate) -> dict[str, float | None]:
    """Give mean and interval of a metric in the unit that a reader knows, shares within what a share can be."""
    shared = name == "gap" or METRICS[name].unit == "%"
    low, high = within(value) if shared else (value.low, value.high)
    ends = {"": value.mean, "_low": low, "_high": high}
    factor = 100 if shared else 1
    return {f"{name}{part}": None if end is None else round(factor * end, 5) for part, end in ends.items()}


def within(share: Estimate) -> tuple[float | None, float | None]:
    """Cut the interval of a share off at 0 and 1."""
    if share.low is None or share.high is None:
        return None, None
    return max(0.0, share.low), min(1.0, share.high)


def _tips(*fields: str) -> list[_Spec]:
    return [{"field": field, "type": "nominal" if field == "title" else "quantitative"} for field in fields]


def tradeoffs(rows: list[Row], group: Group) -> list[Chart]:
    """Draw forgetting against utility, and the gap against the cost.

    Args:
        rows: of the group.
        group: base models and forget sets.
    """
    return [chart for chart in (_plane(rows), _pareto(rows, floor_of(rows, group))) if chart is not None]


def _plane(rows: list[Row]) -> Chart | None:
    """Draw forgetting against utility, image passes as size."""
    utility = next(
        (name for name in ("TA", "RA") if any(row.value(name).n and row.value("UA").n for row in rows)), None
    )
    if utility is None:
        return None
    names = ("UA", utility)
    shown = [
        {"title": one_line(row.title), "kind": row.kind, "passes": row.value("passes").mean or 0.0, "drawn": row.kind}
        | _parts("UA", row.value("UA")) | _parts(utility, row.value(utility))
        for row in rows if all(row.value(name).n for name in names)
    ]  # fmt: skip
    across, up = (_axis(name, f"{MEANINGS[name]}, {name} %") for name in names)
    gold = {"filter": "datum.kind == 'retrain'"}
    rules = [{"transform": [gold], "mark": {"type": "rule", "strokeDash": [4, 3], "color": "var(--faint)"},
              "encoding": {place: entry}} for place, entry in (("x", across), ("y", up))]  # fmt: skip
    floor = {"transform": [gold, {"filter": f"datum.UA_low != null && datum.{utility}_low != null"}],
             "mark": {"type": "rect", "color": "var(--faint)", "opacity": 0.35, "stroke": "var(--faint)"},
             "encoding": {"x": across | {"field": "UA_low"}, "x2": {"field": "UA_high"},
                          "y": up | {"field": f"{utility}_low"}, "y2": {"field": f"{utility}_high"}}}  # fmt: skip
    whiskers = [
        {"mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.7},
         "encoding": {"x": across | {"field": "UA_low"}, "x2": {"field": "UA_high"}, "y": up, "color": _hue(rows)}},
        {"mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.7},
         "encoding": {"y": up | {"field": f"{utility}_low"}, "y2": {"field": f"{utility}_high"}, "x": across,
                      "color": _hue(rows)}},
    ]  # fmt: skip
    points = {"mark": {"type": "point", "filled": True, "opacity": 0.9, "stroke": "var(--paper)", "strokeWidth": 1},
              "encoding": {"x": across, "y": up, "color": _hue(rows), "shape": _shape(rows),
                           "size": {"field": "passes", "type": "quantitative", "scale": {"range": [60, 420]},
                                    "title": "image passes", "legend": None},
                           "tooltip": _tips("title", "UA", utility, "passes")}}  # fmt: skip
    spec = {"height": 340, "layer": [floor, *rules, *whiskers, points]}
    note = "The dashed lines cross at retraining, the target; the shaded box is its 95 % interval. Size: image passes."
    return Chart("Forgetting against utility", note, spec, shown, {})


def _hue(rows: Sequence[Row]) -> _Spec:
    kinds = _kinds_of(rows)
    return hues(list(kinds), kinds)


def _shape(rows: Sequence[Row]) -> _Spec:
    """Give titles shapes too, so that colour is not all that tells them apart."""
    titles = list(_kinds_of(rows))
    shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(titles))]
    return {"field": "title", "type": "nominal", "title": None, "scale": {"domain": titles, "range": shapes},
            "legend": _hue(rows)["legend"]}  # fmt: skip


def _pareto(rows: list[Row], floor: float | None) -> Chart | None:
    """Draw the gap against image passes, with the front of what no other method betters in both."""
    shown: list[dict[str, Any]] = [
        {"title": one_line(row.title), "kind": row.kind, "passes": row.value("passes").mean} | _parts("gap", row.gap)
        for row in rows if row.kind != "base" and row.gap.mean is not None and row.value("passes").mean
    ]  # fmt: skip
    methods = [row for row in shown if row["kind"] == "method"]
    if not methods:
        return None
    for row in shown:
        row["front"] = row["kind"] == "method" and not any(
            other is not row and other["passes"] <= row["passes"] and other["gap"] <= row["gap"]
            and (other["passes"], other["gap"]) != (row["passes"], row["gap"]) for other in methods
        )  # fmt: skip
    across = _axis("passes", "image passes, forward and backward") | {"axis": {"format": "~s"}}
    up = _axis("gap", "average gap to retraining, points") | {"scale": {"zero": True, "nice": False, "padding": 12}}
    layers: list[_Spec] = [
        {"transform": [{"filter": "datum.front"}], "mark": {"type": "line", "interpolate": "step-after",
         "color": "var(--accent)", "strokeWidth": 1.5, "strokeDash": [6, 3]}, "encoding": {"x": across, "y": up}},
        {"mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.7}, "encoding": {"x": across,
         "y": up | {"field": "gap_low"}, "y2": {"field": "gap_high"}, "color": _hue(rows)}},
        {"mark": {"type": "point", "filled": True, "size": 120, "opacity": 0.9}, "encoding": {
         "x": across, "y": up, "color": _hue(rows), "shape": _shape(rows),
         "tooltip": _tips("title", "gap", "gap_low", "gap_high", "passes")}},
    ]  # fmt: skip
    if floor is not None:
        layers.insert(0, {"mark": {"type": "rule", "color": "var(--faint)", "strokeDash": [4, 3]},
                          "encoding": {"y": {"datum": round(100 * floor, 5)}}})  # fmt: skip
    note = "The dashed step line is the Pareto front: no other method is nearer for fewer passes."
    note += " The level line is the noise floor." if floor is not None else ""
    return Chart("Gap against cost", note, {"height": 340, "layer": layers}, shown, {})


def sweeps(rows: list[Row]) -> list[Chart]:
    """Draw outcomes against the mask's threshold and against each setting that was varied alone."""
    found: list[dict[str, Any]] = []
    for sweep in sweeps_of(rows):
        for keep, row in sweep.rows.items():
            found += _outcomes(row, "mask threshold", one_line(sweep.title), keep)
    for name, members in _varied_settings(rows).items():
        for title, row, value in members:
            found += _outcomes(row, name, title, value)
    if not found:
        return []
    titles = list(dict.fromkeys(row["title"] for row in found))
    lines = [
        {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {}},
        {"mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.7},
         "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}},
        {"mark": {"type": "point", "filled": True, "size": 60},
         "encoding": {"tooltip": _tips("title", "varied", "mean", "low", "high")}},
    ]  # fmt: skip
    spec = {"height": 280, "encoding": {"x": _axis("varied", "value of the setting"), "color": hues(titles),
                                        "y": _axis("mean", "points or %")}, "layer": lines}  # fmt: skip
    note = "Points are means over runs, rules their 95 % intervals. A threshold of 1 is no mask."
    return [Chart("Sweeps", note, spec, found, {"setting": "Setting", "outcome": "Outcome"})]


def _outcomes(row: Row, setting: str, title: str, value: float) -> list[dict[str, Any]]:
    """Lay the outcomes of one value of a setting out."""
    lines = []
    for name in _OUTCOMES:
        if row.value(name).n:
            mean, low, high = _parts(name, row.value(name)).values()
            lines.append({"setting": setting, "outcome": name, "title": title, "varied": value, "mean": mean,
                          "low": low, "high": high})  # fmt: skip
    return lines


def _varied_settings(rows: list[Row]) -> dict[str, list[tuple[str, Row, float]]]:
    """Find the numeric settings that differ between rows alike in all else, by name: title, row and value."""
    alike: dict[tuple[str, str], list[tuple[Row, float]]] = {}
    for row in (row for row in rows if row.kind == "method"):
        settings = row.records[0].settings
        for name, value in settings["settings"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                others = {key: other for key, other in settings["settings"].items() if key != name}
                rest = repr(
                    (settings["method"], settings["mask"], settings.get("prune"), sorted(others.items(), key=str))
                )
                alike.setdefault((name, rest), []).append((row, float(value)))
    found: dict[str, list[tuple[str, Row, float]]] = {}
    for (name, _), members in alike.items():
        if len({value for _, value in members}) > 1:
            method, mask = members[0][0].records[0].settings["method"], members[0][0].records[0].settings["mask"]
            title = method if mask is None else f"{method} + mask {mask['keep']:g}"
            found.setdefault(name, []).extend((title, row, value) for row, value in sorted(members, key=lambda m: m[1]))
    return found


def epochs(rows: list[Row]) -> list[Chart]:
    """Draw what was measured epoch by epoch, as means over runs."""
    found = []
    for curve in filter(None, map(curve_of, rows)):
        for name, called in _CURVES.items():
            factor = 1 if name == "loss" else 100
            for epoch, value in zip(curve.epochs.tolist(), curve.mean(name).tolist(), strict=True):
                if np.isfinite(value):
                    found.append({"title": one_line(curve.row.title), "quantity": called, "epoch": epoch,
                                  "value": round(factor * value, 5)})  # fmt: skip
    if not found:
        return []
    kinds = {title: kind for title, kind in _kinds_of(rows).items() if any(row["title"] == title for row in found)}
    spec = {"height": 280, "mark": {"type": "line", "strokeWidth": 1.8, "point": {"size": 24}},
            "encoding": {"x": _axis("epoch", "epoch") | _WHOLE,
                         "y": _axis("value", "% or nats"), "color": hues(list(kinds), kinds),
                         "tooltip": _tips("title", "epoch", "value")}}  # fmt: skip
    return [Chart("Curves over epochs", "Means over runs.", spec, found, {"quantity": "Quantity"})]


def requests(rows: list[Row]) -> list[Chart]:
    """Draw what becomes of requests one after another, a chart a sequence."""
    return [_request_chart(chains) for chains in sequences_of(rows)]


def _request_chart(chains: Sequence[Chain]) -> Chart:
    """Draw a sequence of requests."""
    found = []
    for chain in chains:
        for name in _REQUESTED:
            for step, value in enumerate(chain.values(name), 1):
                if value.n:
                    mean, low, high = _parts(name, value).values()
                    found.append({"title": one_line(chain.rows[0].title), "outcome": name, "request": step,
                                  "mean": mean, "low": low, "high": high})  # fmt: skip
    kinds = _kinds_of([chain.rows[0] for chain in chains])
    shared = {"x": _axis("request", "request") | _WHOLE,
              "color": hues(list(kinds), kinds)}  # fmt: skip
    layer = [
        {"mark": {"type": "line", "strokeWidth": 1.8, "point": {"size": 36}},
         "encoding": {"y": _axis("mean", "% or passes"), "tooltip": _tips("title", "request", "mean", "low", "high")}},
        {"mark": "rule", "encoding": {"y": _axis("low", "% or passes"), "y2": {"field": "high"}}},
    ]  # fmt: skip
    runs = next(row for chain in chains for row in chain.rows if row.records).records[0].settings
    note = one_line(f"{runs['base']['model']} on {runs['base']['dataset']}, {len(chains[0].rows)} requests.")
    spec = {"height": 280, "encoding": shared, "layer": layer}
    return Chart("Requests one after another", note, spec, found, {"outcome": "Outcome"})


def gone(rows: list[Row]) -> list[Chart]:
    """Draw how much of the forgotten comes back by each way that was measured."""
    found = []
    for name, way in WAYS.items():
        for row in rows:
            if row.value(name).n:
                mean, low, high = _parts(name, row.value(name)).values()
                told = {"way": one_line(f"{name}: {way}"), "title": one_line(row.title), "kind": row.kind}
                found.append(told | {"mean": mean, "low": low, "high": high})
    if not found:
        return []
    return [Chart("Is it really gone?", "Each way asks what comes back; the dashed line is retraining's value.",
                  ranked(rows, "mean", "value"), found, {"way": "Way"})]  # fmt: skip


def ranked(rows: Sequence[Row], field: str, title: str) -> _Spec:
    """Describe a panel with a line for each title, its mean and interval, and retraining's value as a level.

    Args:
        rows: whose titles and kinds are drawn.
        field: of the means; "low" and "high" hold the interval.
        title: of the axis.
    """
    across = _axis(field, title)
    down = {"field": "title", "type": "nominal", "title": None, "sort": list(_kinds_of(rows)),
            "axis": {"labelLimit": 220, "grid": True}}  # fmt: skip
    gold = {"transform": [{"filter": "datum.kind == 'retrain'"}], "mark": {"type": "rule", "strokeDash": [4, 3],
            "color": "var(--ink)"}, "encoding": {"x": across}}  # fmt: skip
    interval = {"mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": {"x": across | {"field": "low"},
                "x2": {"field": "high"}, "y": down, "color": {"value": "var(--accent)"}}}  # fmt: skip
    point = {"mark": {"type": "point", "filled": True, "size": 80}, "encoding": {"x": across, "y": down,
             "color": {"value": "var(--accent)"}, "tooltip": _tips("title", field, "low", "high")}}  # fmt: skip
    return {"height": 24 * len(_kinds_of(rows)), "layer": [gold, interval, point]}


def across(groups: Mapping[Group, list[Row]]) -> list[Chart]:
    """Draw the experiments that several problems share, problem by problem.

    Args:
        groups: rows by problem; of one alone there is nothing to compare.
    """
    titles = group_titles([row for rows in groups.values() for row in rows])
    found: list[dict[str, Any]] = []
    for group, rows in groups.items():
        for row in rows:
            for name in _OUTCOMES:
                if row.value(name).n and row.kind != "base":
                    mean, low, high = _parts(name, row.value(name)).values()
                    told = {"outcome": name, "title": one_line(row.title), "kind": row.kind, "problem": titles[group]}
                    found.append(told | {"mean": mean, "low": low, "high": high})
    counts = Counter((row["title"], row["outcome"]) for row in found)
    shared = [row for row in found if counts[row["title"], row["outcome"]] > 1]
    if not shared:
        return []
    kinds = {row["title"]: row["kind"] for row in shared}
    down = {"field": "problem", "type": "nominal", "title": None, "axis": {"labelLimit": 260, "grid": True}}
    aside = {"field": "title", "scale": {"paddingInner": 0.3}}
    shape = {"y": down, "yOffset": aside, "color": hues(list(kinds), kinds)}
    layer = [
        {"mark": {"type": "rule", "strokeWidth": 1.5},
         "encoding": shape | {"x": _axis("low", "points or %"), "x2": {"field": "high"}}},
        {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": shape | {
            "x": _axis("mean", "points or %"), "tooltip": _tips("title", "mean", "low", "high")}},
    ]  # fmt: skip
    spec = {"height": 14 * len(kinds) * len(titles), "layer": layer}
    note = "Experiments of the same name on several problems; rules are 95 % intervals over runs."
    return [Chart("What the problems share", note, spec, shared, {"outcome": "Outcome"})]


def confusion(rows: list[dict[str, Any]]) -> Chart:
    """Draw confusion matrices, one at a time.

    Args:
        rows: title of the model, class, predicted class, and share in percent.
    """
    sides = {name: {"field": name, "type": "ordinal", "title": title, "axis": {"labelOverlap": True, "labelAngle": 0}}
             for name, title in (("predicted", "predicted class"), ("class", "true class"))}  # fmt: skip
    depth = {
        "field": "share",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 100], "range": [0.08, 1]},
    }
    tips = [{"field": field, "type": "nominal"} for field in ("class", "predicted", "share")]
    encoding = {"x": sides["predicted"], "y": sides["class"], "opacity": depth, "tooltip": tips}
    spec = {"height": 300, "mark": {"type": "rect", "color": "var(--accent)"}, "encoding": encoding}
    note = "What the test images of each class are taken for; shares below 0.5 % are left out."
    return Chart("Confusion", note, spec, rows, {"title": "Model"})


def latent(layers: list[dict[str, Any]], distances: list[dict[str, Any]]) -> list[Chart]:
    """Draw how alike the layers of models are, and how far their features of each class are apart.

    Args:
        layers: title, images, pair, layer and CKA.
        distances: title, pair, class and distance.
    """
    pair = {"field": "pair", "type": "nominal", "title": None, "legend": {"orient": "bottom", "columns": 1}}
    colour = pair | {"scale": {"range": ["var(--c1)", "var(--c2)", "var(--c3)"]}}
    order = list(dict.fromkeys(row["layer"] for row in layers))
    names = {"field": "layer", "type": "nominal", "title": None, "sort": order, "axis": {"labelAngle": -40}}
    tips = [{"field": field, "type": "nominal"} for field in ("pair", "layer", "CKA")]
    likeness = {
        "height": 260,
        "mark": {"type": "line", "strokeWidth": 1.8, "point": {"size": 36}},
        "encoding": {"x": names, "y": _axis("CKA", "linear CKA"), "color": colour, "tooltip": tips},
    }
    choices = {"title": "Method", "images": "Images"}
    told = "After perfect unlearning, unlearned and base are as alike as retrained and base."
    found = [Chart("Likeness of layers", told, likeness, layers, choices)] if layers else []
    apart = {
        "height": 260,
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "class", "type": "nominal", "title": "class", "axis": {"labelAngle": 0}},
            "xOffset": {"field": "pair"},
            "y": {"field": "distance", "type": "quantitative", "title": "1-Wasserstein distance"},
            "color": colour,
            "tooltip": [{"field": field, "type": "nominal"} for field in ("pair", "class", "distance")],
        },
    }
    told = "How far the features of a class moved from model to model."
    return [*found, Chart("Distance of features, class by class", told, apart, distances, {"title": "Method"})]
