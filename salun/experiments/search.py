"""A search for settings: trials of equal number and cost, on validation images and problems that are not reported."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from salun.errors import SalunError
from salun.experiments import records
from salun.experiments.executors.executor import RunFailure
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.record import Record
from salun.experiments.runner import Runner
from salun.experiments.schema import validate
from salun.experiments.search_journal import Journal
from salun.experiments.search_space import Study
from salun.io.locks import LOCKS, POLL, Locks
from salun.metrics import GAP_METRICS
from salun.training.progress import Callback, no_callback

# Added to the seeds of base models, forget sets and runs, so that none of a search is of the runs that are reported.
_APART = 1_000_000
_CELL = 1000  # seeds between the runs of one cell and the next
_FINAL = 500  # seeds between a trial's run and those of a finalist: a lucky run is not counted again
_RETRAINED = 3
_WORST = 1.0  # the gap of a trial that diverged or failed
_JOURNAL = "journal.log"
_PROBLEM_KEYS = (
    *("checkpoint", "model", "dataset", "recipe", "split_seed", "base_seed", "forget_seed", "stratified", "indices_in"),
    *("class_to_forget", "unlearning_rate", "idxs_to_forget"),
)


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        study: of which they are.
        number: from 0.
        chosen: the values that were tried, by key.
        gaps: average gap to retraining by cell and run; fractions.
    """

    study: Study
    number: int
    chosen: dict[str, Any]
    gaps: tuple[float, ...]

    @property
    def gap(self) -> float:
        """The mean gap, a fraction."""
        return sum(self.gaps) / len(self.gaps)


@dataclass(frozen=True)
class Plan:
    """How much is tried.

    Attributes:
        trials: settings of each study.
        cells: base models, each with a forget set of its own where a share is forgotten.
        finalists: the best settings of each study, which are run again.
        repeats: runs of a finalist in each cell.
        budget: image passes of a run; None for those of retraining.
        seed: of what is tried.
    """

    trials: int = 20
    cells: int = 2
    finalists: int = 3
    repeats: int = 3
    budget: int | None = None
    seed: int = 0


