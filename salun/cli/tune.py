"""`salun-tune`: search the settings of every entry of a list, with trials of equal number and cost."""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from salun.cli import entry
from salun.cli.console import make_console, plain_table, print_table
from salun.cli.experiments import check_executor, context_of
from salun.cli.progress import Display
from salun.cli.status import INTERRUPTED, SOME_FAILED, check_folder, notice
from salun.cli.viz.figures import FigureWriter
from salun.errors import one_line
from salun.experiments.context import ModelCache
from salun.experiments.executors.cluster import RayRequest
from salun.experiments.runner import Runner
from salun.experiments.search import Plan, Search, Trial
from salun.experiments.search_space import Study, read_studies
from salun.experiments.source import check_source, find_list, keeping_source, results_name
from salun.io.files import name_part
from salun.io.limits import read_plain
from salun.reports.plots.style import styled
from salun.reports.search import Choice, choices_of, chosen_entries, chosen_text, figures_of, lines_of, write_choices

main = entry.tune

_PROGRAM = "salun-tune"
_FOLDER = "tune"
_LEGEND = (
    "gap: mean distance of UA, RA, TA and MIA to retrained models, where validation images stand in the place of test "
    "images; base models, forget sets and seeds are none of those that salun-unlearn takes",
    "second: by how much the second best settings are worse, with a 95 % interval over runs; where it holds 0, the "
    "choice between them is chance",
)


def run(flags: argparse.Namespace) -> int:
    """Check everything, do the trials that are missing, and write what was found."""
    check_executor(flags)
    source = find_list(flags.load)
    content, name = read_plain(Path(source)), results_name(flags.name, source)
    entries = content if isinstance(content, list) else [content]
    studies = read_studies(entries, source)
    folder = Path(flags.runs) / _FOLDER / name
    out = Path(flags.out) if flags.out else folder / "tuned.json"
    check_folder("--runs", folder)
    check_folder("--out", out.parent)
    check_source(folder, source)
    search = Search(studies, _plan_of(flags), _runner_of(flags, studies, folder, name), source)
    try:
        with keeping_source(folder, source), Display(make_console(), lines=False) as display:
            search.callback_for = lambda job: display.callback(job.experiment.title, len(job.problem.split.train))
            search.prepare()
            _try(search, display)
            choices = choices_of(search)
    except KeyboardInterrupt:
        notice(f"{_PROGRAM}: interrupted: every finished run is recorded; the same command does the rest")
        return INTERRUPTED
    for line in search.notices:
        notice(f"{_PROGRAM}: {line}")
    _show(choices, folder, source)
    for path in write_choices(folder, chosen_entries(entries, choices), out, choices):
        print(path)
    return SOME_FAILED if search.notices else 0


def _plan_of(flags: argparse.Namespace) -> Plan:
    """Take from the flags how much is tried."""
    return Plan(flags.trials, flags.cells, flags.finalists, flags.repeats, flags.budget, flags.seed)


def _runner_of(flags: argparse.Namespace, studies: list[Study], folder: Path, name: str) -> Runner:
    """Make what does the runs, on validation images alone."""
    context = replace(context_of(flags, [study.experiment.model for study in studies]), tuning=True)
    ray = None if flags.ray is None else RayRequest(flags.ray, flags.gpus_per_run, flags.jobs, flags.device)
    weights = Path(flags.checkpoints) / _FOLDER / name
    return Runner(ModelCache(context), folder / "records.jsonl", weights, "none", flags.jobs or 1, ray)


def _try(search: Search, display: Display) -> None:
    """Do the trials that are missing, and print each."""
    journal, best = search.journal, dict[int, float]()
    asked = sum(map(journal.asked, search.studies))

    def told(trial: Trial) -> None:
        number = trial.study.number
        best[number] = min(trial.gap, best.get(number, trial.gap))
        title = f"{one_line(trial.study.title)}, trial {trial.number + 1}: {chosen_text(trial)}"
        done = sum(len(journal.complete(study)) for study in search.studies)
        line = f"[{done}/{asked}] {title}: gap {100 * trial.gap:.2f} %; best {100 * best[number]:.2f} %"
        display.console.print(line, highlight=False, markup=False, soft_wrap=True)

    search.run(told)


def _show(choices: list[Choice], folder: Path, source: str) -> None:
    """Print the table, and write the figures."""
    table = plain_table(f"{source}: settings by {sum(len(choice.trials) for choice in choices)} trials")
    headings, lines = lines_of(choices)
    for column, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if column in (1, 3, 5) else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    print_table(make_console(), table)
    print("\n".join(_LEGEND))
    figures = FigureWriter(folder, ".png", 150)
    with styled():
        for choice in choices:
            for name, figure in figures_of(choice).items():
                figures.keep(figure, Path(name_part(f"{choice.study.number}_{choice.study.title}_{name}")))
