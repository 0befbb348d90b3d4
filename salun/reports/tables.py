"""Tables of rows, for a terminal, programs, spreadsheets and papers."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from salun.errors import one_line
from salun.experiments.problem import Group
from salun.io.files import write_text
from salun.metrics import GAP_METRICS, METRICS
from salun.reports.formats import DIFFERS, LOST, NEARER, csv_table, escape_markdown, latex_table, markdown_table
from salun.reports.statistics import Comparison, Estimate
from salun.reports.summary import (
    Row,
    best_of,
    bold_of,
    contenders,
    floor_of,
    floor_text,
    grouped,
    is_distinct,
    is_farther,
)  # fmt: skip

_Best = tuple[Row | None, bool]
INTERVAL, SPREAD = "95 % interval", "standard deviations of the metrics"
_MOST_NAMED = 3


def columns_of(rows: list[Row]) -> list[str]:
    """List the metrics, no tables of their own, that some row has a value of: accuracies first, cost last."""
    able = [name for name in METRICS if METRICS[name].unit != "table"]
    shown = [name for name in able if any(row.value(name).n for row in rows)]
    first = ("UA", "UA_earlier", "RA", "VA", "TA", "TUA", "MIA")
    last = ("passes", "passes_total", "RTE", "RTE_total")
    others = [name for name in shown if name not in first + last]
    return [name for name in (*first, *others, *last) if name in shown]


def heading(name: str) -> str:
    """Title the column of a metric, or that of the interval."""
    if name == INTERVAL:
        return name
    unit = METRICS[name].unit
    return name if unit == "images" else f"{name} {unit}".rstrip()


def cell(value: Estimate, unit: str) -> str:
    """Print mean and spread, if any, in a metric's unit, as in "97.21±0.40"; "–" where there is no value."""
    if value.mean is None:
        return "–"
    factor = 100 if unit == "%" else 1
    digits = {"%": 2, "s": 2, "epochs": 1, "images": 0}.get(unit, 3)
    spread = "" if value.sd is None else f"±{value.sd * factor:.{digits}f}"
    return f"{value.mean * factor:.{digits}f}{spread}"


def _interval(gap: Estimate) -> str:
    """Print the 95 % interval of a gap, if any, in percent, as in "0.15–0.47"."""
    return "" if gap.low is None or gap.high is None else f"{100 * gap.low:.2f}–{100 * gap.high:.2f}"


def _mark_of(row: Row, name: str) -> str:
    """Say with marks that a value differs from the retrained models', and that a run lost too much of it."""
    found, fallen = row.against.get(name), f" {LOST}" if any(name in losses for losses in row.losses) else ""
    if found is None or not found.differs:
        return fallen
    better = {"higher": found.difference > 0, "lower": found.difference < 0}.get(METRICS[name].direction, False)
    return f" {NEARER if better and 'retrained' in METRICS[name].against else DIFFERS}{fallen}"


