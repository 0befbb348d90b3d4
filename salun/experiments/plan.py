"""The runs of a list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from salun.data.download import AbsentData
from salun.errors import SalunError, SalunErrors
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.experiments.problem import ForgettingProblem, Group, base_spec, check_problem
from salun.experiments.record import resolved_settings, run_id
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
    def group(self) -> Group:
        """Base model and forget set, of which an experiment may have several."""
        return self.problem.group


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


def plan(experiments: Sequence[Experiment], repeats: Repeats, cache: ModelCache, source: str) -> list[Job]:
    """Read and check everything that the experiments need, and list their runs; nothing is trained.

    Args:
        experiments: validated entries.
        repeats: how many runs of each experiment, base models and forget sets.
        cache: keeps data sets and base models.
        source: what the text of errors begins with.

    Returns:
        The runs, experiment by experiment.

    Raises:
        AbsentData: data are absent, and the cache's context forbids fetching them.
        SalunErrors: data, checkpoints, forget sets or masks are refused, a line an experiment.
    """
    jobs, wrong = [], []
    for experiment in experiments:
        try:
            jobs += _jobs_of(experiment, repeats, cache)
        except AbsentData:
            raise
        except SalunError as error:
            where = source if source == "command line" else f"{source}: {experiment.place}"
            wrong.append(f"{where}: {error}")
    if wrong:
        raise SalunErrors(wrong)
    asked: dict[Group, set[tuple[str, ...]]] = {}
    for job in jobs:
        asked.setdefault(job.group, set()).add(job.experiment.metrics)
    return [_with_metrics_on_weights(job, asked[job.group]) for job in jobs]


def _jobs_of(experiment: Experiment, repeats: Repeats, cache: ModelCache) -> list[Job]:
    """List the runs of one experiment."""
    jobs: list[Job] = []
    for drawn in _drawn(experiment, repeats, cache):
        problem = check_problem(drawn, cache)
        settings = resolved_settings(drawn, problem)
        for place in range(repeats.runs):
            seed, number = drawn.seed + place, len(jobs) + 1
            jobs.append(Job(drawn, problem, seed, number, number == repeats.total, run_id(settings, seed)))
    return jobs


def _drawn(experiment: Experiment, repeats: Repeats, cache: ModelCache) -> list[Experiment]:
    """Spell an experiment out for every base model and forget set."""
    if repeats.bases > 1 and experiment.checkpoint is not None:
        raise SalunError(f"--nbase {repeats.bases}: a checkpoint is one base model; name model and dataset instead")
    if repeats.forgets > 1 and not experiment.forget.is_drawn:
        told = f"{experiment.forget} is one forget set; only a share is drawn, at random or as the worst"
        raise SalunError(f"--nforget {repeats.forgets}: {told}")
    first = experiment.base_seed
    if repeats.bases > 1 and first is None:
        recipe = base_spec(experiment, cache).recipe
        first = recipe.seed if recipe else 0
    drawn = []
    for base, forget in product(range(repeats.bases), range(repeats.forgets)):
        request = replace(experiment.forget, seed=experiment.forget.seed + forget)
        seed = None if first is None else first + base
        drawn.append(experiment.model_copy(update={"base_seed": seed, "forget": request}))
    return drawn


def _with_metrics_on_weights(job: Job, asked: set[tuple[str, ...]]) -> Job:
    """Ask a retrained model for the metrics on weights that compare others with it, so that its weights are kept."""
    if not job.experiment.is_gold:
        return job
    names = dict.fromkeys(name for metrics in sorted(asked) for name in check_metrics(metrics))
    compared = [name for name in names if METRICS[name].subject is Models and "retrained" in METRICS[name].against]
    own = check_metrics(job.experiment.metrics)
    if set(compared) <= set(own):
        return job
    metrics = tuple(dict.fromkeys([*own, *compared]))
    return replace(job, experiment=job.experiment.model_copy(update={"metrics": metrics}))


def untrained(jobs: Sequence[Job]) -> dict[str, ForgettingProblem]:
    """List the base models that runs need and that are in no file yet.

    Args:
        jobs: runs to do.

    Returns:
        A problem of each by the base model's identity.
    """
    specs = ((job.problem, job.problem.spec) for job in jobs)
    return {spec.identity: problem for problem, spec in specs if spec.checkpoint is None and not spec.path.exists()}
