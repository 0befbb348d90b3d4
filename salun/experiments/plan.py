"""The runs of a list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from salun.data.download import AbsentData
from salun.data.split import ForgetRequest
from salun.device import derived_seed
from salun.errors import ListErrors, SalunError, SalunErrors
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.experiments.problem import ForgettingProblem, Group, base_spec, check_problem
from salun.experiments.record import resolved_settings, run_id
from salun.metrics import METRICS, Models, check_metrics

_OF_EARLIER = ("UA_earlier", "UA_by_request", "RTE_total", "passes_total")


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
        parent: id of the run of the request before, which is done first; None of a first request.
        is_followed: whether a run of the next request comes after it.
    """

    experiment: Experiment
    problem: ForgettingProblem
    seed: int
    number: int
    last: bool
    id: str
    parent: str | None = None
    is_followed: bool = False

    @property
    def start(self) -> str | None:
        """Id of the run whose model it starts from; None where that is the base model, or a new one."""
        return None if self.experiment.method == "retrain" else self.parent

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
    jobs, wrong = list[Job](), list[tuple[str, str]]()
    for experiment in experiments:
        try:
            jobs += _jobs_of(experiment, repeats, cache)
        except AbsentData:
            raise
        except SalunError as error:
            lines = error.lines if isinstance(error, SalunErrors) else [str(error)]
            wrong += [(experiment.place, line) for line in lines]
    if wrong:
        raise ListErrors(source, wrong)
    asked: dict[Group, set[tuple[str, ...]]] = {}
    for job in jobs:
        asked.setdefault(job.group, set()).add(job.experiment.metrics)
    return [_with_metrics_on_weights(job, asked[job.group]) for job in jobs]


def _jobs_of(experiment: Experiment, repeats: Repeats, cache: ModelCache) -> list[Job]:
    """List the runs of one experiment."""
    jobs: list[Job] = []
    first = 0
    for drawn in _drawn(experiment, repeats, cache):
        parents: list[str | None] = [None] * repeats.runs
        steps = _steps_of(drawn)
        for step in steps:
            problem = check_problem(step, cache)
            settings = resolved_settings(step, problem)
            for place in range(repeats.runs):
                seed, number = step.seed + place, first + place + 1
                one, is_last = run_id(settings, seed), number == repeats.total
                jobs.append(Job(step, problem, seed, number, is_last, one, parents[place], step is not steps[-1]))
                parents[place] = one
        first += repeats.runs
    return jobs


def _steps_of(experiment: Experiment) -> list[Experiment]:
    """Spell an experiment out for each of its requests: those after the first are asked for the earlier forget sets."""
    if not experiment.requests:
        return [experiment]
    steps = []
    for step, request in enumerate(experiment.requests, 1):
        metrics = experiment.metrics if step == 1 else (*check_metrics(experiment.metrics), *_OF_EARLIER)
        given = {"forget": request, "step": step, "metrics": tuple(dict.fromkeys(metrics))}
        steps.append(experiment.model_copy(update=given))
    return steps


def _drawn(experiment: Experiment, repeats: Repeats, cache: ModelCache) -> list[Experiment]:
    """Spell an experiment out for every base model and forget set."""
    if repeats.bases > 1 and experiment.checkpoint is not None:
        raise SalunError(f"--nbase {repeats.bases}: a checkpoint is one base model; name model and dataset instead")
    requests = experiment.requests or (experiment.forget,)
    if repeats.forgets > 1 and not any(request.is_drawn for request in requests):
        told = f"{experiment.forgetting} is one forget set; only a share is drawn, at random or as the worst"
        raise SalunError(f"--nforget {repeats.forgets}: {told}")
    first = experiment.base_seed
    if repeats.bases > 1 and first is None:
        recipe = base_spec(experiment, cache).recipe
        first = recipe.seed if recipe else 0
    drawn = []
    for base, forget in product(range(repeats.bases), range(repeats.forgets)):
        request = replace(experiment.forget, seed=experiment.forget.seed + forget)
        apart = tuple(_drawn_apart(other, forget, step) for step, other in enumerate(experiment.requests))
        seed = None if first is None else first + base
        drawn.append(experiment.model_copy(update={"base_seed": seed, "forget": request, "requests": apart}))
    return drawn


def _drawn_apart(request: ForgetRequest, forget: int, step: int) -> ForgetRequest:
    """Seed a share of one of several requests, the first of them as if it were the only one."""
    if request.share is None:
        return request
    seed = request.seed + forget
    return replace(request, seed=derived_seed("request", step + 1, seed) if step else seed)


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
