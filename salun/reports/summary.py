"""What records say together: one row an experiment, compared with retraining and with each other."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from salun.errors import one_line
from salun.experiments.problem import Group
from salun.experiments.record import Record, group_named, group_of
from salun.metrics import GAP_METRICS, METRICS, Value, load_metrics
from salun.reports.gap import Distance, distance_to, gap_estimate, nearer, noise_floor
from salun.reports.statistics import (
    Comparison,
    Draw,
    Estimate,
    Sample,
    adjusted_by_holm,
    difference,
    estimate,
    mean_of,
    means_by,
    versus,
)

UTILITY_FLOOR = 5.0
_UTILITY = ("RA", "TA")

_NOTHING = estimate([])
_Entry = tuple[str, list[Record], Mapping[str, Value]]


@dataclass(frozen=True, repr=False)
class Row:
    """One experiment, or one base model, over its runs.

    Attributes:
        group: base models and forget sets; rows of one group are compared.
        kind: "base", "retrain" or "method"; a retraining that is not what others are compared with is a "method".
        records: its runs; none for a base model.
        draws: base model, forget set and seed of each run; of a base model, whose seed is 0, a forget set each.
        gaps: for each draw the distance of each metric to retraining's mean, and "average"; empty without retraining.
        gap: mean distance of the four metrics' means to retraining's, with its interval; of retraining the noise floor.
        diverged: runs whose outputs stopped being numbers.
        distance: what the gap is computed from; None of retraining, and where nothing was retrained.
        against: by metric that is best as retrained the comparison with the retrained models, adjusted over the table.
        behind: a method's gap less that of the best, adjusted over the table; None of the best, and of too few models.
        floor: points of RA or TA; a run that loses more of them is told; 0 for none.
    """

    title: str
    group: Group
    kind: str
    records: tuple[Record, ...]
    draws: tuple[Draw, ...]
    estimates: dict[str, Estimate]
    gaps: tuple[dict[str, Value], ...]
    gap: Estimate
    diverged: int
    distance: Distance | None = None
    against: dict[str, Comparison] = field(default_factory=dict)
    behind: Comparison | None = None
    floor: float = UTILITY_FLOOR

    def __repr__(self) -> str:
        known = {name: found.mean for name, found in self.estimates.items() if found.mean is not None}
        percent = {name for name in known if METRICS[name].unit == "%"}
        shown = [
            f"{name} {100 * mean:.2f} %" if name in percent else f"{name} {mean:.3g}" for name, mean in known.items()
        ]
        return f"Row({self.title}: {', '.join(shown)}; {len(self.records)} runs)"

    @cached_property
    def losses(self) -> list[dict[str, float]]:
        """What each run that lost more than the floor lost, as `lost` gives it."""
        found = (lost(record.metrics, record.base_metrics, self.floor) for record in self.records)
        return [losses for losses in found if losses]

    @property
    def competes(self) -> bool:
        """Whether it is a method that may be the nearest to retraining, which no retraining is."""
        return self.kind == "method" and self.records[0].settings["method"] != "retrain"

    def value(self, name: str) -> Estimate:
        """Look a metric's estimate, or that of "gap", up; it is empty where the row has none."""
        return self.gap if name == "gap" else self.estimates.get(name, _NOTHING)


def lost(values: Mapping[str, Value], base: Mapping[str, Value], floor: float = UTILITY_FLOOR) -> dict[str, float]:
    """Compute how much worse a model is than its base model on what it was to keep.

    Args:
        values: metrics of the model.
        base: metrics of the base model.
        floor: points that may be lost; 0 for any number.

    Returns:
        Points lost by metric, of RA and TA where they are more than the floor.
    """
    points = {}
    for name in _UTILITY if floor else ():
        value, before = values.get(name), base.get(name)
        if value is not None and before is not None:
            points[name] = round(100 * (before - value), 6)
    return {name: loss for name, loss in points.items() if loss > floor}


def loss_text(losses: Mapping[str, float]) -> str:
    """Say in words what a model lost, given as `lost` gives it."""
    points = " and ".join(f"{loss:.2f} points of {name}" for name, loss in losses.items())
    return f"lost {points} against the base model"


def floor_text(floor: float) -> str:
    """Say in words what exceeds the floor."""
    return f"lost more than {floor:g} points of {' or '.join(_UTILITY)} against the base model"


def _sample_of(records: Iterable[Record]) -> Sample:
    """Gather the metrics of runs."""
    runs = list(records)
    return Sample([run.metrics for run in runs], [_draw_of(run) for run in runs])


def _draw_of(record: Record) -> Draw:
    return (*group_of(record), record.seed)


