"""Items: what a long list costs beyond its runs: planned, read, compared, summarised."""

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.growth import LINEAR, line_of
from benchmarks.items import Bench, item
from benchmarks.measure import Goal, Result, Side, interleaved, seconds_of, timed
from benchmarks.processes import called, command
from benchmarks.runs import DIGITS, digits_entry, salun_on
from salun.experiments.plan import Job, Repeats, plan
from salun.experiments.record import Record, partner_of, resolved_settings
from salun.experiments.records import DIGEST, content_of, figures_digest
from salun.experiments.run import run_once
from salun.experiments.schema import validate
from salun.metrics import Value, check_metrics
from salun.reports.labels import rows_of
from salun.reports.tables import write_summaries

ENTRIES, RUNS = 100, (25, 50, 100)
ROWS, EACH = (260, 510, 1020, 2500), 3
TRAINED = {"epochs": 1, "batch_size": 64, "schedule": "cosine"}


@item("tables of many rows; a long list whose runs are all recorded", devices=("cpu",))
def tables(bench: Bench) -> list[Result]:
    """Measure what is done of a list when its runs are done.

    Args:
        bench: where, and how much.

    Returns:
        A line for the growth with rows, for the growth with runs, and for the longest of either.
    """
    return [*rows(bench), *runs(bench)]


def rows(bench: Bench) -> list[Result]:
    """Measure the tables and files of lists of more and more entries.

    Args:
        bench: where, and how much.

    Returns:
        The growth, and the seconds of the largest.
    """
    counts = tuple(count // 100 for count in ROWS) if bench.quick else ROWS
    sides: dict[str, Side] = {}
    for count in counts:
        jobs, found = recorded(bench, bench.folder / f"rows{count}.json", count, EACH)
        folder = bench.folder / f"rows{count}"
        folder.mkdir()
        sides[str(count)] = timed(partial(summarised, folder, jobs, found), bench.device)
    return grown(bench, "tables and files of a list with rows", counts, sides, bench.goal(most=3))


def summarised(folder: Path, jobs: list[Job], found: dict[str, Record]) -> None:
    """Make the tables of a list, and write their files.

    Args:
        folder: of the files.
        jobs: all runs of the list.
        found: their records by id.
    """
    write_summaries(folder, rows_of(jobs, found, {}))


def runs(bench: Bench) -> list[Result]:
    """Measure `salun-unlearn` of lists whose runs are all recorded: more and more runs of each of a hundred entries.

    Args:
        bench: where, and how much.

    Returns:
        The growth, and the seconds of the longest.
    """
    counts = tuple(count // 25 for count in RUNS[:2]) if bench.quick else RUNS
    sides, entries = dict[str, Side](), ENTRIES // (10 if bench.quick else 1)
    for count in counts:
        path, out = bench.folder / f"list{count}.json", bench.folder / f"out{count}"
        _, found = recorded(bench, path, entries, count)
        write(out / path.stem / "records.jsonl", found)
        asked = ["-L", str(path), "--nexp", str(count), "--out", str(out)]
        line = command("unlearn", *asked, "--no-log", "--keep", "none", "--device", str(bench.device))
        sides[str(entries * count)] = command_on(line, bench.folder, out / path.stem / "records.jsonl")
    sizes = tuple(entries * count for count in counts)
    return grown(bench, "salun-unlearn with recorded runs", sizes, sides, bench.goal(most=5))


def command_on(line: list[str], folder: Path, path: Path) -> Side:
    """Make a side of a command that finds all its runs recorded.

    Args:
        line: the command.
        folder: where it runs.
        path: the records, which stay as they are.

    Returns:
        The side.
    """
    size = path.stat().st_size

    def go() -> float:
        seconds = seconds_of(lambda: called(line, folder))
        if path.stat().st_size != size:
            raise RuntimeError(f"{path.name} is not as it was: the runs were done, or compared, again")
        return seconds

    return go


def recorded(bench: Bench, path: Path, entries: int, runs: int) -> tuple[list[Job], dict[str, Record]]:
    """Plan a list of one retraining and of fine-tunings at different rates, and make up the records of its runs.

    Args:
        bench: where.
        path: of the list, which is written.
        entries: of the list.
        runs: of each entry.

    Returns:
        The runs, and their records by id: those of one real run, with figures that differ a little.
    """
    entry = {**DIGITS, "recipe": TRAINED}
    tuned = [{**entry, "method": "ft", "lr": 0.01 + at / 10**6} for at in range(entries - 1)]
    path.write_text(json.dumps([{**entry, "method": "retrain"}, *tuned]))
    cache, experiment, problem = salun_on(bench, {**digits_entry(bench), "recipe": TRAINED})
    first = run_once(experiment, problem, 0, cache).record
    jobs = plan(validate(json.loads(path.read_text()), path.stem), Repeats(runs), cache, path.stem)
    values = {name: first.metrics.get(name) or 0.5 for name in check_metrics(())}
    noise, found = random.Random(0), dict[str, Record]()  # noqa: S311 - figures of no run
    for job in jobs:
        settings = resolved_settings(job.experiment, job.problem)
        metrics: dict[str, Value] = {name: value * noise.uniform(0.99, 1.01) for name, value in values.items()}
        found[job.id] = replace(first, id=job.id, settings=settings, seed=job.seed, metrics=metrics, tag=None)
    gold = [found[job.id] for job in jobs if job.experiment.is_gold]
    for number, record in found.items():
        partner = partner_of(record, gold)
        found[number] = replace(record, retrained=partner.id if partner else None)
    return jobs, found


def write(path: Path, found: dict[str, Record]) -> None:
    """Write records, all at once.

    Args:
        path: `records.jsonl`.
        found: records by id.
    """
    path.parent.mkdir(parents=True)
    contents = map(content_of, found.values())
    lines = (json.dumps(content | {DIGEST: figures_digest(content)}) + "\n" for content in contents)
    path.write_text("".join(lines))


def grown(bench: Bench, what: str, sizes: tuple[int, ...], sides: dict[str, Side], goal: Goal | None) -> list[Result]:
    """Measure sides of several sizes, and tell of the largest what it took.

    Args:
        bench: how often.
        what: is measured.
        sizes: of the sides, in their order.
        sides: by name.
        goal: for the seconds of the largest.

    Returns:
        The growth, and the seconds of the largest.
    """
    found = interleaved(sides, 1 if bench.quick else 5)
    growth = line_of(f"growth of {what}", sizes, found, bench.goal(most=LINEAR))
    return [growth, Result(f"{what}: {sizes[-1]:,}", "s", found[str(sizes[-1])], goal=goal)]
