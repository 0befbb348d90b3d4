"""`salun-unlearn`: run experiments, record them, and compare them with retraining."""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from salun.cli.arguments import (
    INTERRUPTED,
    SOME_FAILED,
    USER_ERROR,
    Parser,
    add_machine_flags,
    add_name_flag,
    add_saving_flag,
    check_folder,
    guarded,
    name_of,
    notice,
)
from salun.cli.startup import uncollected
from salun.errors import SalunError, SalunErrors, one_line

_PROGRAM = "salun-unlearn"
_MOST_RUNS = 10_000
_MOST_BESIDE = 64
ENTRY_FLAGS = {
    "checkpoint": "-c",
    "model": "--model",
    "dataset": "--dataset",
    "class_to_forget": "-CF",
    "unlearning_rate": "-UL",
    "stratified": "--stratified",
    "idxs_to_forget": "-IF",
    "epochs": "-E",
    "lr": "-LR",
    "method": "-M",
    "use_mask": "-UM",
    "mask_thr": "-MT",
    "load_mask": "-LM",
    "seed": "--seed",
    "forget_seed": "--forget-seed",
    "base_seed": "--base-seed",
    "tag": "--tag",
}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(_PROGRAM, description="Unlearn, N times, and measure the distance to retraining.")
    parser.add_argument("-L", "--load", metavar="FILE", help="JSON list of experiments")
    one = parser.add_argument_group("one experiment, without a file")
    one.add_argument("-c", "--checkpoint", metavar="FILE", help="the base model")
    one.add_argument("--model", help="with --dataset, in place of a checkpoint: trained on first need, and kept")
    one.add_argument("--dataset", help="see salun-train --help")
    one.add_argument("-M", "--method", help="unlearning method (default: rl)")
    one.add_argument("-LR", "--lr", type=float, help="learning rate")
    one.add_argument("-E", "--epochs", type=int, help="number of epochs")
    one.add_argument(
        "-UM", "--use-mask", action="store_true", default=None, help="let only salient weights move (SalUn)"
    )
    one.add_argument("-MT", "--mask-thr", type=float, metavar="SHARE", help="weights that may move (default: 0.5)")
    one.add_argument("-LM", "--load-mask", metavar="FILE", help="use this mask")
    one.add_argument("--seed", type=int, help="of the first run (default: 0)")
    one.add_argument(
        "--stratified",
        action="store_true",
        default=None,
        help="with -UL: that share of each class (default: as in the SalUn paper's code, whatever the class)",
    )
    one.add_argument("--forget-seed", type=int, metavar="N", help="of -UL (default: 0)")
    one.add_argument("--base-seed", type=int, metavar="N", help="of the base model's training (default: its recipe's)")
    one.add_argument("--tag", help="name in tables and logs")
    forget = one.add_mutually_exclusive_group()
    forget.add_argument("-CF", "--class-to-forget", type=int, nargs="+", metavar="CLASS", help="forget these classes")
    forget.add_argument("-UL", "--unlearning-rate", type=float, metavar="SHARE", help="forget a random share")
    forget.add_argument("-IF", "--idxs-to-forget", metavar="FILE", help="forget the images of a forget-set file")
    parser.add_argument("--nexp", type=int, default=5, metavar="N", help="unlearning seeds (default: 5)")
    parser.add_argument(
        "--nbase", type=int, default=1, metavar="N", help="base models, of --nexp runs each (default: 1)"
    )
    parser.add_argument("--nforget", type=int, default=1, metavar="N", help="forget sets drawn, likewise (default: 1)")
    _add_beside_flags(parser)
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="metrics, or default, attacks, all; of finished runs too"
    )
    parser.add_argument(
        "--budget",
        type=int,
        metavar="PASSES",
        help="image passes, forward and backward, mask included, within which all but retrain stay",
    )
    parser.add_argument(
        "--keep", choices=("all", "last", "none"), default="last", help="unlearned weights (default: last)"
    )
    add_name_flag(parser)
    parser.add_argument("--out", default="runs", metavar="DIR", help="where records go (default: runs)")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="default: checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="validate and print the experiments, train nothing")
    parser.add_argument("--published", action="store_true", help="show published figures beside ours")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of experiment files")
    parser.add_argument(
        "--list-metrics", action="store_true", help="print every metric: direction, ideal, cost, source"
    )
    parser.add_argument("--list-methods", action="store_true", help="print every method")
    add_saving_flag(parser)
    add_machine_flags(parser)
    return parser.parse_args(argv)