def _once_a_pair(gold: Sample) -> Sample:
    """Count the distance between two retrained models once."""
    values = [dict(value) for value in gold.values]
    groups: dict[Group, list[dict[str, Value]]] = {}
    for value, draw in zip(values, gold.draws, strict=True):
        groups.setdefault(draw[:2], []).append(value)
    for members in groups.values():
        for name in gold.names:
            held = [value for value in members if value.get(name) is not None]
            if len(held) == 2 and name in METRICS and "retrained" in METRICS[name].against:
                held[0][name], held[1][name] = mean_of(value[name] for value in held), None
    return Sample(values, gold.draws)


def gap_to(values: Mapping[str, Value], reference: Mapping[str, Value]) -> dict[str, Value]:
    """Compute the distance to retraining.

    Args:
        values: of one run.
        reference: mean over the retrained models of the same base model and forget set.

    Returns:
        Absolute differences by metric, of those in percent that are best as retrained; "average" over all GAP_METRICS.
    """
    gaps: dict[str, Value] = {}
    for name, value in values.items():
        expected = reference.get(name)
        if _is_compared(name) and METRICS[name].unit == "%":
            gaps[name] = None if value is None or expected is None else abs(value - expected)
    known = [part for part in map(gaps.get, GAP_METRICS) if part is not None]
    gaps["average"] = fmean(known) if len(known) == len(GAP_METRICS) else None
    return gaps


def _is_compared(name: str) -> bool:
    """Tell whether retrained models show what a metric is at best: being equal to theirs, or their distance."""
    found = METRICS.get(name)
    if found is None or found.unit == "table":
        return False
    return found.direction == "as retrained" or "retrained" in found.against


def _gaps_of(sample: Sample, gold: Sample) -> tuple[dict[str, Value], ...]:
    """Compute every model's distance to retraining."""
    if not gold.values:
        return ()
    pairs = zip(sample.values, sample.draws, strict=True)
    return tuple(gap_to(values, gold.by_group.get(draw[:2], {})) for values, draw in pairs)


def _step_of(name: str, records: Iterable[Record]) -> float:
    """Say in which steps a metric moves: a share by one image of the smallest set, others by 0."""
    if METRICS[name].unit != "%":
        return 0.0
    counts = [record.split.get(part) for record in records for part in METRICS[name].needs]
    known = [count for count in counts if count]
    return 1 / min(known) if known else 0.0


def _against(
    sample: Sample, gold: Sample, records: Sequence[Record], partnered: Mapping[str, Mapping[Draw, float]]
) -> dict[str, Comparison]:
    """Test each metric for a difference from the retrained models, over the base models and forget sets of both."""
    # What compares a model with retrained model i and what compares i with the next are a pair, free of i's luck.
    groups = sample.groups & gold.groups
    ours, theirs = sample.within(groups), gold.within(groups)
    found: dict[str, Comparison] = {}
    for name in filter(_is_compared, ours.names):
        step, comparison = _step_of(name, records), None
        if name in partnered:
            comparison = difference(partnered[name], _known(theirs, name), step)
        elif len(groups) > 1:
            comparison = difference(_group_means(ours, name), _group_means(theirs, name), step)
        if comparison is None:
            comparison = versus(ours.units[name], theirs.units.get(name, []), step)
        if comparison is not None:
            found[name] = comparison
    return found


def _known(sample: Sample, name: str) -> dict[Draw, float]:
    """The values of a metric by draw, where there are any."""
    pairs = zip(sample.draws, sample.of(name), strict=True)
    return {draw: value for draw, value in pairs if value is not None}


def _group_means(sample: Sample, name: str) -> dict[Draw, float]:
    """The mean of a metric for each base model and forget set that has one."""
    means = {group: values.get(name) for group, values in sample.by_group.items()}
    return {(*group, 0): value for group, value in means.items() if value is not None}


def _partnered(records: Iterable[Record], draws: dict[str, Draw], base: bool) -> dict[str, dict[Draw, float]]:
    """The mean of each metric that compares with a retrained model, by that model's draw; of runs or base models."""
    found: dict[str, dict[Draw, list[Value]]] = {}
    for run in records:
        for name, value in (run.base_metrics if base else run.metrics).items():
            if run.retrained in draws and name in METRICS and "retrained" in METRICS[name].against:
                found.setdefault(name, {}).setdefault(draws[run.retrained], []).append(value)
    means = {name: {draw: mean_of(values) for draw, values in by.items()} for name, by in found.items()}
    return {name: {draw: x for draw, x in by.items() if x is not None} for name, by in means.items()}


