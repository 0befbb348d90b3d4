"""`salun-audit`: attack methods with many shadow models."""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from salun.cli import entry
from salun.cli.console import make_console, plain_table, print_table
from salun.cli.progress import Display
from salun.cli.status import INTERRUPTED, check_folder, notice
from salun.cli.steps import watched
from salun.cli.viz.figures import FigureWriter
from salun.device import pick_device, settle_threads
from salun.errors import SalunError
from salun.experiments.advice import about_problem
from salun.experiments.audit import BASE, FEWEST, Audit, Auditor, audits_of, name_of
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.schema import load_experiments
from salun.experiments.source import check_source, find_list, keeping_source, results_name
from salun.io.files import write_text
from salun.reports.audit import Verdict, judge
from salun.reports.labels import told_apart
from salun.reports.plots.roc import draw_roc
from salun.reports.plots.style import styled
from salun.reports.roc import Roc

main = entry.audit

_PROGRAM = "salun-audit"
_MOST_SHADOWS = 10_000
_HEADINGS = ("", "U-LiRA AUC", "TPR at 0.1 % FPR", "at 1 % FPR", "LiRA AUC", "KLoM forget", "retain", "test", "shadows")
_LEGEND = (
    "U-LiRA: forgotten images against the same images in retrained models; LiRA: against images that the same model "
    "never saw",
    "AUC is good at 0.5, with its 95 % bootstrap interval over images and models; TPR of U-LiRA is good at the FPR; "
    "KLoM (nats) is good at retrain's own",
    "RULI is LiRA with kernel densities; what it finds on images alone is good at retrain's own, which chance raises",
)


def run(flags: argparse.Namespace) -> int:
    """Check everything, do what is missing, attack, and show what was found."""
    if flags.shadows % 2 or not FEWEST <= flags.shadows <= _MOST_SHADOWS:
        raise SalunError(f"--shadows {flags.shadows}: must be an even number from {FEWEST} to {_MOST_SHADOWS}")
    device, figures = pick_device(flags.device, flags.deterministic), FigureWriter.of(flags)
    source = find_list(flags.load)
    experiments, name = load_experiments(Path(source)), results_name(flags.name, source)
    folder, weights = Path(flags.runs) / name, Path(flags.checkpoints) / name
    check_folder("--runs", folder)
    check_folder("--checkpoints", weights)
    check_source(folder, source)
    context = RunContext(device, Path(flags.data_dir), Path(flags.checkpoints), skip_corrupt=flags.skip_corrupt)
    cache = ModelCache(context)
    auditor = Auditor(cache, folder / "audit", weights / "shadows")
    audits = audits_of(experiments, cache, source)
    for line in dict.fromkeys(line for one in audits for line in about_problem(one.pool.problem)):
        notice(f"{_PROGRAM}: {line}")
    with keeping_source(folder, source):
        status = _do_missing(auditor, audits, flags.shadows, source)
    if status == 0:
        _conclude(auditor, audits, flags.shadows, figures, name, folder / "audit.json")
    return status


def _do_missing(auditor: Auditor, audits: Sequence[Audit], shadows: int, source: str) -> int:
    """Train and unlearn what is not kept; stop in good order when interrupted."""
    missing = [auditor.missing(one, shadows) for one in audits]
    whole, left = sum(shadows * len(one.named) for one in audits), sum(map(len, missing))
    print(f"{source}: {whole} models, {whole - left} of them kept, on {auditor.cache.context.device}", flush=True)
    try:
        _do_models(auditor, audits, missing)
    except KeyboardInterrupt:
        kept = whole - sum(len(auditor.missing(one, shadows)) for one in audits)
        notice(f"{_PROGRAM}: interrupted: {kept} of {whole} models are kept; the same command does the rest")
        return INTERRUPTED
    return 0


