"""Published figures beside ours: what is known of a setting, whether ours agree with it, and what ours cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from statistics import mean, variance
from typing import Any

from salun.errors import one_line
from salun.experiments.config import Experiment
from salun.experiments.plan import Job
from salun.experiments.record import Record, experiment_of
from salun.io.files import read_json
from salun.metrics import GAP_METRICS
from salun.reports.formats import csv_table, markdown_table
from salun.reports.statistics import Estimate, units, welch
from salun.reports.summary import Row, summarise

_WITHIN, _OUTSIDE, _UNJUDGED = "within", "outside", "–"
_UNKNOWN = "not known here"
_COLUMNS = (*GAP_METRICS, "gap", "RTE")
_UNITS = {"RTE": ("min", 60.0)}
_PERCENT = ("%", 0.01)
_ROUNDING = 0.005  # half of the last digit that papers print, in a column's unit
_PAPER_MASK = {"keep": 0.5, "score": "sum", "batches": None, "file": None}


@dataclass(frozen=True)
class _Figure:
    """A published mean, in the unit of its column: percent, of RTE minutes.

    Attributes:
        mean: over the trials.
        sd: standard deviation over the trials; None where none is published.
        trials: None where their number is not known.
    """

    mean: float
    sd: float | None = None
    trials: int | None = None


@dataclass(frozen=True)
class _Line:
    """One method of a table: our runs and what is published of them.

    Attributes:
        title: as the table shows it.
        row: our runs; None where there are none.
        source: of the figures; empty where there are none.
        figures: by column.
    """

    title: str
    row: Row | None
    source: str
    figures: Mapping[str, _Figure]

    @property
    def count(self) -> int:
        """Number of our runs."""
        return len(self.row.records) if self.row else 0

    def ours(self, name: str) -> Estimate:
        """Look our estimate of a column up; it is empty where there is none."""
        return self.row.value(name) if self.row else Estimate(None, None, 0, None, None)

    def verdict(self, name: str) -> str:
        """Say whether a published mean is within what our runs allow; not of times, which are another machine's.

        Where a standard deviation is published, the 95 % interval of the difference (Welch) must hold 0. Else our
        95 % interval must hold the published mean. Both are widened by half of the last digit that is published.

        Args:
            name: of the column.
        """
        figure, ours, (_, unit) = self.figures.get(name), self.ours(name), _unit_of(name)
        if figure is None or name == "RTE" or ours.mean is None or self.row is None:
            return _UNJUDGED
        by_welch = _welch_reach(self.row, name, figure)
        low, high = (ours.low, ours.high) if by_welch is None else (ours.mean - by_welch, ours.mean + by_welch)
        if low is None or high is None:
            return _UNJUDGED
        return _WITHIN if low / unit - _ROUNDING <= figure.mean <= high / unit + _ROUNDING else _OUTSIDE


@dataclass(frozen=True)
class _Table:
    """What is compared within one model, data set and forget set."""

    title: str
    lines: tuple[_Line, ...]

    @property
    def records(self) -> list[Record]:
        """Our runs."""
        return [record for line in self.lines if line.row for record in line.row.records]


def _unit_of(name: str) -> tuple[str, float]:
    """Name the unit of a column, and say how much it is in that of records."""
    return _UNITS.get(name, _PERCENT)


def _welch_reach(row: Row, name: str, figure: _Figure) -> float | None:
    """Compute half of the interval of the difference; None where a side has no standard deviation."""
    ours = units([record.metrics.get(name) for record in row.records], row.draws)
    if figure.sd is None or figure.trials is None or min(len(ours), figure.trials) < 2:
        return None
    _, unit = _unit_of(name)
    centre, spreads = mean(ours), [variance(ours), (figure.sd * unit) ** 2]
    return welch(centre - figure.mean * unit, spreads, [len(ours), figure.trials], abs(centre)).half_width


def published_tables() -> list[dict[str, Any]]:
    """Read the published figures: of each table source, setting and rows."""
    with resources.as_file(resources.files("salun") / "published.json") as path:
        return list(read_json(path))


def _published_for(experiment: Experiment) -> tuple[str, dict[str, _Figure]]:
    """Find the source and the figures, by column, that papers report of a setting; both empty where none are known."""
    forget, mask = experiment.forget, experiment.mask
    # Published shares are random whatever the class, of all images.
    plain = forget.share is not None and forget.choice == "random" and not forget.stratified
    bare = experiment.prune is None and experiment.budget is None and experiment.corruption is None
    if not plain or not bare or experiment.requests or (mask and mask.model_dump() != _PAPER_MASK):
        return "", {}
    key = (experiment.model, experiment.dataset, forget.share, experiment.method, mask is not None)
    for entry in published_tables():
        for line in entry["rows"]:
            if key == (entry["model"], entry["dataset"], entry["unlearning_rate"], line["method"], line["use_mask"]):
                return entry["source"], _figures_of(line, entry["trials"])
    return "", {}


def _figures_of(line: dict[str, Any], trials: int | None) -> dict[str, _Figure]:
    """Read the figures of a method, with standard deviations where they are published."""
    means = line["metrics"] | ({"RTE": line["minutes"]} if "minutes" in line else {})
    return {name: _Figure(value, line.get("sd", {}).get(name), trials) for name, value in means.items()}


def published_lines(rows: Iterable[Row]) -> list[_Line]:
    """Take those of a list's rows of whose setting a figure is published.

    Args:
        rows: of any groups.
    """
    runs = [(row, *_published_for(experiment_of(row.records[0], 0))) for row in rows if row.records]
    return [_Line(row.title, row, source, figures) for row, source, figures in runs if figures]


def compared(asked: Sequence[Experiment], jobs: Sequence[Job], done: Mapping[str, Record]) -> list[_Table]:
    """Lay a list out against what is published, a table a model, data set and forget set.

    Args:
        asked: the list's experiments, by whose settings figures are looked up.
        jobs: the list's runs; those of a check have the same numbers, but other data, models and epochs.
        done: records by id.

    Returns:
        Tables with a line for each experiment that was asked for, whether or not it has runs, below its base model.
    """
    found: dict[int, list[Record]] = {experiment.number: [] for experiment in asked}
    for job in jobs:
        found[job.experiment.number] += [done[job.id]] if job.id in done else []
    rows = summarise([(str(number), records) for number, records in found.items()])
    bases = {row.group: row for row in rows if row.kind == "base"}
    own = {int(row.title): row for row in rows if row.kind != "base"}
    tables: dict[str, list[Experiment]] = {}
    for experiment in asked:
        tables.setdefault(f"{experiment.base}, forgetting {experiment.forgetting}", []).append(experiment)
    laid_out = []
    for title, members in tables.items():
        known = [own[member.number] for member in members if member.number in own]
        base = _Line("base", bases[known[0].group] if known else None, "", {})
        lines = [_Line(each.tag or each.title, own.get(each.number), *_published_for(each)) for each in members]
        laid_out.append(_Table(title, (base, *lines)))
    return laid_out


def cells_of(lines: Sequence[_Line], judge: bool = True) -> tuple[list[str], list[list[str]]]:
    """Lay lines out as text: of each column the published mean, and ours with its 95 % interval and the verdict.

    Args:
        lines: of one table.
        judge: whether verdicts are given.

    Returns:
        Headings and rows.
    """
    headings = [f"{name} {_unit_of(name)[0]} {whose}" for name in _COLUMNS for whose in ("published", "ours")]
    rows = []
    for line in lines:
        pairs = ((_published(line, name), _ours(line, name, judge)) for name in _COLUMNS)
        rows.append([one_line(line.title), *chain(*pairs), _passes(line), str(line.count or "")])
    return ["", *headings, "passes a run", "n"], rows


def _passes(line: _Line) -> str:
    """Print the mean image passes of our runs."""
    known = [count for record in (line.row.records if line.row else ()) if (count := record.unlearning_passes)]
    return f"{mean(known):.0f}" if known else _UNJUDGED


def _published(line: _Line, name: str) -> str:
    """Print a published figure; of the base model there are none."""
    figure = line.figures.get(name)
    if figure is None:
        return _UNJUDGED if line.title == "base" else _UNKNOWN
    return f"{figure.mean:.2f}" + ("" if figure.sd is None else f"±{figure.sd:.2f}")


def _ours(line: _Line, name: str, judge: bool) -> str:
    """Print our mean, its interval and the verdict, as in "2.10 (1.95 to 2.25) within"."""
    ours, (_, unit) = line.ours(name), _unit_of(name)
    if ours.mean is None:
        return _UNJUDGED
    interval = "" if ours.low is None or ours.high is None else f" ({ours.low / unit:.2f} to {ours.high / unit:.2f})"
    verdict = line.verdict(name) if judge else _UNJUDGED
    return f"{ours.mean / unit:.2f}{interval}" + ("" if verdict == _UNJUDGED else f" {verdict}")


def missing(tables: Iterable[_Table], runs: int) -> list[str]:
    """Name what a comparison lacks: rows, runs, cells.

    Args:
        tables: of the comparison.
        runs: asked for of each experiment.

    Returns:
        A line each.
    """
    lacking = []
    for table in tables:
        for line in table.lines:
            is_base, is_gold = line.title == "base", line.row is not None and line.row.kind == "retrain"
            idle = {"RTE"} if is_base else {"gap"} if is_gold and runs < 2 else set()
            empty = [name for name in _COLUMNS if name not in idle and line.ours(name).mean is None]
            short = [] if is_base or line.count == runs else [f"{line.count} of {runs} runs"]
            if parts := short + ([f"no {', '.join(empty)}"] if empty else []):
                lacking.append(f"{table.title}: {line.title}: {'; '.join(parts)}")
    return lacking


def as_page(title: str, tables: Sequence[_Table], remarks: Sequence[str], rate: float, judge: bool) -> str:
    """Render a comparison in Markdown: tables, how to read them, verdicts counted, cost.

    Args:
        title: of the page.
        tables: in order.
        remarks: a line on each difference between the protocols.
        rate: images trained a second on a GPU, forward and backward, which seconds are reckoned by.
        judge: whether verdicts are given.
    """
    blocks = [f"# {title}"]
    blocks += [] if judge else ["This is a check of the path on generated images: it compares nothing."]
    for table in tables:
        sources = dict.fromkeys(line.source for line in table.lines if line.source)
        blocks += [f"## {table.title}", markdown_table(*cells_of(table.lines, judge), bold=None)]
        blocks += [f"Published: {'; '.join(sources) or _UNKNOWN}."]
    cost = markdown_table(["", "runs", "passes", "reckoned GPU s"], _costs(tables, rate), bold=None)
    basis = f"Seconds are reckoned, not measured: {rate:g} images a second, forward and backward (two passes an image)."
    explained = "\n".join(f"- {line}" for line in (*_legend(tables, judge), *remarks))
    return "\n\n".join([*blocks, "## How to read it", explained, "## Cost", cost, basis]) + "\n"


def _legend(tables: Sequence[_Table], judge: bool) -> list[str]:
    """Explain the cells, and count the verdicts."""
    lines = [line for table in tables for line in table.lines]
    known = [figure for line in lines for name, figure in line.figures.items() if name != "RTE"]
    explained = [f"Ours: mean (95 % interval of the mean). RTE is not judged: it is wall time. {_UNJUDGED}: no value."]
    if not judge:
        return explained
    if any(figure.sd is not None for figure in known):
        explained.append(
            f"{_WITHIN}, beside a published standard deviation: Welch's 95 % interval of the difference holds 0."
        )
    if any(figure.sd is None for figure in known):
        explained.append(f"{_WITHIN}, beside a published mean alone: our 95 % interval holds that mean.")
    verdicts = [line.verdict(name) for line in lines for name in line.figures]
    counts = f"{verdicts.count(_WITHIN)} {_WITHIN}, {verdicts.count(_OUTSIDE)} {_OUTSIDE}"
    return [*explained, f"Cells: {counts}, of {len(known)} published."]


def _costs(tables: Sequence[_Table], rate: float) -> list[list[str]]:
    """Add image passes up, of each table's runs, of the base models by their recipes, and of all."""
    parts = [(table.title, [record.unlearning_passes or 0 for record in table.records]) for table in tables]
    bases = {record.settings["base"]["identity"]: record for table in tables for record in table.records}
    trained = [2 * base.settings["base"]["recipe"]["epochs"] * base.split["train"] for base in bases.values()]
    parts += [("base models, by their recipes", trained)]
    parts += [("all", [count for _, counts in parts for count in counts])]
    return [[name, str(len(counts)), str(sum(counts)), f"{sum(counts) / 2 / rate:.1f}"] for name, counts in parts]


def as_csv(tables: Iterable[_Table], judge: bool) -> str:
    """Render a comparison for a spreadsheet, a line a cell, in percent and minutes.

    Args:
        tables: in order.
        judge: whether verdicts are given.
    """
    headings = ["table", "method", "column", "published", "published sd", "trials", "source"]
    rows: list[list[object]] = [[*headings, "ours", "low", "high", "n", "verdict"]]
    for table in tables:
        for line in table.lines:
            for name in _COLUMNS:
                figure, ours, (_, unit) = line.figures.get(name), line.ours(name), _unit_of(name)
                known = [figure.mean, figure.sd, figure.trials, line.source] if figure else [None] * 4
                values = [None if value is None else value / unit for value in (ours.mean, ours.low, ours.high)]
                verdict = line.verdict(name) if judge else _UNJUDGED
                rows.append([table.title, line.title, name, *known, *values, ours.n, verdict])
    return csv_table(rows)