def _add_beside_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say who does the runs."""
    parser.add_argument(
        "--jobs",
        "--parallel",
        type=int,
        metavar="N",
        help="runs side by side, each in a process (default: 1; with --ray as many as find room)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="runs on a Ray cluster: HOST:PORT, or local; alone, the one of this machine, started where there is none",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="SHARE",
        help="with --ray: of a GPU, 0 to 1 (default: 1 where the cluster has GPUs, else 0)",
    )


def main(argv: list[str] | None = None) -> int:
    """Run experiments.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit status.
    """
    flags = _parse(argv)
    if flags.schema:
        return guarded(_PROGRAM, _print_schema, flags.plugin)
    if flags.list_metrics or flags.list_methods:
        return guarded(_PROGRAM, lambda: _print_lists(flags), flags.plugin)
    if flags.dry_run:
        return guarded(_PROGRAM, lambda: _dry_run(flags), flags.plugin)
    return guarded(_PROGRAM, lambda: _unlearn(flags), flags.plugin)


def _print_schema() -> int:
    """Print the JSON Schema of experiment files."""
    from salun.experiments.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _print_lists(flags: argparse.Namespace) -> int:
    """Print the metrics, the methods, or both."""
    from salun.cli.console import make_console
    from salun.cli.listing import print_methods, print_metrics

    if flags.list_metrics:
        print_metrics(make_console())
    if flags.list_methods:
        print_methods(make_console())
    return 0


def _dry_run(flags: argparse.Namespace) -> int:
    """Print every resolved experiment with its number of runs."""
    from salun.experiments.source import check_source

    experiments, source = _read_experiments(flags, files_must_exist=False)
    _check_files(experiments, Path(flags.checkpoints), source)
    check_source(Path(flags.out) / name_of(flags, source), source)
    each = flags.nexp * flags.nbase * flags.nforget
    for experiment in experiments:
        last = experiment.seed + flags.nexp - 1
        seeds = f"seeds {experiment.seed} to {last}" if flags.nexp > 1 else f"seed {last}"
        seeds += "".join(
            f", {_counted(number, what)}"
            for number, what in ((flags.nbase, "base model"), (flags.nforget, "forget set"))
            if number > 1
        )
        what = f"{experiment.title} on {experiment.base}, forgetting {experiment.forget}"
        tag = f" [{experiment.tag}]" if experiment.tag else ""
        print(one_line(f"{experiment.number}. {what}{tag}: {_counted(each, 'run')} ({seeds})"))
        print(f"   settings {json.dumps(experiment.settings)}")
        if experiment.recipe is not None:
            print(f"   recipe {experiment.recipe.model_dump_json()}")
        if experiment.prune is not None:
            epochs = "the recipe's" if experiment.prune.epochs is None else experiment.prune.epochs
            print(f"   prune {experiment.prune.share:g}, then train for {epochs} epochs")
        if experiment.budget is not None:
            print(f"   budget {experiment.budget} image passes, mask included")
        if experiment.metrics:
            print(f"   metrics {', '.join(experiment.metrics)}")
    runs = len(experiments) * each
    print(f"{source}: {_counted(len(experiments), 'experiment')}, {_counted(runs, 'run')}")
    return 0


def _counted(number: int, what: str) -> str:
    """Say how many there are."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _check_files(experiments: Sequence[Any], folder: Path, source: str) -> None:
    """Check the checkpoints and masks that are there; what is missing may still come."""
    from torch import device

    from salun.experiments.run import Workbench
    from salun.unlearning.mask import load_mask

    bench, wrong = Workbench(device("cpu"), checkpoints=folder), []
    for experiment in experiments:
        mask = experiment.mask.file if experiment.mask else None
        try:
            if experiment.checkpoint is None or experiment.checkpoint.exists():
                bench.spec(experiment)
            if mask is not None and mask.exists():
                load_mask(mask)
        except SalunError as error:
            where = source if source == "command line" else f"{source}: entry {experiment.number}"
            wrong.append(f"{where}: {error}")
    if wrong:
        raise SalunErrors(wrong)