@dataclass
class Search:
    """Searches the settings of all entries of a list side by side.

    Attributes:
        studies: what is searched.
        plan: how much is tried.
        runner: does and records the runs, with a context that is `tuning`.
        source: the list, as the text of errors begins.
    """

    studies: Sequence[Study]
    plan: Plan
    runner: Runner
    source: str
    callback_for: Callable[[Job], Callback] = lambda job: no_callback
    notices: list[str] = field(default_factory=list)
    _standards: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict, repr=False)
    _budgets: dict[int, int] = field(default_factory=dict)

    def prepare(self) -> None:
        """Check every entry, and retrain the models that trials are compared with.

        Raises:
            SalunErrors: data, checkpoints or forget sets are refused.
            SalunError: a retrained model cannot be had.
        """
        cells = list(product(self.studies, range(self.plan.cells)))
        jobs = self._planned([_standard(study, cell) for study, cell in cells], _RETRAINED)
        for job in jobs:
            epochs, images = job.problem.spec.known_recipe.epochs, len(job.problem.split.retain)
            self._budgets[cells[job.experiment.number - 1][0].number] = 2 * epochs * images
        self._planned([self._entry(study, study.first, 0) for study in self.studies])
        records = self._run(jobs)
        for number, (study, cell) in enumerate(cells, 1):
            found = (records.get(job.id) for job in jobs if job.experiment.number == number)
            values = [record.metrics for record in found if record is not None and not record.diverged]
            if not values:
                raise SalunError(f"{study.title}: its retrained models failed or diverged; nothing to compare with")
            self._standards[study.number, cell] = {
                name: sum(float(each[name] or 0.0) for each in values) / len(values) for name in GAP_METRICS
            }

    def run(self, told: Callable[[Trial], None]) -> None:
        """Do the trials that are missing; several processes may do them together.

        Args:
            told: is called with each trial that this process did.

        Raises:
            SalunError: a file cannot be written.
        """
        with Locks(self.folder / LOCKS) as locks:
            while True:
                claimed = self._claimed(locks)
                if claimed:
                    self._do(claimed, locks, told)
                elif any(map(self.journal.running, self.studies)):
                    time.sleep(POLL)  # other processes do the last ones
                else:
                    return

    def trials(self) -> dict[int, list[Trial]]:
        """List what was tried.

        Returns:
            By the entry's number its settings, each once, the best first.
        """
        found: dict[tuple[int, str], tuple[Study, FrozenTrial]] = {}
        for study in self.studies:
            for trial in self.journal.complete(study):
                found.setdefault((study.number, json.dumps(trial.params, sort_keys=True)), (study, trial))
        return self._measured([(study, trial.number, trial.params) for study, trial in found.values()])

    def finals(self) -> dict[int, list[Trial]]:
        """Run the best settings of each study again, with other seeds.

        Returns:
            By the entry's number its finalists, the best first, with the gaps of all their runs.
        """
        best = [trial for trials in self.trials().values() for trial in trials[: self.plan.finalists]]
        return self._measured([(trial.study, trial.number, trial.chosen) for trial in best], self.plan.repeats, _FINAL)

    def _measured(
        self, settings: list[tuple[Study, int, dict[str, Any]]], runs: int = 1, later: int = 0
    ) -> dict[int, list[Trial]]:
        """Do the runs of settings that are not recorded yet, and gather their gaps, the best settings first."""
        places = [(*one, cell) for one in settings for cell in range(self.plan.cells)]
        entries = [self._entry(study, chosen, cell) for study, _, chosen, cell in places]
        jobs = self._planned([entry | {"seed": entry["seed"] + later} for entry in entries], runs)
        records = self._run(jobs)
        gaps: dict[tuple[int, int], list[float]] = {}
        for job in jobs:
            study, number, _, cell = places[job.experiment.number - 1]
            gaps.setdefault((study.number, number), []).append(self._gap(study, cell, records.get(job.id)))
        found: dict[int, list[Trial]] = {study.number: [] for study in self.studies}
        for study, number, chosen in settings:
            found[study.number].append(Trial(study, number, chosen, tuple(gaps[study.number, number])))
        return {key: sorted(trials, key=lambda trial: (trial.gap, trial.number)) for key, trials in found.items()}

    def budget(self, study: Study) -> int:
        """Tell the image passes that a run of a study may take: those of retraining, if nothing less is asked for."""
        limits = (self.plan.budget, study.experiment.budget)
        return min([*(limit for limit in limits if limit is not None)] or [self._budgets[study.number]])

    @property
    def folder(self) -> Path:
        """The folder of the search."""
        return self.runner.path.parent

    @cached_property
    def journal(self) -> Journal:
        """The trials of all processes, once `prepare` knows the budgets; what decides a trial is in a study's name."""
        names = {}
        for study in self.studies:
            space = {key: [type(one).__name__, one._asdict()] for key, one in study.space.items()}
            deciding = [study.entry, space, self.plan.cells, self.budget(study), self.plan.seed]
            digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]
            names[study.number] = f"{study.number} {study.title} {digest}"
        return Journal(self.folder / _JOURNAL, names, self.plan.trials, self.plan.seed)

    def _claimed(self, locks: Locks) -> list[tuple[Study, FrozenTrial]]:
        """Take trials that a process left undone, then new ones: of each study one, or as many as find room."""
        claimed: list[tuple[Study, FrozenTrial]] = []
        share = -(-max(self.runner.jobs, 1) // len(self.studies))
        with locks.holding("trials"):
            for study in self.studies:
                left = [trial for trial in self.journal.running(study) if locks.take(_lock(study, trial.number))]
                for trial in left[share:]:
                    locks.release(_lock(study, trial.number))
                mine = left[:share]
                while len(mine) < share and (asked := self.journal.ask(study)) is not None:
                    locks.take(_lock(study, asked.number))
                    mine.append(asked)
                claimed += [(study, trial) for trial in mine]
        return claimed

    def _do(self, claimed: list[tuple[Study, FrozenTrial]], locks: Locks, told: Callable[[Trial], None]) -> None:
        """Run trials in every cell, and write their gaps into the journal."""
        found = self._measured([(study, trial.number, trial.params) for study, trial in claimed])
        for study, frozen in claimed:
            trial = next(trial for trial in found[study.number] if trial.number == frozen.number)
            self.journal.of(study).tell(trial.number, trial.gap)
            locks.release(_lock(study, trial.number))
            told(trial)

    def _entry(self, study: Study, chosen: Mapping[str, Any], cell: int) -> dict[str, Any]:
        """Spell a trial out as an entry of a list."""
        limits = {"budget": self.budget(study), "metrics": list(GAP_METRICS)}
        return _placed(study.entry | dict(chosen) | limits, cell)

    def _planned(self, entries: list[dict[str, Any]], runs: int = 1) -> list[Job]:
        """Validate entries and plan their runs."""
        return plan(validate(entries, self.source), Repeats(runs), self.runner.cache, self.source) if entries else []

    def _run(self, jobs: list[Job]) -> dict[str, Record]:
        """Do the runs that are not recorded yet; those that fail are told of, and have no record."""
        for job, outcome in self.runner.run(jobs, self.callback_for):
            if isinstance(outcome, RunFailure):
                self.notices.append(f"{job.experiment.title}: failed: {outcome.reason}")
        return records.read(self.runner.path)[0]

    def _gap(self, study: Study, cell: int, record: Record | None) -> float:
        """Compute the average gap of a run to the retrained models of its cell."""
        values = {} if record is None or record.diverged else record.metrics
        if any(values.get(name) is None for name in GAP_METRICS):
            return _WORST
        standard = self._standards[study.number, cell]
        return sum(abs(float(values[name] or 0.0) - standard[name]) for name in GAP_METRICS) / len(GAP_METRICS)


def _standard(study: Study, cell: int) -> dict[str, Any]:
    """Spell out the retrained models that the trials of a cell are compared with."""
    entry = {key: study.entry[key] for key in _PROBLEM_KEYS if key in study.entry}
    return _placed(entry | {"method": "retrain", "metrics": list(GAP_METRICS)}, cell)


def _placed(entry: dict[str, Any], cell: int) -> dict[str, Any]:
    """Put an entry on the base model and the forget set of a cell."""
    elsewhere: dict[str, Any] = {"seed": _APART + _CELL * cell}
    if entry.get("checkpoint") is None:
        elsewhere["base_seed"] = (entry.get("base_seed") or 0) + _APART + cell
    if entry.get("unlearning_rate") is not None:
        elsewhere["forget_seed"] = (entry.get("forget_seed") or 0) + _APART + cell
    return entry | elsewhere


def _lock(study: Study, number: int) -> str:
    """Name the lock of a trial."""
    return f"trial-{study.number}-{number}"
