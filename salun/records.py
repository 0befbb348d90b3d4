"""Records on disk, and the tables that are made from them."""

import csv
import fcntl
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from salun.errors import SalunError, one_line
from salun.files import write_text
from salun.metrics import GAP_METRICS, METRICS, Value, load_metrics
from salun.run import Record
from salun.training import Epoch

Group = tuple[str, str]


def append(path: Path, record: Record) -> None:
    """Add a record to a file, durably, one line, under a lock.

    Args:
        path: `records.jsonl`.
        record: of a finished run.

    Raises:
        SalunError: the file cannot be written.
    """
    line = json.dumps(numbers_only(asdict(record)), allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SalunError(f"{path}: cannot be written: {error.strerror or error}") from error


def numbers_only(value: Any) -> Any:
    """Put null in place of NaN and infinity, which JSON lacks and the curve of a diverged run holds.

    Args:
        value: lists, dictionaries and plain values.

    Returns:
        The same without them.
    """
    if isinstance(value, dict):
        return {key: numbers_only(content) for key, content in value.items()}
    if isinstance(value, list):
        return [numbers_only(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> tuple[dict[str, Record], list[str]]:
    """Read a file of records.

    Args:
        path: `records.jsonl`, which need not exist.

    Returns:
        The last record of each id, and a notice for each line that could not be read, such as one
        that a power cut tore. A loss that was no number is NaN again.

    Raises:
        SalunError: the file exists and cannot be opened.
    """
    if not path.exists():
        return {}, []
    found: dict[str, Record] = {}
    notices = []
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            lines = file.read().splitlines()
    except OSError as error:
        raise SalunError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            content["curve"] = [as_epoch(point) for point in content["curve"]]
            found[content["id"]] = Record(**content)
        except (ValueError, TypeError, KeyError):
            if line.strip():
                notices.append(f"{path}: line {number} is no record and is passed over")
    return found, notices


def as_epoch(point: dict[str, Any]) -> Epoch:
    """Read a point of a curve.

    Args:
        point: as written; its loss is null where it was no number.

    Returns:
        The point.
    """
    return Epoch(**(point | {"loss": math.nan if point["loss"] is None else point["loss"]}))


@dataclass(frozen=True)
class Figure:
    """A value over several runs.

    Attributes:
        mean: None where no run has a value.
        sd: sample standard deviation; None of fewer than two runs.
        n: runs that have a value.
        half_width: of the 95 % t-interval of the mean; None of fewer than two runs.
    """

    mean: float | None
    sd: float | None
    n: int
    half_width: float | None


def figure(values: Iterable[Value]) -> Figure:
    """Summarise a value over runs.

    Args:
        values: one a run; None where it does not apply.

    Returns:
        Mean, spread and number.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Figure(None, None, 0, None)
    if len(known) == 1:
        return Figure(known[0], None, 1, None)
    sd = stdev(known)
    half_width = float(student.ppf(0.975, len(known) - 1)) * sd / len(known) ** 0.5
    return Figure(fmean(known), sd, len(known), half_width)


@dataclass(frozen=True)
class Row:
    """One experiment, or one base model, over its runs.

    Attributes:
        title: what it is.
        group: base model and forget set; rows of one group are compared.
        kind: "base", "retrain" or "method".
        records: its runs; none for a base model.
        figures: by metric.
        gaps: for each run the distance of each metric to retraining's mean, and "average" over UA, RA,
            TA and MIA; empty where the list holds no retraining.
        gap: of the average, over the runs.
        diverged: runs whose outputs stopped being numbers.
    """

    title: str
    group: Group
    kind: str
    records: tuple[Record, ...]
    figures: dict[str, Figure]
    gaps: tuple[dict[str, Value], ...]
    gap: Figure
    diverged: int


def group_of(record: Record) -> Group:
    """Tell which runs a run may be compared with.

    Args:
        record: of a run.

    Returns:
        Base model and forget set.
    """
    settings = record.settings
    return settings["base"]["identity"], settings["forget"]["fingerprint"]


def gap_to(values: dict[str, Value], standard: dict[str, Value]) -> dict[str, Value]:
    """Compute the distance to retraining.

    Args:
        values: of one run.
        standard: mean over the retrained models.

    Returns:
        Absolute differences by metric, in the metric's unit, RTE left out; "average" is over UA, RA, TA and
        MIA, None where one of them is missing.
    """
    gaps: dict[str, Value] = {}
    for name, value in values.items():
        reference = standard.get(name)
        if name in METRICS and METRICS[name].unit == "%":
            gaps[name] = None if value is None or reference is None else abs(value - reference)
    parts = [gaps.get(name) for name in GAP_METRICS]
    known = [part for part in parts if part is not None]
    gaps["average"] = fmean(known) if len(known) == len(parts) else None
    return gaps


def summarise(experiments: list[tuple[str, list[Record]]]) -> list[Row]:
    """Turn the records of a list into rows, base models first in each group.

    Args:
        experiments: title and finished runs of each entry.

    Returns:
        The rows, group by group, in the order of the list.
    """
    load_metrics()
    groups: dict[Group, list[tuple[str, list[Record]]]] = {}
    for title, records in experiments:
        if records:
            groups.setdefault(group_of(records[0]), []).append((title, records))
    rows = []
    for group, members in groups.items():
        everything = [record for _, records in members for record in records]
        gold = [record for record in everything if record.settings["method"] == "retrain"]
        standard = {name: figure(run.metrics.get(name) for run in gold).mean for name in names_of(gold)}
        before = {name: value for record in everything for name, value in record.base_metrics.items()}
        rows.append(make_row("base", group, "base", [], [before], standard))
        for title, records in members:
            kind = "retrain" if records[0].settings["method"] == "retrain" else "method"
            rows.append(make_row(title, group, kind, records, [run.metrics for run in records], standard))
    return rows


def names_of(records: list[Record]) -> list[str]:
    """List the metrics that records hold.

    Args:
        records: of runs.

    Returns:
        Names, in the order in which they first appear.
    """
    return list(dict.fromkeys(name for record in records for name in record.metrics))


def make_row(
    title: str,
    group: Group,
    kind: str,
    records: list[Record],
    values: list[dict[str, Value]],
    standard: dict[str, Value],
) -> Row:
    """Summarise one experiment.

    Args:
        title: what it is.
        group: base model and forget set.
        kind: "base", "retrain" or "method".
        records: its runs.
        values: metrics of each run.
        standard: mean over the retrained models; empty where there are none.

    Returns:
        The row; the gold standard itself has no gap.
    """
    names = dict.fromkeys(name for run in values for name in run)
    compared = bool(standard) and kind != "retrain"
    gaps = tuple(gap_to(run, standard) for run in values) if compared else ()
    return Row(
        title=title,
        group=group,
        kind=kind,
        records=tuple(records),
        figures={name: figure(run.get(name) for run in values) for name in names},
        gaps=gaps,
        gap=figure(run["average"] for run in gaps),
        diverged=sum(record.diverged for record in records),
    )


def best_of(rows: list[Row], group: Group) -> Row | None:
    """Find the unlearned row that is nearest to retraining.

    A method some of whose runs diverged is not best, however near the others came.

    Args:
        rows: all rows.
        group: which of them are compared.

    Returns:
        The method's row with the smallest average gap; None where nothing can be compared.
    """
    methods = [row for row in rows if row.group == group and row.kind == "method" and not row.diverged]
    able = [row for row in methods if row.gap.mean is not None]
    return min(able, key=lambda row: row.gap.mean or 0.0, default=None)


def mixtures(rows: list[Row]) -> list[str]:
    """Say where a table's runs were not made alike.

    Args:
        rows: the table.

    Returns:
        A line for devices and one for revisions of the code, where there are several.
    """
    runs = [record for row in rows for record in row.records]
    lines = []
    for what, found in (("devices", {run.device for run in runs}), ("revisions", {run.revision for run in runs})):
        if len(found) > 1:
            lines.append(f"the runs of this list were made on several {what}: {', '.join(sorted(found))}")
    return lines


def columns_of(rows: list[Row]) -> list[str]:
    """List the metrics that a table shows.

    Args:
        rows: the table's.

    Returns:
        Metrics that some row has a value of, in the registry's order.
    """
    shown = [name for name in METRICS if any(row.figures.get(name, figure([])).n for row in rows)]
    order = ("UA", "RA", "VA", "TA", "TUA", "MIA")
    return sorted(shown, key=lambda name: order.index(name) if name in order else len(order) + (name == "RTE"))


def heading(name: str) -> str:
    """Title a metric's column.

    Args:
        name: of the metric.

    Returns:
        Its name and unit.
    """
    return f"{name} {METRICS[name].unit}"


def cell(value: Figure, unit: str) -> str:
    """Print a figure: percentages or seconds, the spread only where there is one.

    Args:
        value: mean and spread.
        unit: "%" or "s".

    Returns:
        For example "97.21±0.40", or "–" where there is no value.
    """
    if value.mean is None:
        return "–"
    factor = 100 if unit == "%" else 1
    spread = "" if value.sd is None else f"±{value.sd * factor:.2f}"
    return f"{value.mean * factor:.2f}{spread}"


def lines_of(rows: list[Row], hidden: Iterable[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Lay rows out as text.

    Args:
        rows: of one group.
        hidden: metrics that are left out.

    Returns:
        Column headings, and the cells of each row.
    """
    names = [name for name in columns_of(rows) if name not in hidden]
    headings = ["", *map(heading, names), "gap %", "n"]
    lines = []
    for row in rows:
        figures = [cell(row.figures.get(name, figure([])), METRICS[name].unit) for name in names]
        runs = "" if row.kind == "base" else str(len(row.records))
        runs += f" ({row.diverged} diverged)" if row.diverged else ""
        lines.append([one_line(row.title), *figures, cell(row.gap, "%"), runs])
    return headings, lines


def group_title(rows: list[Row], group: Group) -> str:
    """Say what the rows of a group have in common.

    Args:
        rows: all rows.
        group: which.

    Returns:
        One line: model, data set and forget set, and what tells them apart where that does not.
    """
    titles: dict[Group, str] = {}
    for row in rows:
        if row.records and row.group not in titles:
            settings, counts = row.records[0].settings, row.records[0].split
            what = f"forgetting {settings['forget']['request']}: {counts['forget']} of {counts['train']} images"
            titles[row.group] = f"{settings['base']['model']} on {settings['base']['dataset']}, {what}"
    title = titles[group]
    others = [other for other in titles if other != group and titles[other] == title]
    if any(other[0] != group[0] for other in others):
        title += f"; base model: {group[0]}"
    if any(other[1] != group[1] for other in others):
        title += f"; forget set: {group[1]}"
    return one_line(title)


def grouped(rows: list[Row]) -> dict[Group, list[Row]]:
    """Gather rows by what they are compared within.

    Args:
        rows: all rows.

    Returns:
        Rows by group, in order.
    """
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def write_summaries(folder: Path, rows: list[Row]) -> list[Path]:
    """Write `summary.json`, `.csv`, `.md` and `.tex`.

    Args:
        folder: of the list's records.
        rows: the table.

    Returns:
        The files.

    Raises:
        SalunError: they cannot be written.
    """
    texts = {"json": as_json(rows), "csv": as_csv(rows), "md": as_markdown(rows), "tex": as_latex(rows)}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"summary.{suffix}")
        write_text(paths[-1], text)
    return paths


def as_json(rows: list[Row]) -> str:
    """Render rows for programs: fractions and seconds, every run with its gap.

    Args:
        rows: the table.

    Returns:
        JSON text.
    """

    def described(row: Row) -> dict[str, Any]:
        gaps = row.gaps if row.kind == "method" and row.gaps else (None,) * len(row.records)
        runs = [
            {"id": record.id, "seed": record.seed, "metrics": record.metrics, "gap": gap}
            for record, gap in zip(row.records, gaps, strict=True)
        ]
        figures = {name: asdict(value) for name, value in row.figures.items()}
        return {
            "title": row.title,
            "kind": row.kind,
            "problem": group_title(rows, row.group),
            "settings": row.records[0].settings if row.records else None,
            "metrics": figures,
            "average_gap": asdict(row.gap),
            "diverged": row.diverged,
            "best": row is best_of(rows, row.group),
            "runs": runs,
        }

    return json.dumps([described(row) for row in rows], indent=1, allow_nan=False) + "\n"


def as_csv(rows: list[Row], shown: Sequence[str] = ()) -> str:
    """Render rows for a spreadsheet: one line a row, mean, sd, n and half width of each metric.

    Args:
        rows: the table; fractions and seconds.
        shown: metrics; none for all that some row has.

    Returns:
        CSV text.
    """
    names = shown or columns_of(rows)
    parts = ("mean", "sd", "n", "half_width")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["problem", "title", "kind", *(f"{name}_{part}" for name in [*names, "gap"] for part in parts)])
    for row in rows:
        figures = [*(row.figures.get(name, figure([])) for name in names), row.gap]
        numbers = [getattr(value, part) for value in figures for part in parts]
        writer.writerow([group_title(rows, row.group), one_line(row.title), row.kind, *numbers])
    return out.getvalue()


def as_markdown(rows: list[Row]) -> str:
    """Render rows for a README, the best method of each group in bold.

    Args:
        rows: the table.

    Returns:
        Markdown text.
    """
    blocks = []
    for group, members in grouped(rows).items():
        headings, lines = lines_of(members)
        best = best_of(rows, group)
        shown = [
            [f"**{text}**" if row is best and text else text for text in map(escape_markdown, line)]
            for row, line in zip(members, lines, strict=True)
        ]
        rule = ["---", *["---:"] * (len(headings) - 1)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *shown])
        blocks.append(f"{escape_markdown(group_title(rows, group))}\n\n{table}\n")
    return "\n".join(blocks)


