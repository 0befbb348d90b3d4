"""The runs of a list."""

from dataclasses import dataclass, replace
from itertools import product

from salun.errors import SalunError, SalunErrors
from salun.experiments.config import Experiment
from salun.experiments.record import ForgettingProblem, Group, resolved_settings, run_id
from salun.experiments.run import Workbench
from salun.metrics import METRICS, Models, check_metrics


@dataclass(frozen=True)
class Job:
    """One run of a list.

    Attributes:
        experiment: what to do.
        problem: what to do it to.
        seed: of the run.
        number: of the run within its experiment, from 1.
        last: whether it is its experiment's last.
        id: of its record.
    """

    experiment: Experiment
    problem: ForgettingProblem
    seed: int
    number: int
    last: bool
    id: str

    @property
    def base(self) -> str:
        """The base model's identity."""
        return self.problem.spec.identity

    @property
    def cell(self) -> Group:
        """Base model and forget set, of which an experiment may have several."""
        return self.base, self.problem.split.forget_fingerprint


@dataclass(frozen=True)
class Repeats:
    """How often each source of randomness is drawn, for each experiment of a list.

    Attributes:
        runs: seeds of the unlearning; run i uses seed + i.
        bases: base models; number i is trained with the base seed + i.
        forgets: forget sets; number i is drawn with the forget seed + i.
    """

    runs: int
    bases: int = 1
    forgets: int = 1

    @property
    def total(self) -> int:
        """Runs of one experiment: every base model with every forget set with every seed."""
        return self.runs * self.bases * self.forgets


def _cells_of(experiment: Experiment, repeats: Repeats, bench: Workbench) -> list[Experiment]:
    """Spell an experiment out for every base model and forget set."""
    if repeats.bases > 1 and experiment.checkpoint is not None:
        raise SalunError(f"--nbase {repeats.bases}: a checkpoint is one base model; name model and dataset instead")
    if repeats.forgets > 1 and experiment.forget.share is None:
        raise SalunError(f"--nforget {repeats.forgets}: {experiment.forget} is one forget set; only a share is drawn")
    first = experiment.base_seed
    if repeats.bases > 1 and first is None:
        recipe = bench.spec(experiment).recipe
        first = recipe.seed if recipe else 0
    cells = []
    for base, forget in product(range(repeats.bases), range(repeats.forgets)):
        request = replace(experiment.forget, seed=experiment.forget.seed + forget)
        cells.append(replace(experiment, base_seed=None if first is None else first + base, forget=request))
    return cells


def plan(experiments: list[Experiment], repeats: Repeats, bench: Workbench, source: str) -> list[Job]:
    """Load and check everything that the experiments need, and list their runs.

    Args:
        experiments: validated entries.
        draws: how many runs of each experiment, base models and forget sets.
        bench: loads data and checkpoints.
        source: what the text of errors begins with.

    Returns:
        The runs, experiment by experiment.

    Raises:
        SalunErrors: data, checkpoints, forget sets or masks are refused, a line an experiment.
    """
    jobs, wrong = [], []
    for experiment in experiments:
        try:
            jobs += _jobs_of(experiment, repeats, bench)
        except SalunError as error:
            where = source if source == "command line" else f"{source}: entry {experiment.number}"
            wrong.append(f"{where}: {error}")
    if wrong:
        raise SalunErrors(wrong)
    entries: dict[Group, set[tuple[str, ...]]] = {}
    for job in jobs:
        entries.setdefault(job.cell, set()).add(job.experiment.metrics)
    return [_asked_as_standard(job, entries[job.cell]) for job in jobs]


def _asked_as_standard(job: Job, entries: set[tuple[str, ...]]) -> Job:
    """Ask a retrained model for the metrics of weights that compare others with it, so that its weights are kept."""
    if job.experiment.method != "retrain":
        return job
    asked = dict.fromkeys(name for metrics in sorted(entries) for name in check_metrics(metrics))
    with_references = [
        name for name in asked if METRICS[name].subject is Models and "retrained" in METRICS[name].against
    ]
    own = check_metrics(job.experiment.metrics)
    if set(with_references) <= set(own):
        return job
    return replace(job, experiment=replace(job.experiment, metrics=tuple(dict.fromkeys([*own, *with_references]))))


def _jobs_of(experiment: Experiment, repeats: Repeats, bench: Workbench) -> list[Job]:
    """List the runs of one experiment."""
    jobs: list[Job] = []
    for cell in _cells_of(experiment, repeats, bench):
        problem = bench.problem(cell)
        settings = resolved_settings(cell, problem)
        for place in range(repeats.runs):
            seed, number = cell.seed + place, len(jobs) + 1
            jobs.append(Job(cell, problem, seed, number, number == repeats.total, run_id(settings, seed)))
    return jobs


def untrained(jobs: list[Job]) -> dict[str, tuple[Experiment, ForgettingProblem]]:
    """List the base models that runs need and that are in no file yet.

    Args:
        jobs: runs to do.

    Returns:
        By identity, an experiment on each, and its problem.
    """
    origins = ((job, job.problem.spec) for job in jobs)
    return {
        spec.identity: (job.experiment, job.problem)
        for job, spec in origins
        if spec.checkpoint is None and not spec.path.exists()
    }