def _do_models(auditor: Auditor, audits: Sequence[Audit], missing: Sequence[list[tuple[int, str]]]) -> None:
    """Train and unlearn the models that are missing, with progress."""
    begun, done, count = time.perf_counter(), 0, sum(map(len, missing))
    with Display(make_console(), lines=False) as display:
        for one, wanted in zip(audits, missing, strict=True):
            settle_threads(one.pool.problem.dataset.size)
            images, titles = len(one.pool.problem.split.train), _titles_of(one)
            for model in auditor.go(one, wanted, partial(display.callback, images=images)):
                done += 1
                left = (time.perf_counter() - begun) / done * (count - done)
                what = "trained" if model.experiment is None else titles[one.experiments.index(model.experiment)]
                line = f"[{done}/{count}] shadow model {model.number}: {what} in {model.seconds:.1f} s"
                line = f"{line}; about {left:.0f} s left"
                display.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _titles_of(audit: Audit) -> list[str]:
    """Name the experiments of an audit so that no two are called alike."""
    titles = told_apart({experiment.number: (experiment, ("", "")) for experiment in audit.experiments})
    return [titles[experiment.number] for experiment in audit.experiments]


def _conclude(
    auditor: Auditor, audits: Sequence[Audit], shadows: int, figures: FigureWriter, name: str, path: Path
) -> None:
    """Attack all models, print tables, write figures and verdicts."""
    console, content = make_console(), []
    for number, one in enumerate(audits, 1):
        verdicts = _verdicts_of(auditor, one, shadows)
        place = Path(name) / ("audit" if len(audits) == 1 else f"audit_{number}")
        _show(console, figures, str(one), verdicts, place)
        content.append({"problem": str(one), "methods": [verdict.plain() for verdict in verdicts]})
    print("\n".join(_LEGEND))
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(path)


def _verdicts_of(auditor: Auditor, audit: Audit, shadows: int) -> list[Verdict]:
    """Attack every method of an audit, and the models that unlearned nothing."""
    pool, experiments = audit.pool, audit.experiments
    names = [BASE, *(name_of(experiment, pool) for experiment in experiments)]
    retrained, verdicts = auditor.margins(pool, names[1], shadows), []
    with watched("attacking", len(names)) as step:
        for place, (name, title) in enumerate(zip(names, ["base", *_titles_of(audit)], strict=True)):
            models = retrained if place == 1 else auditor.margins(pool, name, shadows)
            verdicts.append(judge(pool, title, models, retrained))
            step()
    return verdicts


def _show(console: Console, figures: FigureWriter, title: str, verdicts: Sequence[Verdict], place: Path) -> None:
    """Print the table and write the figure of an audit."""
    table = plain_table(title)
    for column, heading in enumerate(_HEADINGS):
        table.add_column(Text(heading), justify="right" if column else "left", overflow="fold")
    for verdict in verdicts:
        table.add_row(*map(Text, _table_row(verdict)))
    print_table(console, table)
    for verdict in verdicts:
        if verdict.ruli is not None:
            low, high = verdict.ruli.interval
            alone = f"on one image in 20 alone above {verdict.ruli_image:.3f}"
            print(f"{verdict.title}: RULI AUC {verdict.ruli.auc:.3f}, from {low:.3f} to {high:.3f}; {alone}")
    curves = [(verdict.title, verdict.ulira) for verdict in verdicts if verdict.ulira is not None]
    if curves:
        with styled():
            figures.keep(draw_roc(f"U-LiRA: {title}", curves), place)
    else:
        notice("no method has finite margins; no figure")


def _table_row(verdict: Verdict) -> list[str]:
    """Lay a verdict out as text."""
    curve, alone = verdict.ulira, verdict.lira
    if curve is None or alone is None:
        return [verdict.title, *["–"] * (len(_HEADINGS) - 2), f"{verdict.shadows} ({verdict.diverged} diverged)"]
    rates = [f"{100 * rate:.2f} %" for rate in curve.tpr_at.values()]
    distances = (verdict.klom_forget, verdict.klom_retain, verdict.klom_test)
    numbers = ["–" if value is None else f"{value:.2f}" for value in distances]
    return [verdict.title, _with_interval(curve), *rates, _with_interval(alone), *numbers, str(verdict.shadows)]


def _with_interval(curve: Roc) -> str:
    """Print an area with its interval."""
    low, high = curve.interval
    return f"{curve.auc:.3f} [{low:.3f}, {high:.3f}]"
