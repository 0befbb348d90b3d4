"""Many runs: what is to be done, what is done already, and doing the rest, in turn or side by side."""

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from salun import records
from salun.claims import CLAIMS, POLL, Claims
from salun.cluster import Cluster, RayRequest
from salun.data.split import ForgetRequest
from salun.errors import SalunError, SalunErrors
from salun.experiment import Experiment, MaskRequest, PruneRequest
from salun.files import sweep, write_text
from salun.metrics import METRICS, Evaluation, Models, Runs, Value, check_metrics
from salun.outputs import OUTPUTS, kept_outputs, outputs_path, write_outputs
from salun.parallel import Alone, Hands, Lost, Order, Outcome, Pool
from salun.resume import STATES
from salun.rows import Group, Row, group_named, group_of, summarise
from salun.run import Problem, Record, Workbench, identify, parted, resolved, save_with_forget, weights_name
from salun.training import Watch

Keep = Literal["all", "last", "none"]
WatchFor = Callable[["Job"], Watch]

FAILED = "failed"

logger = logging.getLogger("salun")


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
    problem: Problem
    seed: int
    number: int
    last: bool
    id: str

    @property
    def base(self) -> str:
        """The base model's identity."""
        return self.problem.origin.identity

    @property
    def cell(self) -> Group:
        """Base model and forget set, of which an experiment may have several."""
        return self.base, self.problem.parts.forget_fingerprint


@dataclass(frozen=True)
class Draws:
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


def cells_of(experiment: Experiment, draws: Draws, bench: Workbench) -> list[Experiment]:
    """Spell an experiment out for every base model and forget set.

    Args:
        experiment: a validated entry.
        draws: how many of each.
        bench: knows the base model's own seed.

    Returns:
        One experiment a cell.

    Raises:
        SalunError: the entry names a checkpoint or a fixed forget set, of which there is only one.
    """
    if draws.bases > 1 and experiment.checkpoint is not None:
        raise SalunError(f"--nbase {draws.bases}: a checkpoint is one base model; name model and dataset instead")
    if draws.forgets > 1 and experiment.forget.share is None:
        raise SalunError(f"--nforget {draws.forgets}: {experiment.forget} is one forget set; only a share is drawn")
    first = experiment.base_seed
    if draws.bases > 1 and first is None:
        recipe = bench.origin(experiment).recipe
        first = recipe.seed if recipe else 0
    cells = []
    for base, forget in product(range(draws.bases), range(draws.forgets)):
        request = replace(experiment.forget, seed=experiment.forget.seed + forget)
        cells.append(replace(experiment, base_seed=None if first is None else first + base, forget=request))
    return cells


def plan(experiments: list[Experiment], draws: Draws, bench: Workbench, source: str) -> list[Job]:
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
            jobs += jobs_of(experiment, draws, bench)
        except SalunError as error:
            where = source if source == "command line" else f"{source}: entry {experiment.number}"
            wrong.append(f"{where}: {error}")
    if wrong:
        raise SalunErrors(wrong)
    entries: dict[Group, set[tuple[str, ...]]] = {}
    for job in jobs:
        entries.setdefault(job.cell, set()).add(job.experiment.metrics)
    return [asked_as_standard(job, entries[job.cell]) for job in jobs]


def asked_as_standard(job: Job, entries: set[tuple[str, ...]]) -> Job:
    """Ask a retrained model for the metrics of weights that compare others with it, so that its weights are kept.

    Args:
        job: a run.
        entries: the metrics of each experiment on its base model and forget set.

    Returns:
        The run; of a retrained model with those metrics besides its own.
    """
    if job.experiment.method != "retrain":
        return job
    asked = dict.fromkeys(name for metrics in sorted(entries) for name in check_metrics(metrics))
    compared = [name for name in asked if METRICS[name].subject is Models and "retrained" in METRICS[name].against]
    own = check_metrics(job.experiment.metrics)
    if set(compared) <= set(own):
        return job
    return replace(job, experiment=replace(job.experiment, metrics=tuple(dict.fromkeys([*own, *compared]))))