def summarise(
    experiments: list[tuple[str, list[Record]]],
    joint: Sequence[Mapping[str, Value]] = (),
    floor: float = UTILITY_FLOOR,
) -> list[Row]:
    """Turn the records of a list into rows, base models first in each group.

    Args:
        experiments: title and finished runs of each entry; one that lacks some base models and forget sets yet stands
            in the table of those that have all of them.
        joint: by entry the metrics that belong to all of its runs together; none at all, or as many as entries.
        floor: of the rows.
    """
    load_metrics()
    whole = joint or [{}] * len(experiments)
    entries = [(*experiment, values) for experiment, values in zip(experiments, whole, strict=True) if experiment[1]]
    sources = [frozenset(map(group_of, records)) for _, records, _ in entries]
    holders: dict[Group, list[frozenset[Group]]] = {}
    for own in dict.fromkeys(sources):
        for cell in own:
            holders.setdefault(cell, []).append(own)
    widest = {own: max((other for other in holders[min(own)] if own <= other), key=len) for own in set(sources)}
    groups: dict[Group, list[_Entry]] = {}
    for entry, own in zip(entries, sources, strict=True):
        groups.setdefault(group_named(widest[own]), []).append(entry)
    rows = [row for group, members in groups.items() for row in _rows_within(group, members)]
    return [replace(row, floor=floor) for row in rows]


def _rows_within(group: Group, entries: list[_Entry]) -> list[Row]:
    """Make the rows of one group."""
    runs = [record for _, records, _ in entries for record in records]
    retrained = [run for run in runs if run.is_gold]
    gold, draws = _once_a_pair(_sample_of(retrained)), {run.id: _draw_of(run) for run in retrained}
    return _tested([_base_row(group, runs, gold, draws), *(_run_row(group, entry, gold, draws) for entry in entries)])


def _base_row(group: Group, records: list[Record], gold: Sample, draws: dict[str, Draw]) -> Row:
    """Summarise base models, each of which counts once, whatever the number of its forget sets and runs."""
    groups = Sample([run.base_metrics for run in records], [_draw_of(run) for run in records]).by_group
    sample = Sample(list(groups.values()), [(*group, 0) for group in groups])
    owners, distance = [base for base, _ in groups], _distance_of(sample, gold, records)
    return Row(
        title="base",
        group=group,
        kind="base",
        records=(),
        draws=tuple(sample.draws),
        estimates={name: estimate(means_by(sample.of(name), owners)) for name in sample.names},
        gaps=_gaps_of(sample, gold),
        gap=gap_estimate(distance) if distance else estimate([]),
        diverged=0,
        distance=distance,
        against=_against(sample, gold, records, _partnered(records, draws, base=True)),
    )


def _distance_of(sample: Sample, gold: Sample, records: Sequence[Record]) -> Distance | None:
    return distance_to(sample, gold, [_step_of(name, records) for name in GAP_METRICS])


def _run_row(group: Group, entry: _Entry, gold: Sample, draws: dict[str, Draw]) -> Row:
    """Summarise one experiment."""
    title, records, joint = entry
    kind = "retrain" if records[0].is_gold else "method"
    is_method = kind == "method"
    sample = _sample_of(records) if is_method else _once_a_pair(_sample_of(records))
    distance = _distance_of(sample, gold, records) if is_method else None
    floor = _without_spread(None if is_method else noise_floor(sample), len(records))
    estimates = {name: estimate(sample.of(name), sample.draws) for name in sample.names}
    together = {name: _without_spread(value, len(records)) for name, value in joint.items()}
    return Row(
        title=title,
        group=group,
        kind=kind,
        records=tuple(records),
        draws=tuple(sample.draws),
        estimates=estimates | together,
        gaps=_gaps_of(sample, gold) if is_method else (),
        gap=gap_estimate(distance) if distance else floor,
        diverged=sum(record.diverged for record in records),
        distance=distance,
        against=_against(sample, gold, records, _partnered(records, draws, base=False)) if is_method else {},
    )


def _without_spread(value: Value, runs: int) -> Estimate:
    """Make an estimate of what all runs give together."""
    return Estimate(value, None, 0 if value is None else runs, None, None)


