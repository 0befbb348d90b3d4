"""`salun-viz runs`: figures of recorded runs."""

import argparse
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from salun.cli.status import notice
from salun.cli.viz.figures import FigureWriter
from salun.errors import SalunError, one_line
from salun.experiments.problem import Group
from salun.experiments.record import Record
from salun.io.files import mirrored, name_part, write_text
from salun.metrics import GAP_METRICS
from salun.reports.curves import curve_of, curves_as_csv, found_sweeps_of, sweeps_as_csv, sweeps_of
from salun.reports.labels import rows_of_lists, rows_of_records
from salun.reports.plots.bars import bars
from salun.reports.plots.curves import curves
from salun.reports.plots.gone import WAYS, gone
from salun.reports.plots.requests import requests_figure
from salun.reports.plots.style import styled
from salun.reports.plots.sweep import FOUND, sweep
from salun.reports.plots.tradeoff import plane
from salun.reports.requests import sequence_as_csv, sequences_of
from salun.reports.sources import RECORDS, RUNS, find_records, read_runs
from salun.reports.summary import Row, grouped, nearest
from salun.reports.tables import as_csv, columns_of, group_titles

_Drawing = tuple[Figure, str] | str | None  # None of what nobody asked for
_PROGRAM = "salun-viz runs"
_MOST_DRAWN = 100  # rows of a figure
_CORRECTIVE = ("ASR", "CA_found", "CA_undiscovered", "TA", "UA", "gap")


def run(flags: argparse.Namespace) -> int:
    """Draw the figures of every file of records."""
    figures = FigureWriter.of(flags)
    lists = _read_lists(find_records(flags.paths))
    for place, found in lists.items():
        rows = rows_of_records(found)
        titles, groups = group_titles(rows), grouped(rows)
        for group, folder in _folders_of(rows, place).items():
            _draw_group(figures, folder, groups[group], titles[group])
        _draw_found(figures, place, rows)
        _draw_requests(figures, place, rows)
    if len(flags.paths) > 1 and len(lists) > 1:
        _draw_together(figures, lists)
    return 0


def _draw_together(figures: FigureWriter, lists: dict[Path, list[Record]]) -> None:
    """Draw what several lists have of the same forgetting problem in one figure."""
    rows = rows_of_lists({str(place): found for place, found in lists.items()})
    ids = [{record.id for record in found} for found in lists.values()]
    place = Path(name_part("_with_".join("-".join(place.parts) for place in lists)))
    titles, groups, shared = group_titles(rows), grouped(rows), 0
    for group, folder in _folders_of(rows, place).items():
        runs = {record.id for row in groups[group] for record in row.records}
        if sum(bool(runs & own) for own in ids) > 1:
            shared += 1
            _draw_group(figures, folder, groups[group], titles[group])
    if not shared:
        notice(f"{_PROGRAM}: no two of these lists have runs of the same base model and forget set to compare")


def _read_lists(paths: list[Path]) -> dict[Path, list[Record]]:
    """Read files of records by the places of their figures; what cannot be read is named and passed over."""
    lists: dict[Path, list[Record]] = {}
    sources: dict[Path, Path] = {}
    lines = []
    for path in paths:
        found, notices = read_runs(path)
        lines += notices
        if not found:
            continue
        place = _place_of(path)
        if place in sources:
            raise SalunError(f"{sources[place]} and {path} would give figures of the same names; draw one at a time")
        sources[place] = path
        lists[place] = found
    if not lists:
        raise SalunError(lines[0])
    for line in lines:
        notice(f"{_PROGRAM}: {line}")
    return lists


def _place_of(path: Path) -> Path:
    """Find the place of a file's figures."""
    place = mirrored(path, RUNS)
    return place.parent if path.name == RECORDS else place


def _folders_of(rows: list[Row], place: Path) -> dict[Group, Path]:
    """Give each forgetting problem of a file a folder."""
    groups = grouped(rows)
    if len(groups) == 1:
        return dict.fromkeys(groups, place)
    names = {group: _problem_name(members) for group, members in groups.items()}
    shared = Counter(names.values())
    whole = {group: name_part(f"{name}_{'_'.join(group)}") for group, name in names.items()}
    return {group: place / (whole[group] if shared[name] > 1 else name) for group, name in names.items()}


def _problem_name(rows: list[Row]) -> str:
    """Name a forgetting problem's folder."""
    settings = next(record.settings for row in rows for record in row.records)
    base, forget = settings["base"], settings["forget"]
    earlier = len(forget.get("earlier", ()))
    after = f"_request{earlier + 1}" if earlier else ""
    return name_part(f"{base['model']}_{base['dataset']}_{forget['request']}{after}")