def jobs_of(experiment: Experiment, draws: Draws, bench: Workbench) -> list[Job]:
    """List the runs of one experiment.

    Args:
        experiment: a validated entry.
        draws: how many of each source of randomness.
        bench: loads data and checkpoints.

    Returns:
        The runs, cell by cell.

    Raises:
        SalunError: data, checkpoint, forget set or mask are refused.
    """
    jobs: list[Job] = []
    for cell in cells_of(experiment, draws, bench):
        problem = bench.problem(cell)
        settings = resolved(cell, problem)
        for place in range(draws.runs):
            seed, number = cell.seed + place, len(jobs) + 1
            jobs.append(Job(cell, problem, seed, number, number == draws.total, identify(settings, seed)))
    return jobs


@dataclass
class Runner:
    """Does the runs of a list.

    Attributes:
        bench: data sets and base models.
        path: `records.jsonl` of the list.
        weights: folder for unlearned models.
        keep: which of them are kept.
        parallel: how many runs are done side by side; a single one is done in this process.
        plugins: files that were run in this process, for others that are to do runs.
        ray: what is asked of a cluster, where one is to do the runs.
    """

    bench: Workbench
    path: Path
    weights: Path
    keep: Keep = "last"
    parallel: int = 1
    plugins: tuple[Path, ...] = ()
    ray: RayRequest | None = None

    @property
    def beside(self) -> bool:
        """Whether runs may be done side by side."""
        return self.parallel > 1 or self.ray is not None

    def go(self, jobs: list[Job], watch_for: WatchFor) -> Iterator[tuple[Job, Record | Lost]]:
        """Do the runs that are not finished, and record each as it ends.

        Other processes may be at work on the same list: each run is done by the one that claims it, and all wait until
        the last is recorded.

        Args:
            jobs: all runs of the list.
            watch_for: gives the watch of a run.

        Yields:
            Each run that this process did, with its record, or where it failed with the reason.

        Raises:
            SalunError: a file cannot be written.
        """
        self.tidy()
        log = records.Log(self.path)
        log.refresh()
        pending = [job for job in jobs if not self.is_finished(job, log.found)]
        under_way: dict[str, Job] = {}
        with Claims(self.path.parent / CLAIMS) as claims, self.hands(len({job.id for job in pending})) as hands:
            barren = hands.prepare(untrained(pending))
            lost = [(job, barren[job.base]) for job in pending if job.base in barren]
            yield from ((job, self.settled(job, outcome, claims, log)) for job, outcome in lost)
            pending = [job for job in pending if job.base not in barren]
            waited = False
            while pending or under_way:
                while hands.free() and (job := self.next_claimed(pending, under_way, hands, claims, log)) is not None:
                    under_way[job.id] = job
                    hands.take(self.order(job, log.found), job.problem, watch_for(job))
                if under_way:
                    number, outcome = hands.finished()
                    job = under_way.pop(number)
                    recorded = self.settled(job, outcome, claims, log)
                    claims.release(number)
                    yield job, recorded
                elif pending:
                    if not waited:
                        logger.warning("%s: waiting for other processes, which do the last runs", self.path.parent)
                    waited = True
                    time.sleep(POLL)
            claims.sweep()

    def tidy(self) -> None:
        """Remove what processes that were killed left half-written."""
        places = self.path.parent, self.path.parent / OUTPUTS, self.weights
        for folder in (*places, self.bench.checkpoints, self.bench.checkpoints / STATES):
            sweep(folder)

    def next_claimed(
        self, pending: list[Job], under_way: Container[str], hands: Hands, claims: Claims, log: records.Log
    ) -> Job | None:
        """Claim the run that is to be done next.

        Args:
            pending: runs that are left; loses the one that is taken, and those that are recorded by now.
            under_way: ids of those that are being done; the same run is not begun twice.
            hands: who is to do it.
            claims: of this list.
            log: the records.

        Returns:
            Of the runs that fit best, the first that no other process has; None where there is none.
        """
        able = [job for job in pending if job.id not in under_way]
        ranks = {cell: hands.rank(cell) for cell in {job.cell for job in able}}
        taken, over = None, set()
        log.refresh()
        for job in sorted(able, key=lambda job: ranks[job.cell]):
            if self.is_finished(job, log.found):
                over.add(id(job))
                continue
            if not claims.take(job.id):
                continue
            over.add(id(job))
            log.refresh()
            if not self.is_finished(job, log.found):
                taken = job
                break
            claims.release(job.id)
        pending[:] = [job for job in pending if id(job) not in over]
        return taken

    def trace_of(self, job: Job) -> Path:
        """Name the file that tells where a run failed.

        Args:
            job: the run.

        Returns:
            Its path.
        """
        return self.path.parent / FAILED / f"{job.id}.txt"

    def settled(self, job: Job, outcome: Outcome | Lost, claims: Claims, log: records.Log) -> Record | Lost:
        """Record what a run gives, or keep the trace of its failure.

        Args:
            job: the run.
            outcome: what came of it.
            claims: of this list.
            log: the records.

        Returns:
            The record, or what was lost.

        Raises:
            SalunError: a file cannot be written.
        """
        trace = self.trace_of(job)
        if isinstance(outcome, Lost):
            if outcome.trace:
                write_text(trace, outcome.trace)
            return outcome
        if not claims.holds(job.id):
            return Lost("another process took it over, as this one stood still for long")
        record = self.recorded(job, outcome, log.found)
        self.bench.forget_state(job.id)
        with suppress(OSError):
            trace.unlink()
            trace.parent.rmdir()
        return record

    def hands(self, runs: int) -> Hands:
        """Choose who does the runs.

        Args:
            runs: how many there are.

        Returns:
            This process, or as many others as are asked for and have something to do, here or on a cluster.
        """
        if self.ray is not None:
            return Cluster(self.bench, self.plugins, self.ray, runs)
        if self.parallel == 1:
            return Alone(self.bench)
        return Pool(self.bench, self.plugins, min(self.parallel, runs))

    def order(self, job: Job, done: dict[str, Record]) -> Order:
        """Say what is to be done.

        Args:
            job: the run.
            done: records by id.

        Returns:
            The order, for all metrics that the run's record has to hold.
        """
        experiment = with_metrics_of(done.get(job.id), job.experiment)
        weights = self.keep == "all" or (self.keep == "last" and job.last) or needs_weights(experiment)
        return Order(experiment, job.seed, job.id, weights)

    def recorded(self, job: Job, outcome: Outcome, done: dict[str, Record]) -> Record:
        """Write what a run gives, its record last.

        Args:
            job: the run.
            outcome: what it gives.
            done: records by id; gets the new one.

        Returns:
            The record.

        Raises:
            SalunError: a file cannot be written.
        """
        record = outcome.record
        if outcome.checkpoint is not None:
            save_with_forget(self.weights / weights_name(record), outcome.checkpoint, job.problem.parts)
        self.keep_outputs(record, outcome.evaluation)
        done[job.id] = with_comparisons_of(done.get(job.id), record)
        records.append(self.path, done[job.id])
        return done[job.id]

    def is_finished(self, job: Job, done: dict[str, Record]) -> bool:
        """Tell whether a run need not be done: what is asked for is recorded, or what it is made of is kept.

        Args:
            job: the run.
            done: records by id.

        Returns:
            True where its record exists and holds all metrics that are asked for, or can be given them from the
            kept outputs and weights.
        """
        record = done.get(job.id)
        if record is None:
            return False
        missing = [METRICS[name].subject for name in missing_from(record, job.experiment.metrics)]
        if Models in missing and not (self.weights / weights_name(record)).is_file():
            return False
        if record.diverged or all(subject is Models for subject in missing):
            return True
        asked = {record.id: record.outputs, record.base_name: None}
        kept = (kept_outputs(self.path.parent, name, digest) is not None for name, digest in asked.items())
        return record.outputs is not None and all(kept)

    def keep_outputs(self, record: Record, evaluation: Evaluation) -> None:
        """Write a run's outputs, and its base model's where they are not there yet.

        Args:
            record: of the run.
            evaluation: its outputs, with those of its base model.

        Raises:
            SalunError: a file cannot be written.
        """
        folder = self.path.parent
        write_outputs(outputs_path(folder, record.id), evaluation)
        if evaluation.base is not None and kept_outputs(folder, record.base_name) is None:
            write_outputs(outputs_path(folder, record.base_name), evaluation.base)