def _read_experiments(flags: argparse.Namespace, files_must_exist: bool = True) -> tuple[list[Any], str]:
    """Read the experiments that the flags name."""
    from salun.experiments.schema import load_experiments, validate
    from salun.experiments.source import COMMAND_LINE

    for flag in ("nexp", "nbase", "nforget"):
        if not 1 <= getattr(flags, flag) <= _MOST_RUNS:
            raise SalunError(f"--{flag} {getattr(flags, flag)}: must be from 1 to {_MOST_RUNS}")
    _check_beside(flags)
    if flags.budget is not None and flags.budget < 1:
        raise SalunError(f"--budget {flags.budget}: must be a number of image passes from 1")
    asked = _asked_metrics(flags)
    given = {key: getattr(flags, key) for key in ENTRY_FLAGS if getattr(flags, key) is not None}
    if flags.load is None:
        if len(given.get("class_to_forget", ())) == 1:
            given["class_to_forget"] = given["class_to_forget"][0]
        return _asked_for(validate([given], COMMAND_LINE, files_must_exist), asked, flags.budget), COMMAND_LINE
    if given:
        flag = ENTRY_FLAGS[next(iter(given))]
        raise SalunError(f"{flag} goes without -L: put '{next(iter(given))}' into the entries of {flags.load}")
    return _asked_for(load_experiments(Path(flags.load), files_must_exist), asked, flags.budget), flags.load


def _check_beside(flags: argparse.Namespace) -> None:
    """Check the flags that say who does the runs."""
    most = _MOST_BESIDE if flags.ray is None else _MOST_RUNS
    if flags.jobs is not None and not 1 <= flags.jobs <= most:
        raise SalunError(f"--jobs {flags.jobs}: must be from 1 to {most}")
    if flags.gpus_per_run is not None and flags.ray is None:
        raise SalunError(f"--gpus-per-run {flags.gpus_per_run:g}: goes with --ray; --ray local needs no cluster")
    if flags.gpus_per_run is not None and not 0 <= flags.gpus_per_run <= 1:
        raise SalunError(f"--gpus-per-run {flags.gpus_per_run:g}: must be from 0 to 1")
    if flags.ray is not None and "://" in flags.ray:
        raise SalunError(f"--ray {flags.ray}: run the command on a machine of the cluster; give HOST:PORT or nothing")
    if flags.ray is not None and find_spec("ray") is None:
        raise SalunError("--ray: Ray is not installed here; pip install 'salun[ray]' does that")


def _ray_request(flags: argparse.Namespace) -> Any:
    """Gather what is asked of Ray."""
    from salun.experiments.executors.ray import RayRequest

    return None if flags.ray is None else RayRequest(flags.ray, flags.gpus_per_run, flags.jobs, flags.device)


def _asked_metrics(flags: argparse.Namespace) -> tuple[str, ...]:
    """Check the metrics of the command line."""
    from salun.metrics import check_metrics

    try:
        return check_metrics(tuple(flags.metrics)) if flags.metrics else ()
    except SalunError as error:
        raise SalunError(f"--metrics: {error}") from error


def _asked_for(experiments: list[Any], names: tuple[str, ...], budget: int | None) -> list[Any]:
    """Put what the command line asks of all entries in the place of their own."""
    if names:
        experiments = [replace(experiment, metrics=names) for experiment in experiments]
    if budget is not None:
        experiments = [
            experiment if experiment.method == "retrain" else replace(experiment, budget=budget)
            for experiment in experiments
        ]
    return experiments


