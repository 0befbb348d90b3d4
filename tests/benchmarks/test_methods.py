"""Pages of benchmarks: what they answer, and that they say what the kept records say."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import METRICS, recorded, runs, write_runs
from scipy.stats import t

from benchmarks import methods
from benchmarks.answers import against_base, mask_lines, nearest_lines, order_lines, passes_lines
from benchmarks.methods import BENCHMARKS, FOUND, Benchmark, keep, kept, list_of, page, rows_by_base
from salun.experiments.record import Record
from salun.experiments.schema import load_experiments
from salun.experiments.search_space import read_studies
from salun.reports.labels import rows_of_records
from salun.reports.summary import grouped
from salun.unlearning import METHODS, load_methods

ROOT = Path(__file__).resolve().parents[2]
FORMS = ((None, "sum"), (0.5, "sum"), (0.5, "random"), (0.5, "inverted"))
KEPT = [
    benchmark
    for benchmark in BENCHMARKS.values()
    if (ROOT / f"docs/records/{next(iter(benchmark.problems.values()))}.jsonl.gz").exists()
]


def masked(method: str = "rl") -> list[Record]:
    """Three runs of a method without a mask and with each."""
    found = []
    for place, (keep_share, score) in enumerate(FORMS):
        for seed in range(3):
            values = dict.fromkeys(METRICS, 0.5 + 0.03 * place + 0.01 * seed * (place + 1))
            found.append(recorded(method, seed, keep=keep_share, score=score, values=values))
    return found


def test_masks_are_compared_over_pairs_of_runs() -> None:
    rows = rows_of_records([*runs(method="retrain"), *masked()])
    text = mask_lines(rows)
    by_form = {
        row.records[0].settings["mask"] and row.records[0].settings["mask"]["score"]: row
        for row in rows
        if row.kind == "method"
    }
    gaps = {form: np.array([gap["average"] for gap in row.gaps]) for form, row in by_form.items()}
    (line,) = (line for line in text[1].splitlines() if line.startswith("| rl "))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[:4] == [f"{100 * by_form[form].gap.mean:.2f}" for form in (None, "sum", "random", "inverted")]
    for cell, other in zip(cells[4:], (None, "random", "inverted"), strict=True):
        apart = 100 * (gaps["sum"] - gaps[other])
        mean, reach = apart.mean(), t.ppf(0.975, 2) * apart.std(ddof=1) / np.sqrt(3)
        shown = [float(number) for number in re.findall(r"[+-][\d.]+", cell)]
        assert shown == pytest.approx([mean, mean - reach, mean + reach], abs=0.05)
    assert "1 pairs" not in text[-1]  # a mean of one pair has no interval


def test_the_mean_over_methods_has_an_interval() -> None:
    rows = rows_of_records([*runs(method="retrain"), *masked("rl"), *masked("ft")])
    lines = mask_lines(rows)[-1].splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"- salient less {name}" for name in ("without", "random", "inverted")
    ]
    assert all("mean over 2 pairs" in line for line in lines)


def test_the_front_of_passes_and_gaps() -> None:
    def spent(method: str, passes: int, distance: float) -> list[Record]:
        cost = {"mask": {}, "method": {"forward": passes, "backward": 0}}
        return [recorded(method, seed, values=dict.fromkeys(METRICS, 0.5 + distance), passes=cost) for seed in range(2)]

    gold = [recorded("retrain", seed, values=dict.fromkeys(METRICS, 0.5)) for seed in range(2)]
    found = [*gold, *spent("ssd", 10, 0.2), *spent("ft", 100, 0.1), *spent("rl", 200, 0.15), *spent("ga", 300, 0.05)]
    rows = rows_of_records(found)
    (line,) = passes_lines(rows)
    assert re.findall(r"(\w+) \((\d+) passes", line) == [("ssd", "10"), ("ft", "100"), ("ga", "300")]
    (floor,) = nearest_lines(rows)
    assert "within it: none" in floor
    (told,) = against_base(rows)
    assert "of 4 rows have a smaller one" in told


def test_orders_are_correlated() -> None:
    names = ["ft", "rl_split", "ga_small", "iu", "ssd"]
    gold = runs(method="retrain")
    groups = {}
    for title, order in (("first", names), ("second", names[::-1])):
        found = [
            recorded(name, seed, values=dict.fromkeys(METRICS, 0.2 + 0.1 * place))
            for place, name in enumerate(order)
            for seed in range(2)
        ]
        groups[title] = rows_of_records([*gold, *found])
    text = order_lines(groups)[-1]
    assert "- first, base model 1 against second, base model 1: " in text
    assert "against the published order: " in text


def test_each_base_model_has_a_table_and_methods_are_called_alike_in_both() -> None:
    found = []
    for base in (0, 1):
        for record in [*runs(method="retrain"), *runs(method="ft"), *masked()]:
            place = record.settings["base"] | {"seed": base, "identity": f"recipe {base}"}
            settings = record.settings | {"base": place}
            method, mask = settings["method"], settings["mask"]
            tag = f"{'SalUn' if mask else method}, base_seed {base}"
            found.append(replace(record, id=f"{record.id} {base}", settings=settings, tag=tag))
    rows = rows_by_base(found)
    apart = {base: [row.title for row in members] for base, members in enumerate(grouped(rows).values())}
    assert len(apart) == 2
    assert apart[0] == apart[1]
    assert apart[0][:3] == ["base", "retrain", "ft"]
    assert not any("base_seed" in title for title in apart[0])
    assert len(against_base(rows)) == 2


def test_kept_records_are_those_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(methods, "KEPT", tmp_path / "kept")
    folder = tmp_path / "runs/some"
    folder.mkdir(parents=True)
    made = runs(method="rl", keep=0.5)
    write_runs(folder / "records.jsonl", made)
    keep("some")
    found = kept("some")
    assert [(one.id, one.metrics, one.settings) for one in found] == [
        (one.id, one.metrics, one.settings) for one in made
    ]
    assert not any(record.edited for record in found)
    assert not any(record.curve for record in found)
    before = (tmp_path / "kept/some.jsonl.gz").read_bytes()
    keep("some")
    assert (tmp_path / "kept/some.jsonl.gz").read_bytes() == before
    assert kept("other") == []


@pytest.mark.parametrize("benchmark", KEPT, ids=lambda benchmark: benchmark.name)
class TestPages:
    @pytest.fixture(autouse=True)
    def at_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)

    def test_a_page_says_what_its_records_say(self, benchmark: Benchmark) -> None:
        text, found, explained = benchmark.page.read_text().partition(FOUND)
        assert text.strip() == "\n\n".join(page(benchmark)).strip()
        assert found
        assert explained.strip()

    def test_every_method_has_runs_on_each_base_model(self, benchmark: Benchmark) -> None:
        load_methods()
        for name in benchmark.problems.values():
            counts: dict[tuple[str, str, str], int] = {}
            for record in kept(name):
                key = record.settings["method"], json.dumps(record.settings, sort_keys=True), record.tag or ""
                counts[key] = counts.get(key, 0) + 1
            assert set(counts.values()) == {benchmark.runs}
            listed = {experiment.method for experiment in load_experiments(list_of(name))}
            assert {method for method, *_ in counts} == listed
            classwise = all(experiment.forget.classes for experiment in load_experiments(list_of(name)))
            assert listed == {method for method in METHODS if classwise or not METHODS[method].classwise}


@pytest.mark.parametrize(
    ("name", "bases"),
    [(name, benchmark.bases) for benchmark in BENCHMARKS.values() for name in benchmark.problems.values()],
)
def test_lists_hold_every_method_with_the_settings_that_were_found(
    name: str, bases: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    load_methods()
    experiments = load_experiments(list_of(name))
    classwise = all(experiment.forget.classes for experiment in experiments)
    listed = {experiment.method for experiment in experiments}
    assert listed == {method for method in METHODS if classwise or not METHODS[method].classwise}
    assert {experiment.base_seed or 0 for experiment in experiments} == {*range(bases)}
    studies = read_studies(json.loads(list_of(f"search_{name}").read_text()), name)
    with (ROOT / f"docs/records/search_{name}.csv").open(newline="") as file:
        tried = [(line["entry"], json.loads(line["settings"])) for line in csv.DictReader(file)]
    entries = [entry for entry in json.loads(list_of(name).read_text()) if entry["method"] != "retrain"]
    for study, entry in zip(studies, entries, strict=True):
        chosen = {key: entry[key] for key in study.space}
        assert (study.title, chosen) in tried
        assert sum(title == study.title for title, _ in tried) <= 5