def untrained(jobs: list[Job]) -> dict[str, tuple[Experiment, Problem]]:
    """List the base models that runs need and that are in no file yet.

    Args:
        jobs: runs to do.

    Returns:
        By identity, an experiment on each, and its problem.
    """
    origins = ((job, job.problem.origin) for job in jobs)
    return {
        origin.identity: (job.experiment, job.problem)
        for job, origin in origins
        if origin.checkpoint is None and not origin.path.exists()
    }


def missing_from(record: Record, names: tuple[str, ...]) -> list[str]:
    """List the metrics of a run that its record does not hold.

    Args:
        record: of the run.
        names: what is asked for; none for the default ones.

    Returns:
        Names; metrics of several runs, which no record holds, only where there are no outputs to make them of, and
        no passes of a run from before they were counted, which nothing can give it later.
    """
    held = record.metrics.keys() | record.details.keys() | (set() if record.passes else {"passes"})
    able = [name for name in check_metrics(names) if METRICS[name].subject is not Runs or record.outputs is None]
    return [name for name in able if name not in held]


def needs_weights(experiment: Experiment) -> bool:
    """Tell whether an experiment's metrics are computed from weights, which must then be kept.

    Args:
        experiment: with its metrics.

    Returns:
        Whether one of them is.
    """
    return any(METRICS[name].subject is Models for name in check_metrics(experiment.metrics))