def _unlearn(flags: argparse.Namespace) -> int:
    """Check everything, do the runs that are missing, print and write the tables."""
    with uncollected():
        from salun.cli.console import make_console
        from salun.device import pick_device
        from salun.experiments import records
        from salun.experiments.plan import Repeats, plan
        from salun.experiments.plugins import outdated
        from salun.experiments.run import Workbench, warnings_for
        from salun.experiments.runner import Runner
        from salun.experiments.source import check_source, keep_source

    device = pick_device(flags.device, flags.deterministic)
    experiments, source = _read_experiments(flags)
    console = make_console()
    name = name_of(flags, source)
    folder, weights = Path(flags.out) / name, Path(flags.checkpoints) / name
    check_folder("--out", folder)
    check_folder("--checkpoints", weights)
    check_source(folder, source)
    folders = Path(flags.data_dir), Path(flags.checkpoints)
    bench = Workbench(
        device, *folders, compiled=flags.compile, save_every=60 * flags.save_every, skip_corrupt=flags.skip_corrupt
    )
    jobs = plan(experiments, Repeats(flags.nexp, flags.nbase, flags.nforget), bench, source)
    plugins = tuple(map(Path, flags.plugin))
    runner = Runner(bench, folder / "records.jsonl", weights, flags.keep, flags.jobs or 1, plugins, _ray_request(flags))
    done, torn = records.read(runner.path)
    versions = {job.id: done[job.id].versions for job in jobs if job.id in done}
    said = [*torn, *(line for job in jobs for line in warnings_for(job.problem)), *outdated(versions.values())]
    for line in dict.fromkeys(said):
        notice(line)
    missing = {job.id for job in jobs if not runner.is_finished(job, done)}
    finished = len({job.id for job in jobs}) - len(missing)
    runs = _counted(finished + len(missing), "run")
    print(f"{source}: {runs}, {finished} of them finished before, on {device}", flush=True)
    if flags.deterministic:
        _tell_of_others([done[job.id] for job in jobs if job.id in done and job.id not in missing])
    if missing:
        status = _do_runs(runner, jobs, finished, len(missing), name, console, flags)
    else:
        keep_source(folder, source)
        status = 0
    joint: dict[int, Any] = {}
    if status == USER_ERROR:
        return status
    _check_figures(runner.path, {job.id for job in jobs})
    if status != INTERRUPTED:
        compared, joint = _compare(runner, jobs)
        status = compared or status
    _show(flags, runner, jobs, console, joint)
    return status


def _tell_of_others(kept: list[Any]) -> None:
    """Say that runs are kept which were not made with the same bits in mind."""
    others = sum("deterministic" not in record.device for record in kept)
    if others:
        runs = _counted(others, "run")
        notice(
            f"{_PROGRAM}: {runs} finished without --deterministic and stay as they are; another --out does them anew"
        )


def _check_figures(path: Path, ids: set[str]) -> None:
    """Put right what was changed by hand in records, as far as kept outputs tell, and say so."""
    from salun.cli.steps import watched
    from salun.experiments import records
    from salun.experiments.edits import checks_of, in_doubt
    from salun.io.locks import CLAIMS, Claims

    def doubtful() -> tuple[dict[str, Any], list[str]]:
        done, _ = records.read(path)
        return done, [number for number in done if number in ids and in_doubt(done[number], path.parent)]

    if not doubtful()[1]:
        return
    with Claims(path.parent / CLAIMS) as claims, claims.holding("comparison"):
        done, left = doubtful()
        with watched("checking records", len(left)) as step:
            for check in checks_of(path, done, left):
                for line in check.notices:
                    notice(line)
                if check.is_new:
                    records.append(path, check.record)
                step()


def _compare(runner: Any, jobs: list[Any]) -> tuple[int, dict[int, Any]]:
    """Compute what compares runs with each other; stop in good order when interrupted."""
    from salun.cli.steps import watched
    from salun.experiments.joint_metrics import Comparison
    from salun.io.locks import CLAIMS, Claims

    comparison = Comparison(runner.bench, runner.path, runner.weights)
    try:
        with (
            Claims(runner.path.parent / CLAIMS) as claims,
            claims.holding("comparison"),
            watched("comparing runs", comparison.count(jobs)) as step,
        ):
            for _ in comparison.complete(jobs):
                step()
        joint = comparison.joint(jobs)
    except KeyboardInterrupt:
        notice(f"{_PROGRAM}: interrupted: all runs are recorded; the same command compares the rest")
        return INTERRUPTED, {}
    for line in comparison.notices:
        notice(line)
    if comparison.lost:
        runs = _counted(len(comparison.lost), "run")
        notice(f"outputs of {runs} are not kept; metrics of several runs together need those of all")
    return 0, joint


def _show(flags: argparse.Namespace, runner: Any, jobs: list[Any], console: Any, joint: dict[int, Any]) -> None:
    """Print and write the tables."""
    from salun.cli.table import print_published, print_rows
    from salun.experiments import records
    from salun.reports.summary import mixtures, partly_known, rows_of
    from salun.reports.tables import write_summaries

    done, _ = records.read(runner.path)
    rows = rows_of(jobs, done, joint)
    if not rows:
        return
    print_rows(console, rows)
    if flags.published:
        print_published(console, rows)
    for line in [*mixtures(rows), *partly_known(rows)]:
        notice(line)
    written = write_summaries(runner.path.parent, rows)
    print(f"{runner.path} and {', '.join(file.name for file in written)}")


