"""The page of one or several lists of runs, put together."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError, one_line
from salun.experiments.problem import Group
from salun.experiments.record import Record, group_of, weights_path
from salun.io.files import mirrored
from salun.reports.labels import rows_of_records
from salun.reports.page import charts
from salun.reports.page.charts import Chart
from salun.reports.page.gallery import gallery
from salun.reports.page.outputs import Sight, sights_of
from salun.reports.page.overview import overview
from salun.reports.page.privacy import privacy
from salun.reports.page.provenance import command_of, provenance
from salun.reports.page.render import rendered
from salun.reports.sources import RECORDS, RUNS, find_records, read_runs
from salun.reports.summary import Row, contenders, grouped
from salun.reports.tables import group_titles

_KeptRow = tuple[str, Record, Path, Path | None]
_Space = Mapping[str, Any]
_CONFUSED = 0.005
_MODELS = 4


@dataclass(frozen=True)
class Study:
    """The runs of one list or of several.

    Attributes:
        lists: runs by file of records.
        rows: of all of them together, so that runs on one problem are compared whatever list they are of.
        folders: of results, by the id of a record.
    """

    lists: Mapping[Path, Sequence[Record]]
    rows: list[Row]
    folders: Mapping[str, Path]

    @property
    def leading(self) -> list[Row]:
        """Experiments whose weights are worth a look: of each problem the few that are nearest to retraining."""
        found: list[Row] = []
        for group, rows in grouped(self.rows).items():
            ordered = sorted(contenders(rows, group), key=lambda row: row.gap.mean or 0.0)
            found += (ordered or [row for row in rows if row.competes])[:_MODELS]
        return found

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets of all runs."""
        names = (record.settings["base"]["dataset"] for found in self.lists.values() for record in found)
        return list(dict.fromkeys(names))

    def kept(self, checkpoints: Path) -> list[list[_KeptRow]]:
        """Find the weights of the leading experiments, problem by problem.

        Args:
            checkpoints: folder of base models and unlearned models.
        """
        found: dict[Group, list[_KeptRow]] = {}
        known = {record.id: record for row in self.rows for record in row.records}
        for row in self.leading:
            for record in row.records:
                weights, gold = self._weights(checkpoints, record), known.get(record.retrained or "")
                if weights is not None and not record.diverged:
                    retrained = None if gold is None else self._weights(checkpoints, gold)
                    found.setdefault(group_of(record), []).append((row.title, record, weights, retrained))
                    break
        return list(found.values())

    def _weights(self, checkpoints: Path, record: Record) -> Path | None:
        """Find the weights of a run in the folder that is called as that of its results."""
        folder = self.folders[record.id]
        path = weights_path(checkpoints / mirrored(folder / RECORDS, RUNS).parent, record)
        return path if path.is_file() else None


def read_study(paths: Sequence[str | Path]) -> tuple[Study, list[str]]:
    """Read the runs that a page is of.

    Args:
        paths: of files of records and folders that hold them; none for all under `runs/`.

    Returns:
        The runs, and a notice for what was passed over.

    Raises:
        SalunError: a path is missing, or no record can be read.
    """
    lists: dict[Path, Sequence[Record]] = {}
    notices: list[str] = []
    for path in find_records(paths):
        found, told = read_runs(path)
        notices += told
        if found:
            lists[path] = found
    if not lists:
        raise SalunError(notices[0])
    known = {record.id: (record, path.parent) for path, found in lists.items() for record in found}
    rows = rows_of_records([record for record, _ in known.values()])
    return Study(lists, rows, {name: folder for name, (_, folder) in known.items()}), notices


