"""Lists of what there is: metrics and methods, from their registries."""

import json
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from salun.cli.console import plain_table, print_table
from salun.metrics import METRICS, Metric, load_metrics
from salun.registry import arguments_of, remarks_of
from salun.unlearning import METHODS, Method, load_methods

_SECTIONS = (
    ("From outputs that are there", "free"),
    ("Attacks, which fit something", "attack"),
    ("From the models themselves", "weights"),
    ("From many models", "many models"),
)
_ORIGINALS = "Original forms of corrected definitions"
_INTRODUCTION = """# Metrics

This page is written by `scripts/metrics_page` from what the code says of itself.

A metric is a function of a model's outputs (logits, labels) on the forget, retain, validation and test set, of those of
several runs, or of models themselves. Fractions are stored in [0, 1] and printed as percentages. Most metrics are good
not when they are high or low but when they *equal* the retrained model's value; the row of the retrained models in a
table shows how far two retrainings lie apart, which is as near as a method can come.

What compares a run with a retrained model takes the one of the run's own seed; a retrained model is compared with the
next. A membership score is always higher for a member; *efficacy* is the share called non-member.

Choose with `"metrics": [...]` in an entry or `--metrics`: names, or the sets `default`, `attacks` and `all`. Those that
need only outputs or kept weights are added to finished runs without running them again.

## The gap and its tests

- **Gap**: G = mean over UA, RA, TA and MIA of |m - r|, with m the mean over the method's runs and r the mean over the
  retrained models of the same base model and forget set. Papers compute it from their tables' means in the same way.
- **Interval**: from G - t s - 2.4 b to G + t s, cut at 0. s is the standard error of the signed mean of the four
  differences, with the variances of both sides (delta method: Oehlert 1992), t Student's quantile at Welch and
  Satterthwaite's degrees of freedom. b is the estimated bias: noise raises G as it raises the mean of a folded normal
  (Leone, Nelson and Nottingham 1961). Where the true distance is 0 the estimate finds 1/2.4 of it on average.
  `summary.json` holds b. An interval that begins at 0 means that the method was not told from retraining.
- **Noise floor**: the gap of `retrain` is that of each retrained model to the mean of the others, averaged. A method
  whose gap is below it is nearer to the mean of the retrained models than they are themselves.
- **Bold**: the method with the smallest gap, where every other one's gap is larger beyond noise and by more than the
  noise floor. In the test runs of one seed are pairs, the error of the retrained models counts in both gaps, and a
  difference within two standard errors of 0 may have either sign. It needs two retrained models.
- **Marks**: Welch's t-test of a method's values against the retrained models'. What compares with a retrained model
  (FQS, ToW, JS) is tested in pairs: run i and retrained model i both compare with retrained model i. With several
  base models or forget sets their means are pairs. Holm adjusts at 5 % over three families apart: UA, RA, TA and MIA;
  what repeats or combines them (TUA, TRA, ToW, ToW_MIA, AUS); all other metrics.
- **Rounding**: a share of few images moves in large steps and may repeat by chance, so a side's variance is taken to
  be at least that of rounding to one image.
- **Power**: the line below a table gives the true differences that 4 of 5 such tables would mark. A shift of 2 points
  in UA, at a standard deviation of 0.4, was marked in 17 to 23 % of simulated tables with 3 runs (10 and 4 methods),
  in 64 to 82 % with 4, in 91 to 97 % with 5, the default, and in 98 to 100 % with 6.

In simulation (500 tables for each of 120 cases: 3, 5 and 10 runs, four ratios of the noise of both sides, five
patterns of shifts, metrics independent and correlated) the interval held the true gap in 91 to 98 % of tables. Two
methods at the same distance were told apart in 1.5 % of all tables, and in 6.6 % in the worst case. `pytest -m slow
tests/reports/test_gap.py` repeats it."""
_METHODS_INTRODUCTION = """# Methods

This page is written by `scripts/methods_page` from what the code says of itself.

A method gets the base model, the images to forget, those to retain and those of the validation set, and edits the model
in place. Choose one with `"method"` in an entry; its settings are keys of the same entry, and the defaults are its
authors' values, for CIFAR-10 and ResNet-18 where there are several. They are not meant for other data: search before
you compare. *Deviations* says where the method here is not the paper's, or not the code's that its authors published.

With `"use_mask": true` a mask decides which weights may move while a method runs, whatever its optimiser or its edits
in place (`mask_thr`, `mask_score`, `load_mask`). Methods that train have `grad_clip`, the largest norm of a gradient;
null stands for none. With `"dual": true`, where a method has that setting, an optimiser of its own takes the steps
that forget."""


def print_metrics(console: Console) -> None:
    """Print every metric with unit, direction, ideal, cost and source.

    Args:
        console: where.
    """
    load_metrics()
    rows = [
        (found.name, _unit_of(found), found.direction, found.ideal, found.cost, _chosen_by(found), found.source)
        for found in METRICS.values()
    ]
    headings = ("metric", "unit", "good", "ideal", "cost", "in", "source")
    print_table(console, _filled("metrics", headings, rows))


def _unit_of(found: Metric) -> str:
    """Say what a metric's values are."""
    return found.unit or "number"


