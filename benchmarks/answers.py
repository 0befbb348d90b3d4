"""What the tables of a benchmark answer, each with its figure and its interval."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from statistics import fmean

import numpy as np
from scipy.stats import bootstrap, spearmanr

from salun.reports.formats import escape_markdown, markdown_table
from salun.reports.published import published_tables
from salun.reports.statistics import Comparison, difference, estimate
from salun.reports.summary import Row, floor_of, grouped

_RESAMPLES = 2000
_SCORES = {"sum": "salient", "random": "random", "inverted": "inverted"}


def _methods(rows: Sequence[Row]) -> list[Row]:
    """Take the rows of methods that have a gap."""
    return [row for row in rows if row.kind == "method" and row.gap.mean is not None]


def _named(rows: Sequence[Row]) -> str:
    """Name rows; "none" where there are none."""
    return ", ".join(escape_markdown(row.title) for row in rows) or "none"


def _parts(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Number the base models, each with its rows."""
    for number, members in enumerate(grouped(rows).values(), 1):
        yield f"Base model {number}", members


def _of_each(told: Callable[[list[Row]], str]) -> Callable[[list[Row]], list[str]]:
    """Have what is told of one base model's rows told of each, a line each."""

    @wraps(told)
    def lines(rows: list[Row]) -> list[str]:
        return [f"- {title}{told(members)}" for title, members in _parts(rows)]

    return lines


@_of_each
def against_base(rows: list[Row]) -> str:
    """Say which methods come nearer to retraining than the base model does; a line a base model.

    Args:
        rows: of one problem.
    """
    (base,) = (row for row in rows if row.kind == "base")
    found = _methods(rows)
    others = [row for row in found if (row.gap.mean or 0.0) >= (base.gap.mean or 0.0)]
    nearer = f"{len(found) - len(others)} of {len(found)} rows have a smaller one"
    return f": its own gap is {100 * (base.gap.mean or 0.0):.2f} %; {nearer}. Not: {_named(others)}."


@_of_each
def nearest_lines(rows: list[Row]) -> str:
    """Say which methods are within the noise floor, and which are not told from retraining; a line a base model.

    Args:
        rows: of one problem.
    """
    floor, found = floor_of(rows, rows[0].group), _methods(rows)
    within = [row for row in found if floor is not None and (row.gap.mean or 0.0) <= floor]
    alike = [row for row in found if row.gap.low == 0.0]
    told = "unknown" if floor is None else f"{100 * floor:.2f} %"
    return f": noise floor {told}; within it: {_named(within)}. Intervals that hold 0: {_named(alike)}."


@_of_each
def passes_lines(rows: list[Row]) -> str:
    """List the methods that no other method beats at as few image passes; a line a base model.

    Args:
        rows: of one problem.
    """
    best, front = math.inf, []
    for passes, gap, name in sorted((_passes(row), row.gap.mean or 0.0, row.title) for row in _methods(rows)):
        if gap < best:
            best = gap
            front.append(f"{escape_markdown(name)} ({passes:,.0f} passes, gap {100 * gap:.2f} %)")
    return f", the smallest gap at so many passes: {'; '.join(front)}."


def _passes(row: Row) -> float:
    """Average the image passes of a row's runs."""
    return fmean(record.unlearning_passes or 0 for record in row.records)


def order_lines(groups: Mapping[str, list[Row]]) -> list[str]:
    """Compare the orders of the methods: between base models, between problems, and with the published one.

    Args:
        groups: rows by problem.

    Returns:
        Blocks of Markdown.
    """
    orders = {
        f"{heading}, {title.lower()}": _gaps(part) for heading, rows in groups.items() for title, part in _parts(rows)
    }
    names = [*orders]
    published = _published()
    lines = [
        f"- {first} against {other}: {_correlated(orders[first], orders[other])}"
        for place, first in enumerate(names)
        for other in names[place + 1 :]
    ]
    lines += [
        f"- {name} against the published order: {_correlated(order, published)}" for name, order in orders.items()
    ]
    told = (
        "Spearman's correlation of the methods' gaps, with a 95 % bootstrap interval over methods. Published: SalUn's "
    )
    return ["## Does the order hold?", f"{told}table 1, ResNet-18 on CIFAR-10, a random 10 %.", "\n".join(lines)]


