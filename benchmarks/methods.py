"""Every method on one data set: settings searched, lists run, records kept in compact form, and the page of results."""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.answers import against_base, mask_lines, nearest_lines, order_lines, passes_lines
from benchmarks.report import processor
from salun.experiments import records
from salun.experiments.record import Record
from salun.reports.labels import rows_of_records
from salun.reports.search import list_text
from salun.reports.summary import Row
from salun.reports.tables import as_markdown

KEPT, RUNS, DOCS = Path("docs/records"), Path("runs"), Path("docs")
# Lists that name a network of `examples/`, which an installed package lacks, do not belong to the package's own.
_LISTS = Path("benchmarks/lists")
FOUND = "## What was found"
_TRIALS = 5
_SEARCH = ("--trials", str(_TRIALS), "--cells", "1", "--finalists", "2", "--repeats", "1")
_MASKED = ("ft", "ga_small", "neggrad_plus", "rl", "rl_split", "amnesiac", "scrub", "bad_teacher")
_SCORES = ("sum", "random", "inverted")
_BEST = 8
_TRIGGER = {"kind": "trigger", "share": 0.05, "target": 0, "found": 0.5}
_REQUESTS = [{"class_to_forget": number} for number in range(3)]
_PROBLEM_KEYS = ("class_to_forget", "unlearning_rate", "forget_seed", "base_seed")


@dataclass(frozen=True)
class Benchmark:
    """What is run on a data set.

    Attributes:
        name: of the page: `docs/benchmark_NAME.md`.
        about: model and data, as the page's first line has them.
        runs: of each entry.
        problems: lists by the heading of their table.
        budget: image passes of a run at most, where settings are searched.
        bases: base models of each entry.
        derived: whether lists of masks and of scenarios follow from those of the problems.
    """

    name: str
    about: str
    runs: int
    problems: dict[str, str]
    budget: int
    bases: int = 1
    derived: bool = False

    @property
    def page(self) -> Path:
        """Where the page is."""
        return DOCS / f"benchmark_{self.name}.md"

    @property
    def masks(self) -> list[str]:
        """Lists of masks, one a problem."""
        return [f"{name}_masks" for name in self.problems.values()] if self.derived else []

    @property
    def scenarios(self) -> dict[str, str]:
        """Lists of other scenarios by heading."""
        if not self.derived:
            return {}
        headings = {"corrective": "A backdoor, half of it found", "requests": "Three classes, one after the other"}
        return {heading: f"{self.name}_{kind}" for kind, heading in headings.items()}


BENCHMARKS = {
    "digits": Benchmark(
        "digits",
        "resnet_tiny on scikit-learn's digits",
        5,
        {"Forgetting class 0": "all_methods_class", "Forgetting a random 10 %": "all_methods_random"},
        budget=23_400,
    ),
    "fashion_mnist": Benchmark(
        "fashion_mnist",
        "a network of three convolutions (`examples/small_cnn.py`) on 20,000 images of Fashion-MNIST, two base models",
        3,
        {"Forgetting class 0": "fashion_mnist_class", "Forgetting a random 10 %": "fashion_mnist_random"},
        budget=324_000,
        bases=2,
        derived=True,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing of a benchmark, and write its page."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument(
        "--page", action="store_true", help="write the page from the records that are kept, run nothing"
    )
    parser.add_argument("--search", action="store_true", help="search the settings anew, and write the lists alone")
    flags = parser.parse_args(argv)
    benchmark = BENCHMARKS[flags.name]
    lists = [*benchmark.problems.values()]
    if flags.search:
        _search(benchmark, lists)
        return 0
    if not flags.page:
        _search(benchmark, [name for name in lists if not list_of(name).exists()])
        _run(lists, benchmark.runs)
        if benchmark.derived:
            _derive(benchmark)
            _run(benchmark.masks, benchmark.runs)
            _run([*benchmark.scenarios.values()], benchmark.runs)
        _note_hardware(benchmark)
    explained = benchmark.page.read_text().partition(FOUND)[2] if benchmark.page.exists() else ""
    benchmark.page.write_text("\n\n".join([*page(benchmark), FOUND]) + (explained or "\n"))
    return 0


def list_of(name: str) -> Path:
    """Find a list of experiments: one of the package, or of the benchmarks."""
    packaged = Path("exp", f"{name}.json")
    return packaged if packaged.exists() else _LISTS / f"{name}.json"


def _side_by_side(commands: Sequence[Sequence[str]]) -> None:
    """Run commands of this environment side by side."""
    folder = Path(sys.executable).parent
    running = [subprocess.Popen([str(folder / name), *given]) for name, *given in commands]
    if sum(process.wait() for process in running):
        sys.exit("not all runs were done; the same command goes on")


def _search(benchmark: Benchmark, names: Sequence[str]) -> None:
    """Search the settings of lists, which are written for all base models."""
    limits = [*_SEARCH, "--budget", str(benchmark.budget), "-NL"]
    _side_by_side([["salun-tune", "-L", str(list_of(f"search_{name}")), *limits] for name in names])
    for name in names:
        folder = RUNS / "tune" / f"search_{name}"
        tuned = json.loads((folder / "tuned.json").read_text())
        bases = {"base_seed": [*range(benchmark.bases)]} if benchmark.bases > 1 else {}
        # Trials end at the budget; the runs of the page take all their epochs, and are compared by passes and gap.
        _write_list(name, [{key: entry[key] for key in entry if key != "budget"} | bases for entry in tuned])
        KEPT.mkdir(exist_ok=True)
        shutil.copy(folder / "trials.csv", KEPT / f"search_{name}.csv")
        shutil.copy(folder / "summary.md", KEPT / f"search_{name}.md")


def _write_list(name: str, entries: Sequence[dict[str, Any]]) -> None:
    """Write a list of experiments."""
    list_of(name).write_text(list_text(entries))


def _run(names: Sequence[str], runs: int) -> None:
    """Run lists side by side, and keep their records."""
    given = ["--nexp", str(runs), "--keep", "none", "-NL"]
    _side_by_side([["salun-unlearn", "-L", str(list_of(name)), *given] for name in names])
    for name in names:
        keep(name)


def _derive(benchmark: Benchmark) -> None:
    """Write the lists of masks, and those of other scenarios with the methods that came nearest to retraining."""
    lists = {name: json.loads(list_of(name).read_text()) for name in benchmark.problems.values()}
    for name, entries in lists.items():
        plain = {entry["method"]: entry for entry in entries if not entry.get("use_mask")}
        masks = [
            plain[method] | {"base_seed": 0, "use_mask": True, "mask_thr": 0.5, "mask_score": score}
            for method in _MASKED
            for score in _SCORES
        ]
        _write_list(f"{name}_masks", masks)
    by_class, at_random = lists.values()
    best = _best(benchmark)
    corrupted = [{"method": "retrain", "leave_out": "found"}, *_chosen(at_random, best)]
    _write_list(f"{benchmark.name}_corrective", _elsewhere(at_random, corrupted, "corrupt", _TRIGGER))
    _write_list(f"{benchmark.name}_requests", _elsewhere(by_class, _chosen(by_class, best), "requests", _REQUESTS))


def _chosen(entries: Sequence[dict[str, Any]], titles: Sequence[str]) -> list[dict[str, Any]]:
    """Take the entries of some methods, by tag or method, without their problem."""
    found = {entry.get("tag") or entry["method"]: entry for entry in entries}
    return [{key: value for key, value in found[title].items() if key not in _PROBLEM_KEYS} for title in titles]


def _elsewhere(entries: Sequence[dict[str, Any]], chosen: Sequence[Any], key: str, value: Any) -> list[dict[str, Any]]:
    """Put entries on another problem, beside retraining."""
    head = {name: entries[0][name] for name in ("model", "dataset")} | {key: value}
    recipe = {"recipe": entries[0]["recipe"]}
    return [head | entry | recipe for entry in ({"method": "retrain"}, *chosen)]


def _best(benchmark: Benchmark) -> list[str]:
    """Name the methods of the smallest gap, on the mean over problems and base models."""
    gaps: dict[str, list[float]] = {}
    for name in benchmark.problems.values():
        for row in rows_of_records([*records.read(RUNS / name / "records.jsonl")[0].values()]):
            if row.kind == "method" and row.gap.mean is not None:
                gaps.setdefault(_title(row.records[0]), []).append(row.gap.mean)
    most = max(map(len, gaps.values()))
    return sorted((title for title in gaps if len(gaps[title]) == most), key=lambda title: sum(gaps[title]))[:_BEST]


def _title(record: Record) -> str:
    """Name a record as its list's entry does, whatever the base model."""
    title = record.tag or str(record.settings["method"])
    return title.removesuffix(f", base_seed {record.settings['base']['seed']}")


def keep(name: str) -> None:
    """Keep the records of a list in compact form: without curves, compressed.

    Args:
        name: of the list, as `runs/` has it.
    """
    lines = []
    for record in records.read(RUNS / name / "records.jsonl")[0].values():
        content = records.content_of(replace(record, curve=[]))
        lines.append(json.dumps(content | {records.DIGEST: records.figures_digest(content)}) + "\n")
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{name}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def kept(name: str) -> list[Record]:
    """Read the records of a list that `keep` kept; none where it kept none."""
    path = KEPT / f"{name}.jsonl.gz"
    if not path.exists():
        return []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "records.jsonl")
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        return [*records.read(plain)[0].values()]