def _chosen_by(found: Metric) -> str:
    """Say which sets of metrics hold a metric."""
    if found.original:
        return ""
    sets = {"default": found.default, "attacks": found.cost == "attack", "all": True}
    return " ".join(name for name, holds in sets.items() if holds)


def print_methods(console: Console) -> None:
    """Print every method with its settings, whether it takes a mask, what it can forget, and its source.

    Args:
        console: where.
    """
    load_methods()
    rows = []
    for found in METHODS.values():
        settings = " ".join(f"{key}={_as_json(default)}" for key, (_, default) in found.settings.items())
        rows.append((_title_of(found), found.summary, _mask_of(found), _forgets_of(found), settings, found.source))
    headings = ("method", "what it does", "mask", "forgets", "settings", "source")
    print_table(console, _filled("methods", headings, rows))


def _title_of(found: Method) -> str:
    """Give a method's names."""
    return found.name + (f" ({found.alias})" if found.alias else "")


def _mask_of(found: Method) -> str:
    """Say whether a mask may hold weights while a method runs."""
    return "yes" if found.maskable else "no"


def _forgets_of(found: Method) -> str:
    """Say what a method can forget."""
    return "whole classes" if found.classwise else "any images"


def _as_json(value: object) -> str:
    """Show a setting's value as it stands in JSON."""
    return json.dumps(value)


def _filled(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """Lay texts out."""
    table = plain_table(title)
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def metrics_page() -> str:
    """Render the page of all metrics.

    Returns:
        Markdown text.
    """
    load_metrics()
    blocks = [_INTRODUCTION, _overview()]
    families = {found.family: found for found in METRICS.values()}
    for heading, cost in _SECTIONS:
        chosen = [found for found in families.values() if found.cost == cost and not found.original]
        blocks += [f"## {heading}", *map(_block_of, chosen)]
    originals = [found for found in families.values() if found.original]
    return "\n\n".join([*blocks, f"## {_ORIGINALS}", *map(_block_of, originals)]) + "\n"


def _overview() -> str:
    """Render all metrics as one table."""
    lines = ["| metric | unit | good | ideal | cost | in |", "| --- | --- | --- | --- | --- | --- |"]
    for found in METRICS.values():
        facts = (found.name, _unit_of(found), found.direction, found.ideal, found.cost, _chosen_by(found))
        lines.append(f"| {' | '.join(map(_escaped, facts))} |")
    return "\n".join(lines)


def _block_of(found: Metric) -> str:
    """Render one metric, or several that are computed together."""
    family = [METRICS[name] for name in found.family]
    ideals = list(dict.fromkeys(member.ideal for member in family))
    units = list(dict.fromkeys(map(_unit_of, family)))
    ideal = ideals[0] if len(ideals) == 1 else ", ".join(f"{member.name} {member.ideal}" for member in family)
    held = " and ".join(found.against)
    facts = {
        "Formula": found.formula,
        "Unit": ", ".join(units),
        "Good": f"{found.direction}; ideal: {ideal}",
        "Cost": found.cost + (f"; looks at the {held} model too" if held else ""),
        "In": _chosen_by(found).replace(" ", ", ") or "no set",
        "Cannot see": found.blind,
        "Source": found.source,
    }
    lines = "\n".join(f"- **{name}**: {_escaped(text)}" for name, text in facts.items())
    return f"### {', '.join(found.family)}\n\n{_escaped(found.summary)}\n\n{lines}"


def methods_page() -> str:
    """Render the page of all methods.

    Returns:
        Markdown text.
    """
    load_methods()
    lines = ["| method | what it does | mask | forgets |", "| --- | --- | --- | --- |"]
    for found in METHODS.values():
        facts = (_title_of(found), found.summary, _mask_of(found), _forgets_of(found))
        lines.append(f"| {' | '.join(map(_escaped, facts))} |")
    return "\n\n".join([_METHODS_INTRODUCTION, "\n".join(lines), *map(_method_block, METHODS.values())]) + "\n"


def _method_block(found: Method) -> str:
    """Render one method."""
    meanings = arguments_of(found.run)
    settings = [
        f"  - `{key}`, {_escaped(_as_json(default))}: {_escaped(meanings.get(key, ''))}"
        for key, (_, default) in found.settings.items()
    ]
    facts = {
        "Equation": found.equation,
        "Forgets": _forgets_of(found) + _limits_of(found),
        "Mask": _mask_of(found),
        "Deviations": found.deviations,
        "Source": found.source,
    }
    lines = [f"- **{name}**: {_escaped(text)}" for name, text in facts.items()]
    lines[1:1] = ["- **Settings**, with defaults:", *settings] if settings else ["- **Settings**: none"]
    introduction = "\n\n".join(map(_escaped, [found.summary, *remarks_of(found.run)]))
    return f"## {_escaped(_title_of(found))}\n\n{introduction}\n\n" + "\n".join(lines)


def _limits_of(found: Method) -> str:
    """Say what a method is not meant to do at its authors' settings."""
    forgetting = "" if found.forgets else "; a whole class it hardly forgets at its authors' settings"
    return forgetting + ("" if found.keeps else "; it does not keep the accuracy on the rest by itself")


def _escaped(text: str) -> str:
    """Keep formulas from being read as Markdown; names between backticks stay as they are."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_|<>\[\]~$])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