def with_metrics_of(record: Record | None, experiment: Experiment) -> Experiment:
    """Ask for the metrics of an earlier record too, so that a run that is done again for more loses none.

    Args:
        record: of the same run, if there is one.
        experiment: what is to be done.

    Returns:
        The experiment.
    """
    if record is None:
        return experiment
    held = [name for name in (*record.metrics, *record.details) if name in METRICS]
    return replace(experiment, metrics=tuple(dict.fromkeys([*check_metrics(experiment.metrics), *held])))


def with_comparisons_of(earlier: Record | None, record: Record) -> Record:
    """Leave room for what an earlier record held of a comparison with a retrained model, to be computed anew.

    Args:
        earlier: record of the same run, if there is one.
        record: of the run as it was done again.

    Returns:
        The record; what it lacks of the earlier one is None, of no retrained model.
    """
    if earlier is None:
        return record
    held = [name for name in (*earlier.metrics, *earlier.details) if name in METRICS]
    metrics, details = parted({name: None for name in held if "retrained" in METRICS[name].against})
    return replace(record, metrics=metrics | record.metrics, details=details | record.details)


def titles_of(jobs: list[Job]) -> dict[int, str]:
    """Name the experiments of a list so that a table can tell them apart.

    Args:
        jobs: all runs of the list.

    Returns:
        By entry number its tag, or method and mask; where entries on the same forgetting problem share
        that, what differs between them follows, as in `rl (lr 0.1)`.
    """
    cells: dict[int, list[Group]] = {}
    for job in jobs:
        cells.setdefault(job.experiment.number, []).append(job.cell)
    first = {job.experiment.number: job.experiment for job in reversed(jobs)}
    return told_apart({number: (first[number], group_named(cells[number])) for number in cells})


def told_apart(entries: dict[int, tuple[Experiment, Group]]) -> dict[int, str]:
    """Name experiments so that those of one problem are called differently.

    Args:
        entries: by entry number the experiment, and its base model and forget set.

    Returns:
        Titles by entry number, as `titles_of` gives them.
    """
    alike: dict[tuple[str, Group], dict[int, Experiment]] = {}
    for number, (experiment, group) in entries.items():
        alike.setdefault((experiment.tag or experiment.title, group), {})[number] = experiment
    titles: dict[int, str] = {}
    for (title, _), members in alike.items():
        for number, details in differences(list(members.values())).items():
            shown = ", ".join(f"{key} {value}" for key, value in details.items())
            titles[number] = f"{title} ({shown})" if shown else title
    return titles


def differences(experiments: list[Experiment]) -> dict[int, dict[str, str]]:
    """Find what sets experiments apart.

    Args:
        experiments: of the same title.

    Returns:
        By entry number the settings that not all of them share, and the entry where two share them all.
    """
    known: dict[int, dict[str, str]] = {}
    for experiment in experiments:
        mask, prune = experiment.mask, experiment.prune
        settings: dict[str, Any] = {
            "method": experiment.method,
            **experiment.settings,
            "prune": prune and prune.share,
            "mask": str(mask or "none").removeprefix("mask "),
        }
        settings |= {"mask batches": mask.batches, "mask file": mask.file} if mask else {}
        settings |= {"prune_epochs": "the recipe's" if prune.epochs is None else prune.epochs} if prune else {}
        settings |= {"metrics": " ".join(experiment.metrics) or "default", "seed": experiment.seed}
        settings |= {"forget_seed": experiment.forget.seed, "base_seed": experiment.base_seed}
        settings |= {"budget": experiment.budget}
        known[experiment.number] = {key: spelled(value) for key, value in settings.items()}
    shared = [key for key in known[experiments[0].number] if all(key in settings for settings in known.values())]
    apart = [key for key in shared if len({settings[key] for settings in known.values()}) > 1]
    shown = {number: {key: settings[key] for key in apart} for number, settings in known.items()}
    if len({tuple(details.values()) for details in shown.values()}) < len(shown):
        return {number: details | {"entry": str(number)} for number, details in shown.items()}
    return shown