def as_latex(rows: list[Row]) -> str:
    """Render rows for a paper, with booktabs rules, the best method of each group in bold.

    Args:
        rows: the table.

    Returns:
        LaTeX text.
    """
    blocks = []
    for group, members in grouped(rows).items():
        headings, lines = lines_of(members)
        best = best_of(rows, group)
        shown = [
            [f"\\textbf{{{text}}}" if row is best and text else text for text in map(escape_latex, line)]
            for row, line in zip(members, lines, strict=True)
        ]
        body = [" & ".join(line) + r" \\" for line in shown]
        head = " & ".join(map(escape_latex, headings)) + r" \\"
        columns = "l" + "r" * (len(headings) - 1)
        table = [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        blocks.append("\n".join([f"% {group_title(rows, group)}", *table]) + "\n")
    return "\n".join(blocks)


def escape_markdown(text: str) -> str:
    """Keep text from being read as Markdown or HTML.

    Args:
        text: from a user.

    Returns:
        The text, its special characters escaped.
    """
    return "".join("\\" + mark if mark in "\\`*_|<>[]~$&#" else mark for mark in one_line(text))


def escape_latex(text: str) -> str:
    """Keep text from being read as LaTeX commands.

    Args:
        text: from a user.

    Returns:
        The text, its special characters escaped.
    """
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "*": "{*}",
        "±": r"$\pm$",
        "–": "--",
    }
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(mark, mark) for mark in one_line(text))