def page(study: Study, datasets: Mapping[str, Dataset], spaces: Sequence[_Space] = ()) -> str:
    """Make the page.

    Args:
        study: runs.
        datasets: that are at hand, by name.
        spaces: of `salun.latent`, of the models that are kept.

    Returns:
        HTML.
    """
    groups, titles = grouped(study.rows), group_titles(study.rows)
    sections: list[dict[str, Any]] = []
    drawn: dict[str, Chart] = {}
    galleries, copies = {}, {}
    for number, (group, rows) in enumerate(groups.items(), 1):
        key = f"p{number}"
        sights = sights_of(rows, study.folders)
        space = _space_of(rows, spaces)
        views = _views_of(rows, group, sights, space)
        named = {f"{key}-{view}-{place}": chart for view, found in views.items() for place, chart in enumerate(found)}
        drawn |= named
        table = overview(rows, group, titles[group])
        copies[key] = table.pop("copies")
        galleries[key] = gallery(sights, dataset_of(rows, datasets))
        sections.append({
            "key": key, "overview": table, "provenance": provenance(rows, study.folders), "runs": _runs_of(sights),
            "views": {view: {f"{key}-{view}-{place}": chart for place, chart in enumerate(found)}
                      for view, found in views.items()},
            "gallery": galleries[key], "space": space,
        })  # fmt: skip
    across = {f"across-{place}": chart for place, chart in enumerate(charts.across(groups))}
    later = {f"requests-{place}": chart for place, chart in enumerate(charts.requests(study.rows))}
    context = {"title": _title_of(study), "sections": sections, "lists": _lists_of(study), "across": across,
               "requests": later, "shared": _shared(study)}  # fmt: skip
    everything = {key: {"spec": chart.spec, "rows": chart.rows, "choices": list(chart.choices)}
                  for key, chart in (drawn | across | later).items()}  # fmt: skip
    data = {"charts": everything, "galleries": galleries, "copies": copies,
            "spaces": {section["key"]: section["space"] for section in sections}}  # fmt: skip
    return rendered("page.html", context, data)


def _views_of(rows: list[Row], group: Group, sights: Sequence[Sight], space: _Space | None) -> dict[str, list[Chart]]:
    """Gather the charts of a problem by view."""
    return {
        "tradeoff": [*charts.tradeoffs(rows, group), *charts.sweeps(rows), *charts.epochs(rows)],
        "privacy": [*privacy(rows, sights), *charts.gone(rows)],
        "confusion": _confusion(sights),
        "layers": [] if space is None else charts.latent(space["layers"], space["distances"]),
    }


def _confusion(sights: Sequence[Sight]) -> list[Chart]:
    """Draw what the test images of each class are taken for, by the first model of each row."""
    first: dict[str, Sight] = {}
    for sight in sights:
        if sight.confusion:
            first.setdefault(sight.title, sight)
    found = [
        {"title": one_line(title), "class": row, "predicted": column, "share": round(100 * share, 2)}
        for title, sight in first.items()
        for row, shares in enumerate(sight.confusion)
        for column, share in enumerate(shares)
        if share is not None and share >= _CONFUSED
    ]
    return [charts.confusion(found)] if found else []


def dataset_of(rows: Sequence[Row], datasets: Mapping[str, Dataset]) -> Dataset | None:
    """Find the data of a problem, where they are those of its runs, split by seed 0, and not corrupted on purpose.

    Args:
        rows: of the problem.
        datasets: that are at hand, by name.
    """
    base = next(record.settings["base"] for row in rows for record in row.records)
    found = None if base.get("corrupt") else datasets.get(base["dataset"])
    if found is None or make_split(found, ForgetRequest(), 0).fingerprint != base["split"]:
        return None
    return found


def _space_of(rows: Sequence[Row], spaces: Sequence[_Space]) -> _Space | None:
    """Find the latent space of a problem."""
    known = {record.id for row in rows for record in row.records}
    return next((space for space in spaces if known.intersection(space["runs"])), None)


def _runs_of(sights: Sequence[Sight]) -> str:
    """Say whose outputs the views show."""
    counts = sorted({sum(other.title == sight.title for other in sights) for sight in sights if sight.kind != "base"})
    return " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else ""


def _title_of(study: Study) -> str:
    """Name the page after its lists."""
    return one_line(", ".join(path.parent.name or path.stem for path in study.lists))


def _lists_of(study: Study) -> list[dict[str, Any]]:
    """Say what each list is, and how it is run again."""
    return [
        {"path": os.path.relpath(path), "runs": len(found), "command": command_of(path, found)}
        for path, found in study.lists.items()
    ]


def _shared(study: Study) -> list[str]:
    """Say in a line for each two lists what they share."""
    lines = []
    for (one, ours), (other, theirs) in combinations(study.lists.items(), 2):
        pairs = [{group_of(record) for record in found} for found in (ours, theirs)]
        bases = [{base for base, _ in found} for found in pairs]
        forgets = [{forget for _, forget in found} for found in pairs]
        if pairs[0] & pairs[1]:
            told = "share base model and forget set: their experiments stand in one table"
        elif bases[0] & bases[1]:
            told = "share the base model, not the forget set"
        elif forgets[0] & forgets[1]:
            told = "share the forget set, not the base model"
        else:
            told = "share neither base model nor forget set"
        lines.append(one_line(f"{one.parent.name or one.stem} and {other.parent.name or other.stem} {told}."))
    return lines