def _draw_requests(figures: FigureWriter, place: Path, rows: list[Row]) -> None:
    """Draw each sequence of requests; a list without any has no such figure."""
    for number, chains in enumerate(sequences_of(rows), 1):
        run = chains[-1].rows[0].records[0]
        base, first = run.settings["base"], run.settings["forget"]["request"]
        title = f"{base['model']} on {base['dataset']}, {len(chains[0].rows)} requests, the first for {first}"
        name = place / ("requests" if number == 1 else f"requests-{number}")
        with styled():
            figures.keep(requests_figure(chains, one_line(title)), name)
        write_text(figures.at(name, ".csv"), sequence_as_csv(chains))


def _draw_group(figures: FigureWriter, folder: Path, rows: list[Row], title: str) -> None:
    """Draw what a forgetting problem's records allow, and say in a line what they do not."""
    if (shown := len(nearest(rows, _MOST_DRAWN))) < len(rows):
        compared = any(row.kind == "method" and row.gap.mean is not None for row in rows)
        which = "those nearest to retraining" if compared else "the first, as none has a gap to retraining"
        told = f"{shown} of {len(rows):,} rows are drawn, {which}; the .csv files hold all"
        notice(f"{_PROGRAM}: {figures.folder / folder}: {told}")
    with styled():
        kinds = {"bars": _bars, "curves": _curves, "sweep": _sweep, "plane": _plane, "gone": _gone}
        for name, make in kinds.items():
            drawing = make(rows, title)
            if drawing is None:
                continue
            if isinstance(drawing, str):
                notice(f"{_PROGRAM}: {figures.folder / folder}: no {name}: {drawing}")
                continue
            figure, numbers = drawing
            figures.keep(figure, folder / name)
            write_text(figures.at(folder / name, ".csv"), numbers)


def _bars(rows: list[Row], title: str) -> _Drawing:
    """Draw the metrics."""
    names = [name for name in columns_of(rows) if name in GAP_METRICS]
    if not names:
        return f"no run has a value of {', '.join(GAP_METRICS)}"
    return bars(nearest(rows, _MOST_DRAWN), names, title), as_csv(rows, names)


def _curves(rows: list[Row], title: str) -> _Drawing:
    """Draw what was measured epoch by epoch."""
    found = [curve for curve in map(curve_of, rows) if curve is not None]
    if not found:
        return "no run has epochs"
    near = set(map(id, nearest([curve.row for curve in found], _MOST_DRAWN)))
    return curves([curve for curve in found if id(curve.row) in near], rows, title), curves_as_csv(found)


def _sweep(rows: list[Row], title: str) -> _Drawing:
    """Draw the metrics against the mask's threshold."""
    sweeps = sweeps_of(rows)
    if not sweeps:
        return "no method was run with two mask thresholds, no mask counting as one"
    swept = [row for found in sweeps for row in found.rows.values()]
    names = [name for name in (*GAP_METRICS, "gap") if any(row.value(name).n for row in swept)]
    if not names:
        return f"no run of it has a value of {', '.join(GAP_METRICS)}"
    return sweep(sweeps, rows, names, title), sweeps_as_csv(sweeps, names)


def _draw_found(figures: FigureWriter, place: Path, rows: list[Row]) -> None:
    """Draw the metrics against the part of the corrupted images that was found, a figure for each base model."""
    found = found_sweeps_of(rows)
    for number, sweeps in enumerate(found.values(), 1):
        swept = [row for each in sweeps for row in each.rows.values()]
        names = [name for name in _CORRECTIVE if any(row.value(name).n for row in swept)]
        methods = [each for each in sweeps if next(iter(each.rows.values())).kind == "method"]
        if not methods or not names:
            continue
        title = group_titles(rows)[swept[0].group].partition(", forgetting")[0]
        path = place / (f"found-{number}" if len(found) > 1 else "found")
        with styled():
            ends = [each for each in sweeps if each not in methods]
            figures.keep(sweep(methods, swept, names, title, FOUND, ends), path)
        write_text(figures.at(path, ".csv"), sweeps_as_csv(sweeps, names, "found"))


def _plane(rows: list[Row], title: str) -> _Drawing:
    """Draw forgetting against utility."""
    for utility in ("TA", "RA"):
        names = ("UA", utility)
        if any(row.kind != "base" and all(row.value(name).n for name in names) for row in rows):
            return plane(nearest(rows, _MOST_DRAWN), names, title), as_csv(rows, names)
    return "no run has a value of UA, and of TA or RA"


def _gone(rows: list[Row], title: str) -> _Drawing:
    """Draw what comes back of the forgotten."""
    names = [name for name in WAYS if any(row.value(name).n for row in rows)]
    return (gone(nearest(rows, _MOST_DRAWN), names, title), as_csv(rows, names)) if names else None