def _do_runs(
    runner: Any, jobs: list[Any], before: int, missing: int, name: str, console: Any, flags: argparse.Namespace
) -> int:
    """Do the missing runs, with progress and logs."""
    from salun.cli.progress import Display
    from salun.experiments.source import COMMAND_LINE, keeping_source
    from salun.experiments.tracking import Tracker

    noting = keeping_source(runner.path.parent, flags.load or COMMAND_LINE)
    tracker = Tracker(not flags.no_log, notice)
    with Display(console, lines=False) as display:
        return _do_each(runner, jobs, before, missing, name, display, tracker, noting)


def _do_each(
    runner: Any,
    jobs: list[Any],
    before: int,
    missing: int,
    name: str,
    display: Any,
    tracker: Any,
    noting: AbstractContextManager[None],
) -> int:
    """Do the missing runs; stop in good order when interrupted."""
    from salun.experiments.executors.processes import Lost
    from salun.reports.labels import titles_of

    begun, finished, failed, titles = time.perf_counter(), 0, 0, titles_of(jobs)
    runner.bench.on_base = lambda spec: _watch_base(spec, runner, jobs, display)
    try:
        with noting, closing(runner.go(jobs, lambda job: _watch_run(job, runner, display))) as runs:
            for job, outcome in runs:
                display.drop(job.id)
                title = one_line(titles[job.experiment.number])
                if isinstance(outcome, Lost):
                    failed += 1
                    notice(f"{_PROGRAM}: {title}, seed {job.seed}: {_again(outcome, runner.trace_of(job))}")
                    continue
                finished += 1
                left = (time.perf_counter() - begun) / finished * (missing - finished - failed)
                line = f"[{finished}/{missing}] {_run_line(title, outcome)}; about {left:.0f} s left"
                display.console.print(line, highlight=False, markup=False, soft_wrap=True)
                log_run(tracker, name, title, job, outcome)
    except (KeyboardInterrupt, SalunError) as error:
        kept = f"{before + finished} of {before + missing} runs are recorded"
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(str(error))
        notice(f"{_PROGRAM}: {why}: {kept}; the same command does the rest")
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else USER_ERROR
    return SOME_FAILED if failed else 0


def _again(outcome: Any, trace: Path) -> str:
    """Say why a run failed, and how to go on."""
    more = f"; {trace} tells more" if outcome.trace else ""
    return f"{outcome.reason}; the same command does it again{more}"


def _watch_base(spec: Any, runner: Any, jobs: list[Any], display: Any) -> Any:
    """Say that a base model is trained, and show it."""
    display.console.print(f"training the base model: {spec.model} on {spec.dataset}", highlight=False, markup=False)
    name = spec.identity if runner.beside else ""
    return display.callback("base model", len(jobs[0].problem.split.train), name)


def _watch_run(job: Any, runner: Any, display: Any) -> Any:
    """Show a run: side by side with others in a line of its own, which the base model leaves to it."""
    display.drop(job.problem.spec.identity)
    name = job.id if runner.beside else ""
    return display.callback(f"{job.experiment.title}, seed {job.seed}", len(job.problem.split.train), name)


def _run_line(title: str, record: Any) -> str:
    """Describe a finished run."""
    shown = [
        f"{name} {100 * record.metrics[name]:.2f}"
        for name in ("UA", "RA", "TA", "MIA")
        if record.metrics.get(name) is not None
    ]
    when = "" if record.diverged_epoch is None else f" in epoch {record.diverged_epoch}"
    figures = f"diverged{when}" if record.diverged else " ".join(shown)
    took = record.seconds["mask"] + record.seconds["method"]
    return f"{title}, seed {record.seed}: {figures} in {took:.1f} s"


def log_run(tracker: Any, name: str, title: str, job: Any, record: Any) -> None:
    """Log a finished run: configuration, curve, final metrics.

    Args:
        tracker: logs to Weights & Biases.
        name: of the list.
        title: of the experiment.
        job: the run.
        record: of it.
    """
    config = {**record.settings, "seed": record.seed, "list": name, "device": record.device, "id": record.id}
    with tracker.run(f"{title} seed {job.seed}", f"{name}/{title}", config) as log:
        for point in record.curve:
            log(vars(point))
        log({key: value for key, value in record.metrics.items() if value is not None})
        log({f"base {key}": value for key, value in record.base_metrics.items() if value is not None})
        log({f"seconds {key}": value for key, value in record.seconds.items()})
        log({f"{name} passes {key}": count for key, value in record.passes.items() for name, count in value.items()})
