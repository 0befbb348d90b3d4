"""A statement on a deletion, for readers who are no specialists."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salun.data.dataset import Dataset
from salun.errors import one_line
from salun.experiments.problem import Group
from salun.reports.page.content import Study, dataset_of
from salun.reports.page.gallery import name_of
from salun.reports.page.outputs import sights_of
from salun.reports.page.overview import verdict
from salun.reports.page.privacy import areas
from salun.reports.page.render import rendered
from salun.reports.statistics import Estimate
from salun.reports.summary import Row, best_of, grouped
from salun.reports.tables import group_titles
from salun.unlearning import METHODS, load_methods

_MEASURES = (
    ("UA", True, "Deleted images that the model still recognises", "as few as a model that never saw them"),
    ("RA", False, "Images that stay and that the model recognises", "as many as before"),
    ("TA", False, "New images that the model recognises", "as many as before"),
    ("MIA", False, "Deleted images that an attack takes for never seen", "as many as of a model that never saw them"),
)
_CHARTED = ("UA", "TA", "MIA")
_ORDER = {"base": 0, "method": 1, "retrain": 2}
_WHEN = {"base": "before", "method": "after", "retrain": "retrained without them"}


def statement(study: Study, datasets: Mapping[str, Dataset]) -> str:
    """Make the statement.

    Args:
        study: runs; of each forgetting problem the method is told of that is nearest to retraining, of those with a tag
            where some have one.
        datasets: that are at hand, by name.

    Returns:
        HTML without scripts, which prints on a few sheets.
    """
    load_methods()
    titles, groups = group_titles(study.rows), grouped(study.rows)
    problems = [{"title": titles[group], **_problem(study, rows, group, datasets)} for group, rows in groups.items()]
    return rendered("deletion.html", {"title": "Statement on a deletion", "problems": problems})


def _problem(study: Study, rows: list[Row], group: Group, datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """Describe one deletion."""
    methods = [row for row in rows if row.kind == "method"]
    tagged = [row for row in methods if any(record.tag for record in row.records)]
    chosen = best_of(tagged, group) or best_of(rows, group) or next(iter(methods), None)
    shown = sorted((row for row in rows if row.kind != "method" or row is chosen), key=lambda row: _ORDER[row.kind])
    records = [record for row in rows for record in row.records]
    settings = records[0].settings
    measures = [_measure(shown, *measure) for measure in _MEASURES]
    return {
        "asked": sorted({one_line(record.tag) for record in (chosen.records if chosen else ()) if record.tag}),
        "request": one_line(settings["forget"]["request"]),
        "model": one_line(f"{settings['base']['model']} on {settings['base']['dataset']}"),
        "digest": settings["forget"]["fingerprint"],
        "method": None if chosen is None else _told(chosen),
        "verdict": verdict(rows, group),
        "measures": [measure for measure in measures if measure["values"]],
        "charted": [measure for measure in measures if measure["values"] and measure["name"] in _CHARTED],
        "attacks": _attacks(shown, study.folders),
        "files": _files(rows, study.folders, dataset_of(rows, datasets)),
        "finished": max(record.finished for record in records),
    }


def _told(row: Row) -> dict[str, Any]:
    """Name a method, what it does, and its runs."""
    name = row.records[0].settings["method"]
    summary = METHODS[name].summary if name in METHODS else ""
    return {"title": one_line(row.title), "summary": summary, "runs": [record.id for record in row.records]}


def _measure(rows: Sequence[Row], name: str, turned: bool, meaning: str, wanted: str) -> dict[str, Any]:
    """Give what a metric says before, after and of a retrained model, in percent; turned: of its complement."""
    values = []
    for row in rows:
        value = row.value(name)
        if value.mean is not None:
            mean, low, high = (_percent(end, turned) for end in (value.mean, value.low, value.high))
            ends = (high, low) if turned else (low, high)
            values.append({"when": _WHEN[row.kind], "mean": mean, "low": ends[0], "high": ends[1], "runs": value.n})
    return {"name": name, "meaning": meaning, "wanted": wanted, "values": values}


def _percent(value: float | None, turned: bool) -> float | None:
    """Bring a fraction, or its complement, to percent, within what a share can be."""
    return None if value is None else min(100.0, max(0.0, 100 * (1 - value if turned else value)))


def _attacks(rows: Sequence[Row], folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Give the areas under the ROC curves of score attacks on the models, by attack."""
    found: dict[str, dict[str, Estimate]] = {}
    for score, _, kind, value in areas(sights_of(rows, folders)):
        found.setdefault(score, {})[_WHEN[kind]] = value
    return [{"name": score, "values": values} for score, values in found.items()]


def _files(rows: Sequence[Row], folders: Mapping[str, Path], dataset: Dataset | None) -> list[dict[str, str]]:
    """List the deleted images with the digests of their files, where these are at hand."""
    sights = sights_of([row for row in rows if row.records][:1], folders)
    if not sights:
        return []
    indices, labels = sights[-1].indices.tolist(), sights[-1].labels.tolist()
    known = dataset is not None and dataset.train.labels[indices].tolist() == labels
    digests = dataset.digests[0] if dataset is not None and known else None
    return [
        {"name": name_of(dataset if known else None, index), "digest": digests[index] if digests else ""}
        for index in indices
    ]
