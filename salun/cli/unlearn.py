"""`salun-unlearn`: run experiments, record them, and compare them with retraining."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from salun.cli import entry
from salun.cli.console import make_console
from salun.cli.experiments import counted, open_list, print_plan
from salun.cli.progress import Display
from salun.cli.status import INTERRUPTED, SOME_FAILED, USER_ERROR, notice
from salun.cli.steps import watched
from salun.errors import SalunError, one_line
from salun.experiments import records
from salun.experiments.advice import warnings_of
from salun.experiments.base_model import BaseModelSpec
from salun.experiments.edits import checks_of, in_doubt
from salun.experiments.executors.cluster import RayRequest
from salun.experiments.executors.executor import RunFailure
from salun.experiments.joint_metrics import Comparison
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.plugins import outdated
from salun.experiments.record import Record
from salun.experiments.runner import Runner, let_choose
from salun.experiments.schema import json_schema
from salun.experiments.source import keep_source, keeping_source
from salun.experiments.tracking import Tracker, log_run
from salun.io.locks import LOCKS, Locks
from salun.metrics import GAP_METRICS, Value
from salun.reports.labels import titles_of
from salun.reports.summary import loss_text, lost
from salun.training.progress import Callback

main = entry.unlearn

_PROGRAM = "salun-unlearn"


def run(flags: argparse.Namespace) -> int:
    """Do what the flags ask for: print the schema, lists or the plan, or do the runs."""
    if flags.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    if flags.list_metrics is not None or flags.list_methods is not None:
        return _print_lists(flags)
    return print_plan(flags) if flags.dry_run else _unlearn(flags)


def _print_lists(flags: argparse.Namespace) -> int:
    """Print the metrics, the methods, or both."""
    from salun.cli.listing import print_methods, print_metrics

    if flags.list_metrics is not None:
        print_metrics(make_console(), flags.list_metrics)
    if flags.list_methods is not None:
        print_methods(make_console(), flags.list_methods)
    return 0


def _unlearn(flags: argparse.Namespace) -> int:
    """Check everything, do the runs that are missing, print and write the tables."""
    runner, jobs, source = _prepare(flags)
    folder, console = runner.path.parent, make_console()
    finished, torn = records.read(runner.path)
    versions = {job.id: finished[job.id].versions for job in jobs if job.id in finished}
    warnings = [*torn, *warnings_of(jobs), *outdated(versions.values())]
    for line in dict.fromkeys(warnings):
        notice(line)
    missing = runner.unfinished(jobs, finished)
    count = len({job.id for job in jobs})
    kept = count - len(missing)
    print(
        f"{source}: {counted(count, 'run')}, {kept} of them finished before, on {runner.cache.context.device}",
        flush=True,
    )
    if flags.deterministic:
        _report_others([finished[job.id] for job in jobs if job.id in finished and job.id not in missing])
    status = 0
    if missing:
        with Display(console, lines=False) as display:
            tracker = Tracker(not flags.no_log, notice)
            session = _Session(runner, jobs, source, kept, len(missing), display, tracker, flags.utility_floor)
            status = session.do_runs()
    else:
        keep_source(folder, source)
    if status == USER_ERROR:
        return status
    _check_figures(runner.path, {job.id for job in jobs})
    joint: dict[tuple[int, int], dict[str, Value]] = {}
    if status != INTERRUPTED:
        compared, joint = _compare(runner, jobs)
        status = compared or status
    _show(flags, runner, jobs, console, joint)
    return status


def _prepare(flags: argparse.Namespace) -> tuple[Runner, list[Job], str]:
    """Check flags, list and folders, let base models choose what is to be forgotten, and plan the runs."""
    opened = open_list(flags)
    repeats = Repeats(flags.nexp, flags.nbase, flags.nforget)
    jobs = plan(opened.experiments, repeats, opened.cache, opened.source)
    ray = None if flags.ray is None else RayRequest(flags.ray, flags.gpus_per_run, flags.jobs, flags.device)
    path = opened.folder / "records.jsonl"
    runner = Runner(opened.cache, path, opened.weights, flags.keep, flags.jobs or 1, ray)
    if not all(job.problem.is_chosen for job in jobs):
        with Display(make_console(), lines=False) as display:
            let_choose(runner, jobs, lambda spec: _watch_base(display, runner, jobs, spec))
        jobs = plan(opened.experiments, repeats, opened.cache, opened.source)
    return runner, jobs, opened.source


def _watch_base(display: Display, runner: Runner, jobs: list[Job], spec: BaseModelSpec) -> Callback:
    """Show that a base model is trained."""
    _print(display, f"training the base model: {spec.model} on {spec.dataset}")
    images = len(jobs[0].problem.split.train)
    return display.callback("base model", images, spec.identity if runner.is_parallel else "")


def _print(display: Display, line: str) -> None:
    """Print a line above the progress."""
    display.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _report_others(kept: Sequence[Record]) -> None:
    """Report finished runs that were not made deterministically."""
    others = sum("deterministic" not in record.device for record in kept)
    if others:
        what = f"{counted(others, 'run')} finished without --deterministic and stay as they are"
        notice(f"{_PROGRAM}: {what}; another --out does them anew")


def _check_figures(path: Path, ids: set[str]) -> None:
    """Correct what was changed by hand in records, as far as kept outputs tell, and report it."""

    def doubtful() -> tuple[dict[str, Record], list[str]]:
        found, _ = records.read(path)
        return found, [number for number in found if number in ids and in_doubt(found[number], path.parent)]

    if not doubtful()[1]:
        return
    with Locks(path.parent / LOCKS) as locks, locks.holding("comparison"):
        found, left = doubtful()
        with watched("checking records", len(left)) as step:
            for check in checks_of(path, found, left):
                for line in check.notices:
                    notice(line)
                if check.is_new:
                    records.append(path, check.record)
                step()


def _compare(runner: Runner, jobs: Sequence[Job]) -> tuple[int, dict[tuple[int, int], dict[str, Value]]]:
    """Compute what compares runs with each other; stop in good order when interrupted."""
    comparison = Comparison(runner.cache, runner.path, runner.weights)
    try:
        with Locks(runner.path.parent / LOCKS) as locks, locks.holding("comparison"):
            lacking = comparison.lacking(jobs)
            with watched("comparing runs", len(lacking)) as step:
                for _ in comparison.complete(lacking):
                    step()
        joint = comparison.joint(jobs)
    except KeyboardInterrupt:
        notice(f"{_PROGRAM}: interrupted: all runs are recorded; the same command compares the rest")
        return INTERRUPTED, {}
    for line in comparison.notices:
        notice(line)
    if comparison.lost:
        runs = counted(len(comparison.lost), "run")
        notice(f"outputs of {runs} are not kept; metrics of several runs together need those of all")
    return 0, joint


def _show(
    flags: argparse.Namespace,
    runner: Runner,
    jobs: list[Job],
    console: Console,
    joint: Mapping[tuple[int, int], Mapping[str, Value]],
) -> None:
    """Print and write the tables."""
    # Only now: what tables need takes a while to import, and no run waits for it.
    from salun.cli.table import print_published, print_rows
    from salun.reports.labels import rows_of
    from salun.reports.summary import mixtures, partly_known, ruined
    from salun.reports.tables import write_summaries

    rows = rows_of(jobs, records.read(runner.path)[0], joint, flags.utility_floor)
    if not rows:
        return
    print_rows(console, rows)
    if flags.published:
        print_published(console, rows)
    for line in [*mixtures(rows), *partly_known(rows)]:
        notice(line)
    written = write_summaries(runner.path.parent, rows, flags.wide)
    print(f"{runner.path} and {', '.join(file.name for file in written)}")
    for line in ruined(rows):
        notice(f"{_PROGRAM}: {line}")


@dataclass
class _Session:
    """The runs that one call of the command does, with progress and logs."""

    runner: Runner
    jobs: list[Job]
    source: str
    before: int
    missing: int
    display: Display
    tracker: Tracker
    floor: float
    started: int = 0
    left: str = ""

    def do_runs(self) -> int:
        """Do the missing runs; stop in good order when interrupted."""
        begun, finished, failed, titles = time.perf_counter(), 0, 0, titles_of(self.jobs)
        folder = self.runner.path.parent
        try:
            with (
                keeping_source(folder, self.source),
                closing(self.runner.run(self.jobs, self._watch_run, self._watch_base)) as runs,
            ):
                for job, outcome in runs:
                    self.display.drop(job.id)
                    title = one_line(titles[job.experiment.key])
                    if isinstance(outcome, RunFailure):
                        failed += 1
                        notice(f"{_PROGRAM}: {title}, seed {job.seed}: {_again(outcome, self.runner.trace_of(job))}")
                        continue
                    finished += 1
                    left = (time.perf_counter() - begun) / finished * (self.missing - finished - failed)
                    self.left = f", {timedelta(seconds=round(left))} left"
                    line = _run_line(title, outcome, self.floor)
                    _print(self.display, f"[{finished}/{self.missing}] {line}; about {left:.0f} s left")
                    log_run(self.tracker, folder.name, title, outcome)
        except (KeyboardInterrupt, SalunError) as error:
            kept = f"{self.before + finished} of {self.before + self.missing} runs are recorded"
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(str(error))
            notice(f"{_PROGRAM}: {why}: {kept}; the same command does the rest")
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else USER_ERROR
        return SOME_FAILED if failed else 0

    def _watch_base(self, spec: BaseModelSpec) -> Callback:
        """Show that a base model is trained."""
        return _watch_base(self.display, self.runner, self.jobs, spec)

    def _watch_run(self, job: Job) -> Callback:
        """Show a run: side by side with others in a line of its own, which the base model leaves to it."""
        self.display.drop(job.problem.spec.identity)
        self.started += 1
        parts = [
            f"run {self.started} of {self.missing}{self.left}: {job.experiment.title}",
            job.experiment.step_title,
            f"seed {job.seed}",
        ]
        title, images = ", ".join(filter(None, parts)), len(job.problem.split.train)
        return self.display.callback(title, images, job.id if self.runner.is_parallel else "")


def _again(outcome: RunFailure, trace: Path) -> str:
    """Tell why a run failed, and how to go on."""
    more = f"; {trace} tells more" if outcome.trace else ""
    return f"{outcome.reason}; the same command does it again{more}"


def _run_line(title: str, record: Record, floor: float) -> str:
    """Describe a finished run."""
    values = ((name, record.metrics.get(name)) for name in GAP_METRICS)
    shown = [f"{name} {100 * value:.2f}" for name, value in values if value is not None]
    when = "" if record.diverged_epoch is None else f" in epoch {record.diverged_epoch}"
    figures = f"diverged{when}" if record.diverged else " ".join(shown)
    took = record.seconds["mask"] + record.seconds["method"]
    losses = lost(record.metrics, record.base_metrics, floor)
    fallen = f"; {loss_text(losses)}" if losses else ""
    return f"{title}, seed {record.seed}: {figures} in {took:.1f} s{fallen}"