def spelled(value: object) -> str:
    """Spell a setting as a title shows it.

    Args:
        value: of the setting.

    Returns:
        Its text: "none" where there is none, truth values as in JSON.
    """
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def rows_of(
    jobs: list[Job], done: dict[str, Record], joint: Mapping[int, Mapping[str, Value]] | None = None
) -> list[Row]:
    """Summarise the finished runs of a list.

    Args:
        jobs: all runs of the list.
        done: records by id.
        joint: metrics of all runs of an experiment together, by entry number.

    Returns:
        The rows of the table.
    """
    titles = titles_of(jobs)
    finished: dict[int, list[Record]] = {number: [] for number in titles}
    for job in jobs:
        if job.id in done:
            finished[job.experiment.number].append(done[job.id])
    entries = [(titles[number], runs) for number, runs in sorted(finished.items())]
    together = [joint.get(number, {}) for number in sorted(finished)] if joint else ()
    return summarise(entries, together)


def experiment_of(record: Record, number: int) -> Experiment:
    """Read from a record which experiment was run.

    Args:
        record: of a run.
        number: given to the experiment.

    Returns:
        The experiment; what no record holds (paths, the metrics asked for, the first seed) is left at its default.

    Raises:
        SalunError: its settings are not such as this version writes.
    """
    try:
        base, forget, mask = (record.settings[key] for key in ("base", "forget", "mask"))
        file = Path(mask["file"]) if mask and mask["file"] else None
        prune = record.settings.get("prune")
        return Experiment(
            number=number,
            method=record.settings["method"],
            settings=dict(record.settings["settings"]),
            checkpoint=None,
            model=base["model"],
            dataset=base["dataset"],
            recipe=None,
            split_seed=0,
            forget=ForgetRequest(
                tuple(forget["classes"]), forget["share"], forget["seed"], stratified=forget.get("stratified", False)
            ),
            mask=MaskRequest(mask["keep"], mask["score"], mask["batches"], file) if mask else None,
            metrics=(),
            seed=0,
            tag=record.tag,
            prune=PruneRequest(prune["share"], prune["epochs"]) if prune else None,
            budget=record.settings.get("budget"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SalunError(f"record {record.id}: its settings cannot be read") from error


def rows_of_records(found: list[Record]) -> list[Row]:
    """Summarise records without the list that they were made by.

    Args:
        found: records; runs of the same settings are one experiment, called by their latest tag.

    Returns:
        The rows of the table, in the order in which the experiments were first run.

    Raises:
        SalunError: a record's settings cannot be read.
    """
    alike: dict[str, list[Record]] = {}
    for record in found:
        alike.setdefault(drawn_from(record), []).append(record)
    runs = dict(enumerate(alike.values(), 1))
    titles = told_apart(
        {
            number: (experiment_of(members[-1], number), group_named(map(group_of, members)))
            for number, members in runs.items()
        }
    )
    return summarise([(titles[number], members) for number, members in runs.items()])


def drawn_from(record: Record) -> str:
    """Tell which experiment a run belongs to, whatever base model, forget set and seed were drawn for it.

    Args:
        record: of the run.

    Returns:
        The same text for runs that differ only in what `--nbase`, `--nforget` and `--nexp` vary.
    """
    settings = record.settings
    base, forget = dict(settings["base"]), dict(settings["forget"])
    if base["recipe"] is not None and base["identity"].startswith("recipe "):
        base |= {"identity": None, "seed": None, "recipe": base["recipe"] | {"seed": None}}
    if forget["share"] is not None:
        forget |= {"seed": None, "fingerprint": None}
    return identify(settings | {"base": base, "forget": forget}, 0)