def _tested(rows: list[Row]) -> list[Row]:
    """Compare the rows of a table with its best one, and adjust all tests for their number."""
    places = [(place, name) for place, row in enumerate(rows) for name in row.against]
    adjusted: list[dict[str, Comparison]] = [{} for _ in rows]
    for family in dict.fromkeys(_family(name) for _, name in places):
        members = [(place, name) for place, name in places if _family(name) == family]
        found = adjusted_by_holm([rows[place].against[name] for place, name in members])
        for (place, name), comparison in zip(members, found, strict=True):
            adjusted[place][name] = comparison
    rows = [
        replace(row, against={name: found[name] for name in row.against})
        for row, found in zip(rows, adjusted, strict=True)
    ]
    best = best_of(rows, rows[0].group)
    if best is None or best.distance is None:
        return rows
    others = [(row, row.distance) for row in rows if row.competes and row is not best and row.distance]
    tests = [(row, nearer(distance, best.distance)) for row, distance in others]
    known = [(row, comparison) for row, comparison in tests if comparison is not None]
    pairs = zip(known, adjusted_by_holm([comparison for _, comparison in known]), strict=True)
    behind = {id(row): comparison for (row, _), comparison in pairs}
    return [replace(row, behind=behind.get(id(row))) for row in rows]


def _family(name: str) -> str:
    """Which tests a metric's tests are adjusted with."""
    return "gap" if name in GAP_METRICS else "derived" if METRICS[name].derived else "other"


def floor_of(rows: list[Row], group: Group) -> float | None:
    """Look up how far one retrained model is from the mean of the others; None of fewer than two models."""
    gaps = [row.gap.mean for row in rows if row.group == group and row.kind == "retrain" and row.gap.mean is not None]
    return max(gaps, default=None)


def contenders(rows: list[Row], group: Group) -> list[Row]:
    """List the methods with an average gap, none of whose runs diverged."""
    methods = [row for row in rows if row.group == group and row.competes and not row.diverged]
    return [row for row in methods if row.gap.mean is not None]


def nearest(rows: list[Row], most: int) -> list[Row]:
    """Choose rows of a group that has many: base and retrained models, and the methods with the smallest average gaps.

    Args:
        rows: of a group.
        most: rows that are kept, unless base and retrained models are more.

    Returns:
        The rows that are kept, in their order; methods without a gap come last.
    """
    methods = [row for row in rows if row.kind == "method"]
    methods.sort(key=lambda row: math.inf if row.gap.mean is None else row.gap.mean)
    left_out = set(map(id, methods[max(0, most - len(rows) + len(methods)) :]))
    return [row for row in rows if id(row) not in left_out]


def best_of(rows: list[Row], group: Group) -> Row | None:
    """Find the method with the smallest average gap; None where nothing can be compared."""
    return min(contenders(rows, group), key=lambda row: row.gap.mean or 0.0, default=None)


def is_distinct(rows: list[Row], best: Row | None) -> bool:
    """Tell whether every other contender is farther than the best method; never of the only method."""
    if best is None:
        return False
    others, floor = [row for row in contenders(rows, best.group) if row is not best], floor_of(rows, best.group)
    return bool(others) and all(is_farther(row, floor) for row in others)


def is_farther(row: Row, floor: float | None) -> bool:
    """Tell whether a method's gap differs from the best one's beyond noise, and by more than the noise floor."""
    return row.behind is not None and row.behind.differs and row.behind.difference > (floor or 0.0)


def bold_of(rows: list[Row]) -> int | None:
    """Find the place of the best method's row, where it can be told from all others."""
    best = best_of(rows, rows[0].group)
    return next((place for place, row in enumerate(rows) if row is best and is_distinct(rows, row)), None)


def mixtures(rows: list[Row]) -> list[str]:
    """List, in a line each, devices and revisions where a table's runs were made on several."""
    runs = [record for row in rows for record in row.records]
    lines = []
    for what, found in (("devices", {run.device for run in runs}), ("revisions", {run.revision for run in runs})):
        if len(found) > 1:
            lines.append(f"the runs of this list were made on several {what}: {', '.join(sorted(found))}")
    return lines


def partly_known(rows: list[Row]) -> list[str]:
    """Say which figures are over fewer runs than their row."""
    lines = []
    for row in rows:
        whole = len(row.records) - row.diverged
        short = [name for name, value in row.estimates.items() if row.records and 0 < value.n < whole]
        if short:
            counts = sorted({str(row.estimates[name].n) for name in short})
            lines.append(f"{row.title}: {', '.join(short)}: only of {' or '.join(counts)} of {whole} runs")
    return lines


def ruined(rows: list[Row]) -> list[str]:
    """Say in a line how many runs lost more than the floor, and of which rows."""
    named = [row for row in rows if row.losses]
    if not named:
        return []
    count, whole = sum(len(row.losses) for row in named), sum(len(row.records) for row in rows)
    titles = ", ".join(dict.fromkeys(one_line(row.title) for row in named))
    advice = "docs/choosing.md tells what to change"
    return [f"{count} of {whole} run{'s' if whole > 1 else ''} {floor_text(named[0].floor)}: {titles}; {advice}"]


def grouped(rows: list[Row]) -> dict[Group, list[Row]]:
    """Gather rows by what they are compared within."""
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups
