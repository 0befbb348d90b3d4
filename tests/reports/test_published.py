import csv
import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from salun.experiments.config import Experiment
from salun.experiments.plan import Job
from salun.experiments.record import Record
from salun.experiments.schema import load_experiments, validate
from salun.metrics import load_metrics
from salun.reports.published import as_csv, as_page, compared, missing

load_metrics()

ROOT = Path(__file__).resolve().parents[2]
KNOWN = json.loads((resources.files("salun") / "published.json").read_text())
COMMON = {"model": "resnet18", "dataset": "cifar10", "unlearning_rate": 0.1}
LIST = [
    {**COMMON, "method": "retrain", "tag": "Retrain"},
    {**COMMON, "method": "ft", "tag": "FT"},
    {**COMMON, "method": "scrub"},
]
GOLD = {"UA": 0.0524, "RA": 1.0, "TA": 0.9426, "MIA": 0.1288, "RTE": 2597.4}
RATE = 1000.0


def asked(entries: list[dict[str, Any]] = LIST) -> list[Experiment]:
    return validate(entries, "test")


def jobs_of(experiments: list[Experiment], runs: int) -> list[Job]:
    """Runs of a list whose problems nobody looks at."""
    problem: Any = None
    return [
        Job(each, problem, seed, seed + 1, seed + 1 == runs, f"{each.number} {seed}")
        for each in experiments
        for seed in range(runs)
    ]


def record_of(job: Job, metrics: dict[str, float | None]) -> Record:
    settings: dict[str, Any] = {
        "base": {"identity": "b", "model": "resnet18", "dataset": "cifar10", "recipe": {"epochs": 3}, "split": "s"},
        "forget": {"request": "a share", "classes": [], "share": 0.1, "seed": 0, "fingerprint": "f"},
        "method": job.experiment.method,
        "settings": {},
        "mask": None,
    }
    return Record(
        id=job.id,
        settings=settings,
        seed=job.seed,
        tag=job.experiment.tag,
        metrics=metrics,
        base_metrics={"UA": 0.0, "RA": 1.0, "TA": 0.95, "MIA": 0.01},
        curve=[],
        seconds={"mask": 0.0, "method": 1.0, "evaluation": 1.0},
        peak_memory=1,
        device="cpu",
        versions={},
        revision="r",
        split={"forget": 4500, "train": 45000},
        diverged=False,
        passes={"method": {"forward": 40, "backward": 30 + job.seed}},
    )


def tables(runs: int = 3, spread: float = 0.001, **of_ft: float) -> list[Any]:
    """The list's comparison; runs of FT scatter about these metrics, all others about retraining's figures."""
    done = {}
    for job in jobs_of(asked(), runs):
        centre = GOLD | (of_ft if job.experiment.method == "ft" else {})
        metrics = {name: value + spread * (job.seed - (runs - 1) / 2) for name, value in centre.items() if name != "RA"}
        done[job.id] = record_of(job, {**metrics, "RA": centre["RA"]})
    return compared(asked(), jobs_of(asked(), runs), done)


def page(found: list[Any], judge: bool = True) -> str:
    return as_page("A title", found, ["A remark."], RATE, judge)