def lines_of(rows: list[Row], hidden: Collection[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Lay the rows of a group out as headings and lines of text, without hidden metrics, `INTERVAL` or `SPREAD`."""
    names = [name for name in columns_of(rows) if name not in hidden]
    with_interval = INTERVAL not in hidden and any(_interval(row.gap) for row in rows)
    headings = ["", *map(heading, names), "gap %", *[INTERVAL] * with_interval, "n"]
    lines = []
    for row in rows:
        values = {name: row.value(name) for name in names}
        if SPREAD in hidden:
            values = {name: replace(value, sd=None) for name, value in values.items()}
        figures = [cell(value, METRICS[name].unit) + _mark_of(row, name) for name, value in values.items()]
        gap = [cell(row.gap, "%"), *[_interval(row.gap)] * with_interval]
        lines.append([one_line(row.title), *figures, *gap, _count_of(row)])
    return headings, lines


def _count_of(row: Row) -> str:
    """Say over how many runs a row is."""
    if row.kind == "base":
        models = len({base for base, _, _ in row.draws})
        return f"{models} models" if models > 1 else ""
    epochs = sorted({record.diverged_epoch for record in row.records if record.diverged_epoch is not None})
    span = f" in epoch {'-'.join(map(str, dict.fromkeys([epochs[0], epochs[-1]])))}" if epochs else ""
    return str(len(row.records)) + (f" ({row.diverged} diverged{span})" if row.diverged else "")


def legend(rows: list[Row]) -> list[str]:
    """Explain a table: what is averaged over what, which method is nearest to retraining, what the marks mean."""
    lines = [f"{_over(rows)}; {_about_gap(rows)}"]
    best = best_of(rows, rows[0].group)
    verdict = [_verdict(rows, best)] if best else []
    return [*lines, *verdict, *_about_losses(rows), *_about_marks(rows), *_about_budget(rows), *_certified(rows)]


def _about_losses(rows: list[Row]) -> list[str]:
    """Explain the mark of runs that lost too much, and name their rows."""
    shown = [(row, row.losses) for row in rows if row.losses]
    if not shown:
        return []
    counts = ", ".join(f"{one_line(row.title)} ({len(losses)} of {len(row.records)})" for row, losses in shown)
    return [f"{LOST} {floor_text(shown[0][0].floor)}, by runs: {counts}"]


def _about_marks(rows: list[Row]) -> list[str]:
    """Explain the marks of a table, and how large a difference they could have shown."""
    if not any(row.against for row in rows):
        return []
    marks = [_mark_of(row, name) for row in rows for name in row.against]
    text = f"{DIFFERS} differs from retraining beyond noise"
    if any(NEARER in mark for mark in marks):
        text += f"; {NEARER} nearer to a retrained model than another retrained model is"
    lines = [f"{text} (t-tests, 5 %, Holm over UA, RA, TA and MIA of the table, and over its other metrics)"]
    found = {
        name: [row.against[name].detectable for row in rows if row.kind == "method" and name in row.against]
        for name in GAP_METRICS
    }
    sizes = {name: median(size for size in sizes if size is not None) for name, sizes in found.items() if any(sizes)}
    if sizes:
        shown = {name: "over 100" if size > 1 else f"{100 * size:.2f}" for name, size in sizes.items()}
        points = ", ".join(f"{name} {size}" for name, size in shown.items())
        lines.append(f"4 of 5 such tables would mark a true difference of {points} points (median over the methods)")
    return lines


def _about_budget(rows: list[Row]) -> list[str]:
    """Name the rows of which image passes do not say that they had one and the same budget to train with."""
    above, still = [], []
    given = [row for row in rows if row.records and row.records[0].settings.get("budget") is not None]
    for row in given:
        title, budget = one_line(row.title), row.records[0].settings["budget"]
        most = max(record.unlearning_passes or 0 for record in row.records)
        above += [f"{title} (up to {most} of {budget})"] if most > budget else []
        steps = [bool(record.curve) for record in row.records if "epochs" in record.settings["settings"]]
        still += [] if all(steps) else [title]
    lines = [f"image passes above the budget, by work that cannot be cut: {', '.join(above)}"] if above else []
    lines += [f"budget without room for a training step: {', '.join(still)}"] if still else []
    return lines + ["the budget does not hold for retraining"] * any(given and row.kind == "retrain" for row in rows)


def _certified(rows: list[Row]) -> list[str]:
    """Name the rows of certified methods, and what all of their runs guarantee."""
    lines = []
    for row in rows:
        found = [record.certificate for record in row.records if record.certificate]
        if found and len(found) == len(row.records):
            epsilon, delta = (max(one[name] for one in found) for name in ("epsilon", "delta"))
            lines.append(f"certified: {one_line(row.title)} (epsilon {epsilon:.3g}, delta {delta:.3g})")
    return lines


def _over(rows: list[Row]) -> str:
    """Say what a table's figures are means over."""
    drawn = [row.draws for row in rows if row.records]
    runs = sorted({len(draws) for draws in drawn})
    if runs == [1]:
        return "one run each"
    sources = ("base model", "forget set", "unlearning seed")
    counts = [max(len({draw[place] for draw in draws}) for draws in drawn) for place in range(len(sources))]
    varied = {source: count for source, count in zip(sources, counts, strict=True) if count > 1}
    what = " × ".join(f"{count} {source}s" for source, count in varied.items())
    shown = what if len(varied) > 1 else f"{next(iter(varied))} varied"
    text = f"mean ± standard deviation over {' to '.join(map(str, dict.fromkeys((runs[0], runs[-1]))))} runs: {shown}"
    shared = {source: count for source, count in varied.items() if source != sources[-1]}
    if len(varied) > 1:
        text += f"; intervals and tests over the {min(shared, key=lambda source: shared[source])}s"
    return text


def _about_gap(rows: list[Row]) -> str:
    """Say what the gap of a table is."""
    problem = "same base model and forget set"
    if not any(row.kind == "retrain" for row in rows):
        return f"no gap without a 'retrain' entry of the {problem}"
    text = "gap: mean distance of mean UA, RA, TA and MIA to retraining's"
    if any(row.kind == "retrain" and row.records[0].settings.get("leave_out") for row in rows):
        text += " without any corrupted image"
    if len({draw[:2] for row in rows for draw in row.draws}) > 1:
        text += f" with the {problem}"
    if any(row.gap.low is not None for row in rows):
        text += ", raised by noise; where its interval begins at 0, not told from retraining"
    if floor_of(rows, rows[0].group) is not None:
        text += "; of retrain: noise floor, one retrained model against the mean of the others"
    return text


def _verdict(rows: list[Row], best: Row) -> str:
    """Say whether the best method can be told from the others."""
    others = [row for row in contenders(rows, best.group) if row is not best]
    text = f"nearest to retraining: {one_line(best.title)}"
    untested = [one_line(row.title) for row in others if row.behind is None]
    floor = floor_of(rows, best.group)
    close = [(row.behind.adjusted, one_line(row.title)) for row in others if row.behind and not row.behind.differs]
    if not others:
        return f"{text}, with no other method to tell it from"
    if len(untested) == len(others):
        return f"{text}; {_untested_because(rows, [best, *others])}: no test"
    if is_distinct(rows, best):
        return f"{text}, distinguishable from all others (in bold)"
    shown = [f"{title} (p {p:.2g})" for p, title in sorted(close, reverse=True)]
    within = [one_line(row.title) for row in others if row.behind and row.behind.differs and not is_farther(row, floor)]
    parts = [f"not distinguishable from {_enumerated(shown)}"] if shown else []
    parts += [f"nearer than {_enumerated(within)} by less than the noise floor"] if within else []
    parts += [f"not tested against {_enumerated(untested)}"] if untested else []
    return f"{text}, {'; '.join(parts)}"


def _untested_because(rows: list[Row], methods: list[Row]) -> str:
    """Say why no two methods of a table could be compared."""
    if all(len(row.draws) == 1 for row in methods):
        return "one run each"
    return "too few runs" if floor_of(rows, rows[0].group) is not None else "one retrained model only"


def _enumerated(names: list[str]) -> str:
    """List names, of many the first."""
    rest = len(names) - _MOST_NAMED
    more = f" and {rest} other{'s' if rest > 1 else ''}" if rest > 0 else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def group_titles(rows: list[Row]) -> dict[Group, str]:
    """Name model, data set and forget set of each group in one line, and what else tells it from other groups."""
    alike: dict[str, list[Group]] = {}
    for group, members in grouped(rows).items():
        alike.setdefault(_problem_of(members), []).append(group)
    titles = {}
    for title, groups in alike.items():
        bases, forgets = (len(set(names)) > 1 for names in zip(*groups, strict=True))
        for base, forget in groups:
            more = f"; base model: {base}" * bases + f"; forget set: {forget}" * forgets
            titles[base, forget] = one_line(title + more)
    return titles


def _problem_of(rows: list[Row]) -> str:
    """Describe a forgetting problem."""
    first = next(record for row in rows for record in row.records)
    settings, train = first.settings, first.split["train"]
    bases, forgets = (len({draw[place] for row in rows for draw in row.draws}) for place in (0, 1))
    sizes = sorted({record.split["forget"] for row in rows for record in row.records})
    text = f"{settings['base']['model']} on {settings['base']['dataset']}"
    if corrupt := settings["base"].get("corrupt"):
        text += f" with {100 * corrupt['share']:g} % corrupted ({_corruption_of(corrupt)})"
    text += f" ({bases} base models)" if bases > 1 else ""
    text += f", forgetting {settings['forget']['request']}"
    text += f" ({forgets} forget sets)" if forgets > 1 else ""
    before = len(settings["forget"].get("earlier", ()))
    text += f" after {before} request{'s' if before > 1 else ''}" if before else ""
    return f"{text}: {' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} of {train} images"


def _corruption_of(described: dict[str, Any]) -> str:
    """Name a corruption, as in "trigger, target 0"."""
    parts = [described["kind"]]
    parts += [f"target {described['target']}"] if "target" in described else []
    parts += [f"classes {' and '.join(map(str, described['classes']))}"] if "classes" in described else []
    return ", ".join(parts + ([f"seed {described['seed']}"] if described["seed"] else []))


def write_summaries(folder: Path, rows: list[Row], wide: bool = False) -> list[Path]:
    """Write `summary.json`, `.csv`, `.md` and `.tex`.

    Args:
        folder: that holds them.
        rows: of the table.
        wide: whether to write `summary_wide.csv` too, with a line an experiment; one that is there is kept up to date.

    Returns:
        The paths of the files.

    Raises:
        SalunError: they cannot be written.
    """
    texts = {"summary.json": _as_json(rows), "summary.csv": as_long_csv(rows)}
    texts |= {"summary_wide.csv": as_csv(rows)} if wide or (folder / "summary_wide.csv").exists() else {}
    texts |= {"summary.md": as_markdown(rows), "summary.tex": _as_latex(rows)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _as_json(rows: list[Row]) -> str:
    """Render rows for programs: fractions and seconds, every run with its gap."""
    titles, bests = group_titles(rows), _bests_of(rows)
    described = (_described(row, titles[row.group], bests[row.group]) for row in rows)
    return "[\n" + ",\n".join(map(_row_as_json, described)) + "\n]\n"


def _row_as_json(described: dict[str, Any]) -> str:
    """Write what is known of a row over several lines, and each of its runs in one."""
    runs = [json.dumps(run, allow_nan=False) for run in described["runs"]]
    others = {key: value for key, value in described.items() if key != "runs"}
    head = json.dumps(others, indent=1, allow_nan=False).removesuffix("\n}")
    return head + ',\n "runs": [' + ",".join(f"\n  {run}" for run in runs) + "]\n}"


def _described(row: Row, problem: str, best: _Best) -> dict[str, Any]:
    """Gather all that is known of a row."""
    gaps = row.gaps if row.kind == "method" and row.gaps else (None,) * len(row.records)
    runs = [
        {"id": record.id, "base": base, "forget": forget, "seed": seed, "metrics": record.metrics, "gap": gap}
        | ({"diverged_epoch": record.diverged_epoch} if record.diverged else {})
        | ({"certificate": record.certificate} if record.certificate else {})
        for record, (base, forget, seed), gap in zip(row.records, row.draws[: len(row.records)], gaps, strict=True)
    ]
    return {
        "title": row.title,
        "kind": row.kind,
        "problem": problem,
        "settings": row.records[0].settings if row.records else None,
        **_sources_of(row),
        "metrics": {name: vars(value) for name, value in row.estimates.items()},
        "against_retrained": {name: _numbers_of(comparison) for name, comparison in row.against.items()},
        "average_gap": vars(row.gap) | {"bias": row.distance.bias if row.distance else None},
        "behind_best": _numbers_of(row.behind) if row.behind else None,
        "diverged": row.diverged,
        "lost": len(row.losses),
        **_standing_of(row, best),
        "runs": runs,
    }


def _bests_of(rows: list[Row]) -> dict[Group, _Best]:
    """Find the best method of each group, and whether it can be told from all others."""
    bests = {group: (members, best_of(members, group)) for group, members in grouped(rows).items()}
    return {group: (best, is_distinct(members, best)) for group, (members, best) in bests.items()}


def _standing_of(row: Row, best: _Best) -> dict[str, bool]:
    """Say how a row stands among those of its group."""
    return {"best": row is best[0], "distinct": row is best[0] and best[1]}


def _sources_of(row: Row) -> dict[str, int]:
    """Count what a row's runs were drawn from."""
    bases, forgets, seeds = (len(set(found)) for found in zip(*row.draws, strict=True))
    return {"base_models": bases, "forget_sets": forgets, "seeds": seeds if row.records else 0}


def _numbers_of(comparison: Comparison) -> dict[str, float | bool | None]:
    """Lay a comparison out."""
    reach = comparison.half_width
    return {
        "difference": comparison.difference,
        "low": None if reach is None else comparison.difference - reach,
        "high": None if reach is None else comparison.difference + reach,
        "detectable": comparison.detectable,
        "p": comparison.p,
        "adjusted_p": comparison.adjusted,
        "n": comparison.n,
        "differs": comparison.differs,
    }


def as_long_csv(rows: list[Row]) -> str:
    """Render rows for a data frame, in fractions and seconds: a line an experiment and metric, with its test.

    Args:
        rows: each gives a line a metric that it has a value of, and one of "gap", which is tested against the best one.

    Returns:
        The table; `low` and `high` are ends of the 95 % interval, `test` says what the values were tested against.
    """
    parts = ("difference", "difference_low", "difference_high", "p", "adjusted_p", "differs")
    columns = ["problem", "title", "kind", "base_models", "forget_sets", "seeds", "best", "distinct"]
    lines: list[list[object]] = [[*columns, "metric", "mean", "sd", "n", "low", "high", "test", *parts]]
    names, titles, bests = columns_of(rows), group_titles(rows), _bests_of(rows)
    for row in rows:
        standing = _standing_of(row, bests[row.group])
        known = [titles[row.group], row.title, row.kind, *_sources_of(row).values(), *standing.values()]
        tested = [(name, row.value(name), row.against.get(name), "retrained") for name in names]
        for name, value, found, against in [*tested, ("gap", row.gap, row.behind, "best")]:
            if value.n:
                numbers = _numbers_of(found) if found else {}
                test = [against, *(numbers[part.removeprefix("difference_")] for part in parts)] if found else []
                lines.append([*known, name, *vars(value).values(), *(test or [None] * 7)])
    return csv_table(lines)


def as_csv(rows: list[Row], shown: Sequence[str] = ()) -> str:
    """Render rows for a spreadsheet, in fractions and seconds, with comparisons `_vs_retrained_` and `_vs_best_`.

    Args:
        rows: a line each.
        shown: metrics; none for all that some row has.
    """
    names, titles, bests = shown or columns_of(rows), group_titles(rows), _bests_of(rows)
    lines = []
    for row in rows:
        line: dict[str, Any] = {"problem": titles[row.group], "title": row.title, "kind": row.kind}
        line |= _sources_of(row) | _standing_of(row, bests[row.group])
        for name, value in [*((name, row.value(name)) for name in names), ("gap", row.gap)]:
            line |= {f"{name}_{part}": number for part, number in vars(value).items()}
        tests = {f"{name}_vs_retrained": row.against.get(name) for name in names} | {"gap_vs_best": row.behind}
        for name, comparison in tests.items():
            line |= {f"{name}_{part}": number for part, number in _numbers_of(comparison).items()} if comparison else {}
        lines.append(line)
    columns = list(dict.fromkeys(column for line in lines for column in line))
    return csv_table([columns, *([line.get(column) for column in columns] for line in lines)])


def as_markdown(rows: list[Row]) -> str:
    """Render rows for a README, the best method of each group in bold where it can be told from the others."""
    blocks, titles = [], group_titles(rows)
    for group, members in grouped(rows).items():
        headings, lines = lines_of(members)
        table = markdown_table(headings, lines, bold_of(members))
        words = [escape_markdown(line) for line in (titles[group], *legend(members))]
        blocks.append("\n\n".join([words[0], table, *words[1:]]) + "\n")
    return "\n".join(blocks)


def _as_latex(rows: list[Row]) -> str:
    """Render rows for a paper, in bold what Markdown has in bold."""
    blocks, titles = [], group_titles(rows)
    for group, members in grouped(rows).items():
        headings, lines = lines_of(members)
        table = latex_table(headings, lines, bold_of(members))
        words = [f"% {line}" for line in (titles[group], *legend(members))]
        blocks.append("\n".join([words[0], table, *words[1:]]) + "\n")
    return "\n".join(blocks)
