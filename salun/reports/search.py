"""What a search found: the settings to take, what they owe to chance, and which of them mattered."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from salun.experiments.runner import Runner
from salun.experiments.search import Plan, Search, Trial
from salun.experiments.search_space import Study, read_studies
from salun.io.files import write_text
from salun.reports.formats import csv_table, html_table, markdown_table, text_table
from salun.reports.plots.search import draw_coordinates, draw_slices
from salun.reports.statistics import Estimate, estimate

_HEADINGS = ("entry", "trials", "chosen", "gap %", "second, gap % more", "passes at most", "what mattered")
_FEWEST = 4  # trials from which importances are computed
_SHARES = 100


@dataclass(frozen=True)
class Choice:
    """The settings that a search chose for an entry.

    Attributes:
        study: the entry.
        trials: all settings that were tried, the best first.
        finals: those that ran again, the best first.
        importance: share of the variance of the gap that a setting explains (fANOVA), by key, the largest first.
        budget: image passes that a run could take.
    """

    study: Study
    trials: tuple[Trial, ...]
    finals: tuple[Trial, ...]
    importance: dict[str, float]
    budget: int

    @property
    def best(self) -> Trial:
        """The settings chosen."""
        return self.finals[0]

    @property
    def lead(self) -> Estimate | None:
        """By how much the second best settings are worse, a fraction; its interval is over pairs of runs."""
        if len(self.finals) < 2:
            return None
        pairs = zip(self.finals[1].gaps, self.finals[0].gaps, strict=True)
        return estimate([second - first for second, first in pairs])

    @property
    def entry(self) -> dict[str, Any]:
        """The entry with the settings chosen, and the image passes that they were chosen for."""
        return self.study.entry | self.best.chosen | {"budget": self.budget}


def choices_of(search: Search) -> list[Choice]:
    """Run the finals of a search and gather what was found.

    Args:
        search: its trials are done.

    Returns:
        One choice for each study.

    Raises:
        SalunError: a file cannot be written.
    """
    trials, finals = search.trials(), search.finals()
    return [
        Choice(
            study,
            tuple(trials[study.number]),
            tuple(finals[study.number]),
            _importance(search.journal.of(study)),
            search.budget(study),
        )
        for study in search.studies
    ]


def chosen_entries(entries: Sequence[Any], choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Put the chosen settings into the entries of a list.

    Args:
        entries: that were searched; those of the method "retrain" stay as they are.
        choices: of the search.

    Returns:
        The entries of a list that runs as it is.
    """
    found = {choice.study.number: choice.entry for choice in choices}
    return [found.get(number, entry) for number, entry in enumerate(entries, 1)]


def search_settings(entries: Sequence[Any], source: str, plan: Plan, runner: Runner) -> tuple["Tuned", list[str]]:
    """Search the settings of entries, without a terminal.

    Args:
        entries: as JSON gives them.
        source: what the text of errors begins with.
        plan: how much is tried.
        runner: does and records the runs, with a context that is `tuning`.

    Returns:
        What was chosen, and a line for each run that failed.

    Raises:
        SalunErrors: every mistake in the entries, a line each.
        SalunError: data or checkpoints are refused.
    """
    search = Search(read_studies(entries, source), plan, runner, source)
    search.prepare()
    search.run(lambda trial: None)
    choices = choices_of(search)
    return Tuned(choices, chosen_entries(entries, choices), search.folder), search.notices


def _importance(journal: optuna.Study) -> dict[str, float]:
    """Compute by fANOVA how much each setting mattered; nothing where all trials were alike, or too few."""
    values = {trial.value for trial in journal.trials if trial.value is not None}
    if len(values) < _FEWEST:
        return {}
    with warnings.catch_warnings(action="ignore"):
        return get_param_importances(journal, evaluator=FanovaImportanceEvaluator(seed=0))


def lines_of(choices: Sequence[Choice]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Lay choices out as a table.

    Args:
        choices: of a search.

    Returns:
        Headings, and a line for each entry.
    """
    return _HEADINGS, [_line(choice) for choice in choices]


def _line(choice: Choice) -> list[str]:
    """Lay a choice out as text."""
    mattered = [f"{key} {_SHARES * share:.0f} %" for key, share in choice.importance.items()]
    second, lead = "–", choice.lead
    if lead is not None and lead.mean is not None:
        second = f"{100 * lead.mean:.2f}"
        if lead.low is not None and lead.high is not None:
            second += f" ({100 * lead.low:.2f} to {100 * lead.high:.2f})"
    figures = [f"{100 * choice.best.gap:.2f}", second, f"{choice.budget:,}"]
    return [choice.study.title, str(len(choice.trials)), chosen_text(choice.best), *figures, ", ".join(mattered) or "–"]


def chosen_text(trial: Trial) -> str:
    """Spell the settings of a trial out, numbers short and all else as in JSON."""
    return ", ".join(f"{key} {_shown(value)}" for key, value in trial.chosen.items())


def _shown(value: Any) -> str:
    """Print a setting: numbers short, all else as in JSON."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


@dataclass(frozen=True, repr=False)
class Tuned(Sequence[Choice]):
    """What a search chose for every entry of a list; prints as a table, also in a notebook.

    Attributes:
        choices: one for each entry but those of the method "retrain".
        entries: the list with the chosen settings, as `run` takes it.
        folder: where trials, tables and figures lie.
    """

    choices: list[Choice]
    entries: list[dict[str, Any]]
    folder: Path

    def __getitem__(self, place: int) -> Choice:  # type: ignore[override]
        return self.choices[place]

    def __len__(self) -> int:
        return len(self.choices)

    def __str__(self) -> str:
        return text_table(*lines_of(self.choices))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*lines_of(self.choices))


def write_choices(folder: Path, entries: Sequence[Any], out: Path, choices: Sequence[Choice]) -> list[Path]:
    """Write the list with the chosen settings, the table, and every trial.

    Args:
        folder: of the search.
        entries: with the chosen settings.
        out: for them.
        choices: of the search.

    Returns:
        The files.

    Raises:
        SalunError: a file cannot be written.
    """
    rows: list[list[object]] = [["entry", "trial", "settings", "gap", "gaps of its runs"]]
    for choice in choices:
        for trial in choice.trials:
            rows.append([choice.study.title, trial.number, json.dumps(trial.chosen), trial.gap, json.dumps(trial.gaps)])
    headings, lines = lines_of(choices)
    texts = {
        out: list_text(entries),
        folder / "summary.md": markdown_table(headings, lines, None) + "\n",
        folder / "trials.csv": csv_table(rows),
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def list_text(entries: Sequence[Any]) -> str:
    """Spell a list of experiments, a line an entry.

    Args:
        entries: as JSON holds them.
    """
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    return f"[\n{lines}\n]\n"


def figures_of(choice: Choice) -> dict[str, Figure]:
    """Draw the trials of a choice.

    Args:
        choice: of a search.

    Returns:
        Figures by name: "slices", and "coordinates" where several settings were searched.
    """
    title = f"{choice.study.title}: {len(choice.trials)} settings"
    settings, gaps = [trial.chosen for trial in choice.trials], [trial.gap for trial in choice.trials]
    logs = {key for key, one in choice.study.space.items() if getattr(one, "log", False)}
    drawn = {"slices": draw_slices, "coordinates": draw_coordinates}
    names = list(drawn)[: min(len(choice.study.space), 2)]
    return {name: drawn[name](title, settings, gaps, logs) for name in names}