def _gaps(rows: Sequence[Row]) -> dict[str, float]:
    """Give the gap of each method, by name and whether it has a mask and two optimisers."""
    found: dict[str, float] = {}
    for row in _methods(rows):
        settings = row.records[0].settings
        marks = (" + mask" * bool(settings["mask"]), " + dual" * bool(settings["settings"].get("dual")))
        name = "".join([settings["method"], *marks])
        found[name] = min(found.get(name, math.inf), row.gap.mean or 0.0)
    return found


def _published() -> dict[str, float]:
    """Read the published gaps of a random 10 % of CIFAR-10 by the same names."""
    table = next(each for each in published_tables() if (each["dataset"], each["unlearning_rate"]) == ("cifar10", 0.1))
    found = {}
    for row in table["rows"]:
        if row["method"] != "retrain":
            found[f"{row['method']}{' + mask' if row['use_mask'] else ''}"] = row["metrics"]["gap"]
    return found


def _correlated(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """Tell how alike two orders of the same methods are."""
    shared = sorted(first.keys() & second.keys())
    values = [np.array([order[name] for name in shared]) for order in (first, second)]

    def rho(one: np.ndarray, other: np.ndarray) -> float:
        alone = np.ptp(one) == 0 or np.ptp(other) == 0  # a resample of a single method tells no order
        return 0.0 if alone else float(spearmanr(one, other).statistic)

    interval = bootstrap(values, rho, paired=True, vectorized=False, n_resamples=_RESAMPLES, method="percentile", rng=0)
    low, high = interval.confidence_interval
    return f"{rho(*values):.2f} ({low:.2f} to {high:.2f}), {len(shared)} methods"


def mask_lines(rows: list[Row]) -> list[str]:
    """Compare each method with itself under masks of the same size.

    Args:
        rows: of one problem, masked and not.

    Returns:
        Blocks of Markdown: a table a base model, and the mean over methods and base models.
    """
    blocks: list[str] = []
    over: dict[str, list[float]] = {}
    headings = [
        "",
        "without",
        *_SCORES.values(),
        *(f"salient less {name}" for name in ("without", "random", "inverted")),
    ]
    for title, members in _parts(rows):
        lines = []
        for plain, masked in _families(members):
            cells = [plain, *(masked[score] for score in _SCORES)]
            apart = {
                name: _apart(masked["sum"], other)
                for name, other in zip(headings[5:], (plain, *cells[2:]), strict=True)
            }
            for name, found in apart.items():
                if found is not None:
                    over.setdefault(name, []).append(found.difference)
            shown = [f"{100 * (row.gap.mean or 0.0):.2f}" for row in cells]
            lines.append([plain.title, *shown, *map(_difference_text, apart.values())])
        if lines:
            told = f"{title}: gap in %, and the difference of gaps in points with its 95 % interval over runs"
            blocks += [told, markdown_table(headings, lines, None)]
    means = []
    for name, values in over.items():
        mean = estimate(values)
        if mean.mean is not None and mean.low is not None and mean.high is not None:
            told = f"{100 * mean.mean:+.2f} ({100 * mean.low:+.2f} to {100 * mean.high:+.2f}) points"
            means.append(f"- {name}: {told}, mean over {mean.n} pairs of method and base model")
    return [*blocks, "\n".join(means)]


def _families(rows: Sequence[Row]) -> Iterator[tuple[Row, dict[str, Row]]]:
    """Pair each method without a mask with its masked forms of the same settings."""
    known: dict[str, dict[str | None, Row]] = {}
    for row in _methods(rows):
        settings = row.records[0].settings
        mask = settings["mask"]
        if mask is None or mask["keep"] == 0.5:
            key = json.dumps([settings["method"], settings["settings"]], sort_keys=True)
            known.setdefault(key, {})[mask and mask["score"]] = row
    for members in known.values():
        if {None, *_SCORES} <= members.keys():
            yield members[None], {score: members[score] for score in _SCORES}


def _apart(first: Row, second: Row) -> Comparison | None:
    """Compare the gaps of two methods' runs, those of one draw as pairs."""
    one, other = (
        {draw: float(gap["average"] or 0.0) for draw, gap in zip(row.draws, row.gaps, strict=True) if "average" in gap}
        for row in (first, second)
    )
    return difference(one, other)


def _difference_text(found: Comparison | None) -> str:
    """Show a difference and its interval."""
    if found is None or found.half_width is None:
        return "–"
    low, high = found.difference - found.half_width, found.difference + found.half_width
    return f"{100 * found.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
