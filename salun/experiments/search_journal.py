"""The journal of a search: Optuna's studies, one for each entry, in a file that several processes share."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from salun.device import derived_seed
from salun.experiments.search_space import Study


@dataclass
class Journal:
    """Trials by study, of all processes.

    Attributes:
        path: of the file.
        names: of the studies, by entry number; another name is another study.
        trials: that a study is to have.
        seed: of what is tried.
    """

    path: Path
    names: dict[int, str]
    trials: int
    seed: int

    def of(self, study: Study) -> optuna.Study:
        """Open the study of an entry."""
        return self._opened[study.number]

    def running(self, study: Study) -> list[FrozenTrial]:
        """List the trials that processes are at, or were at when they ended."""
        return self._in_state(study, TrialState.RUNNING)

    def complete(self, study: Study) -> list[FrozenTrial]:
        """List the trials that are done."""
        return self._in_state(study, TrialState.COMPLETE)

    def asked(self, study: Study) -> int:
        """Count the trials that a study is to have: no more than it has settings."""
        grid = _grid(study)
        return self.trials if grid is None else min(self.trials, grid)

    def ask(self, study: Study) -> FrozenTrial | None:
        """Choose settings by TPE, or where only lists are given and all of them find room, the next of the grid.

        Args:
            study: of an entry.

        Returns:
            A trial that is running now; None where the study has all its trials.
        """
        number, opened, grid = len(self.running(study)) + len(self.complete(study)), self.of(study), _grid(study)
        if number >= self.asked(study):
            return None
        if not self._in_state(study, TrialState.WAITING):
            if grid is not None and grid <= self.trials:
                choices = [one.choices for one in study.space.values() if isinstance(one, CategoricalDistribution)]
                opened.enqueue_trial(dict(zip(study.space, list(product(*choices))[number], strict=True)))
            elif number == 0 and study.begins:
                opened.enqueue_trial(study.first)
        seed = derived_seed("search", str(study.number), self.seed + number)
        opened.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        asked = opened.ask(study.space).number
        return next(trial for trial in self.running(study) if trial.number == asked)

    def _in_state(self, study: Study, state: TrialState) -> list[FrozenTrial]:
        """List the trials in a state."""
        return self.of(study).get_trials(deepcopy=False, states=(state,))

    @cached_property
    def _opened(self) -> dict[int, optuna.Study]:
        """Open the file."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(self.path), lock_obj=JournalFileOpenLock(str(self.path))))
        return {
            number: optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            for number, name in self.names.items()
        }


def _grid(study: Study) -> int | None:
    """Count the settings of a study that lists values alone."""
    choices = [one.choices for one in study.space.values() if isinstance(one, CategoricalDistribution)]
    return prod(map(len, choices)) if len(choices) == len(study.space) else None