def cells(found: list[Any], title: str, judge: bool = True) -> dict[str, str]:
    """The cells of a method by heading."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page(found, judge).splitlines() if "|" in line
    ]
    heads = next(line for line in lines if "UA % published" in line)
    return dict(zip(heads, next(line for line in lines if line[0] == title), strict=True))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_published_gaps_follow_from_the_published_means(share: float) -> None:
    (rows,) = (entry["rows"] for entry in KNOWN if entry["unlearning_rate"] == share and "table 1" in entry["source"])
    gold = rows[0]["metrics"]
    assert len(rows) == 10
    for row in rows:
        parts = [abs(row["metrics"][name] - gold[name]) for name in ("UA", "RA", "TA", "MIA")]
        assert row["metrics"]["gap"] == pytest.approx(sum(parts) / 4, abs=0.0101), row["name"]


def test_every_published_figure_has_an_experiment_and_no_other_is_shown() -> None:
    lists = [
        load_experiments(ROOT / f"exp/{name}.json") for name in ("paper_random10", "paper_random50", "amun", "not")
    ]
    lines = [line for experiments in lists for table in compared(experiments, [], {}) for line in table.lines]
    assert {
        (line.source, line.title.split(",")[0], column, figure.mean)
        for line in lines
        for column, figure in line.figures.items()
        if column != "RTE"
    } == {
        (entry["source"], row["name"], column, mean)
        for entry in KNOWN
        for row in entry["rows"]
        for column, mean in row["metrics"].items()
    }


def test_a_published_mean_without_a_standard_deviation_is_held_against_our_interval() -> None:
    found = tables(UA=0.0063, TA=0.9000)
    ft = cells(found, "FT")
    reach = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert ft["UA % published"] == "0.63"
    assert ft["UA % ours"] == f"0.63 ({0.63 - reach:.2f} to {0.63 + reach:.2f}) within"
    assert ft["TA % ours"].startswith("90.00 (")
    assert ft["TA % ours"].endswith(" outside")
    assert ft["RTE min published"] == "2.37"
    assert re.fullmatch(r"43\.29 \(\S+ to \S+\)", ft["RTE min ours"])
    assert "our 95 % interval holds that mean" in page(found)
    assert "Welch" not in page(found)


def test_rounding_of_published_means_tells_nothing_apart() -> None:
    assert cells(tables(RA=0.99884), "FT")["RA % ours"] == "99.88 (99.88 to 99.88) within"
    assert cells(tables(RA=0.99870), "FT")["RA % ours"].endswith("outside")


@pytest.mark.parametrize("apart", [0.1, 0.2, 0.3, 0.5, 1.0])
def test_a_published_standard_deviation_makes_it_welchs_test(monkeypatch: pytest.MonkeyPatch, apart: float) -> None:
    rows = [{"method": "ft", "use_mask": False, "metrics": {"UA": 5.0}, "sd": {"UA": 0.3}}]
    entry = {"source": "A paper", "trials": 10, **COMMON, "rows": rows}
    monkeypatch.setattr("salun.reports.published.read_json", lambda path: [entry])
    found = tables(runs=4, UA=(5 + apart) / 100)
    ours = [100 * record.metrics["UA"] for record in found[0].lines[2].row.records]
    p = stats.ttest_ind_from_stats(
        sum(ours) / 4, stats.tstd(ours), 4, 5 + 0.005, 0.3, 10, equal_var=False
    ).pvalue  # the published mean may be half a digit nearer
    ft = cells(found, "FT")
    assert ft["UA % published"] == "5.00±0.30"
    assert ft["UA % ours"].endswith("within" if p > 0.05 else "outside")
    assert (apart > 0.25) == (p < 0.05)
    assert "Welch" in page(found)
    assert "Cells: " + ("0 within, 1 outside" if p < 0.05 else "1 within, 0 outside") in page(found)


def test_what_is_not_known_is_said_and_not_judged() -> None:
    found = tables()
    scrub, base = cells(found, "scrub"), cells(found, "base")
    assert {scrub[name] for name in scrub if name.endswith("published")} == {"not known here"}
    assert {base[name] for name in base if name.endswith("published")} == {"–"}
    assert not [text for line in (scrub, base) for text in line.values() if "within" in text or "outside" in text]
    assert base["TA % ours"] == "95.00"


def test_one_run_has_no_verdict() -> None:
    assert cells(tables(runs=1), "FT")["UA % ours"] == "5.24"
    assert "Cells: 0 within, 0 outside, of 10 published." in page(tables(runs=1))


def test_a_check_shows_figures_and_compares_nothing() -> None:
    text = page(tables(), judge=False)
    assert "compares nothing" in text
    assert "compares nothing" not in page(tables())
    assert not re.search(r"within|outside", text)
    assert cells(tables(), "FT", judge=False)["UA % published"] == "0.63"


def test_the_page_counts_verdicts_and_reckons_the_cost() -> None:
    text = page(tables(UA=0.0063, RA=0.9988, TA=0.9406, MIA=0.0270))
    assert "A remark." in text
    assert "Published: Fan et al., SalUn, ICLR 2024 (arXiv 2310.12508), table 1." in text
    verdicts = [text.count(f") {verdict} |") for verdict in ("within", "outside")]
    assert sum(verdicts) == 9  # the gap of retraining has no interval
    assert f"Cells: {verdicts[0]} within, {verdicts[1]} outside, of 10 published." in text
    passes, base = 3 * (70 + 71 + 72), 2 * 3 * 45000
    assert (
        f"| resnet18 on cifar10, forgetting 0.1 of the training split | 9 | {passes} | {passes / 2 / RATE:.1f} |"
        in text
    )
    assert f"| base models, by their recipes | 1 | {base} | {base / 2 / RATE:.1f} |" in text
    assert f"| all | 10 | {passes + base} | {(passes + base) / 2 / RATE:.1f} |" in text
    assert cells(tables(), "FT")["passes a run"] == "71"


def test_missing_rows_runs_and_cells_are_named() -> None:
    jobs = jobs_of(asked(), 2)
    done = {job.id: record_of(job, dict(GOLD)) for job in jobs}
    assert missing(compared(asked(), jobs, done), 2) == []
    where = "resnet18 on cifar10, forgetting 0.1 of the training split"
    del done[jobs[-1].id]
    assert missing(compared(asked(), jobs, done), 2) == [f"{where}: scrub: 1 of 2 runs"]
    del done[jobs[-2].id]
    (line,) = missing(compared(asked(), jobs, done), 2)
    assert line == f"{where}: scrub: 0 of 2 runs; no UA, RA, TA, MIA, gap, RTE"
    done = {job.id: record_of(job, GOLD | ({"MIA": None} if job.experiment.tag == "FT" else {})) for job in jobs}
    assert missing(compared(asked(), jobs, done), 2) == [f"{where}: FT: no MIA, gap"]
    lacking = missing(compared(asked(), jobs, {}), 2)
    assert [line.split(": ")[1] for line in lacking] == ["base", "Retrain", "FT", "scrub"]


def test_the_spreadsheet_has_a_line_a_cell() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(tables(UA=0.0063), judge=True))))
    assert len(lines) == 4 * 6
    (ua,) = (line for line in lines if (line["method"], line["column"]) == ("FT", "UA"))
    assert (ua["published"], ua["published sd"], ua["trials"], ua["verdict"]) == ("0.63", "", "10", "within")
    assert float(ua["ours"]) == pytest.approx(0.63)
    assert float(ua["low"]) < 0.63 < float(ua["high"])
    assert {line["verdict"] for line in csv.DictReader(io.StringIO(as_csv(tables(), judge=False)))} == {"–"}