def _note_hardware(benchmark: Benchmark) -> None:
    """Write down which processor ran a benchmark."""
    path = KEPT / "hardware.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {benchmark.name: processor()}, indent=1) + "\n")


def page(benchmark: Benchmark) -> Iterator[str]:
    """Render a page from the records that are kept.

    Args:
        benchmark: whose.

    Returns:
        Blocks of Markdown, all but the last section, which is written by hand.
    """
    yield f"# Every method on {benchmark.name}"
    yield _introduction(benchmark)
    groups: dict[str, list[Row]] = {}
    for heading, name in benchmark.problems.items():
        groups[heading] = rows_by_base(kept(name))
        yield f"## {heading}"
        yield from _problem_blocks(groups[heading])
    yield from order_lines(groups)
    yield from _mask_blocks(benchmark, groups)
    for heading, name in benchmark.scenarios.items():
        if found := kept(name):
            yield f"## {heading}"
            yield as_markdown(rows_of_records(found)).strip()


def rows_by_base(found: Sequence[Record]) -> list[Row]:
    """Summarise runs of each base model apart, as three seeds on two models say more of each than of all models.

    Args:
        found: records of one problem.

    Returns:
        Rows, those of one base model after those of another.
    """
    apart: dict[int, list[Record]] = {}
    for record in found:
        apart.setdefault(record.settings["base"]["seed"], []).append(replace(record, tag=_title(record)))
    return [row for records_of_one in apart.values() for row in rows_of_records(records_of_one)]


def _problem_blocks(rows: list[Row]) -> Iterator[str]:
    """Render what a problem's tables say, and the tables."""
    parts: tuple[Callable[[list[Row]], list[str]], ...] = (against_base, nearest_lines, passes_lines)
    for part in parts:
        yield "\n".join(part(rows))
    yield as_markdown(rows).strip()


def _mask_blocks(benchmark: Benchmark, groups: Mapping[str, list[Row]]) -> Iterator[str]:
    """Compare methods with themselves under each mask, where such runs are kept."""
    masked = [kept(name) for name in benchmark.masks]
    if not all(masked) or not masked:
        return
    yield "## Masks: salient, random and inverted"
    for (heading, rows), found in zip(groups.items(), masked, strict=True):
        yield f"### {heading}"
        yield from mask_lines(rows_by_base([*(record for row in rows for record in row.records), *found]))


def _introduction(benchmark: Benchmark) -> str:
    """Tell what ran, how often, when and where."""
    found = [record for name in benchmark.problems.values() for record in kept(name)]
    last = max(found, key=lambda record: record.finished)
    versions = ", ".join(f"{name} {last.versions[name]}" for name in ("python", "torch", "timm"))
    hardware = json.loads((KEPT / "hardware.json").read_text())[benchmark.name]
    pages = ", ".join(f"[{name}](records/search_{name}.md)" for name in benchmark.problems.values())
    settings = (
        f"settings by `salun-tune`, {_TRIALS} trials a method, which ended at {benchmark.budget:,} passes, forward and "
        f"backward, where the runs below take all their epochs: {pages}"
    )
    return (
        f"Written by `scripts/benchmark {benchmark.name}` from the records in `docs/records/`: {benchmark.about}; "
        f"{benchmark.runs} runs of each method on each problem; {settings}. "
        f"{hardware}, {last.device}; {versions}; salun {last.revision}, {last.finished[:10]}."
    )
