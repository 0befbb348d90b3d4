import io
import re
from typing import Any

import pytest
from rich.console import Console

from salun.cli.console import make_console
from salun.cli.table import print_published, print_rows
from salun.experiments.record import Record
from salun.metrics import METRICS, load_metrics
from salun.reports.summary import Row, summarise

load_metrics()

MASK = {"keep": 0.5, "score": "sum", "batches": None, "file": None}


def record(
    method: str,
    figures: dict[str, float | None],
    *,
    seed: int = 0,
    mask: dict[str, Any] | None = None,
    share: float | None = 0.1,
) -> Record:
    """A run of resnet18 on cifar10 that forgets a share or, without one, class 3."""
    request = "class 3" if share is None else f"{share:g} of the training split"
    settings: dict[str, Any] = {
        "base": {"identity": "base", "model": "resnet18", "dataset": "cifar10", "recipe": None, "split": "s"},
        "forget": {
            "request": request,
            "classes": [3] if share is None else [],
            "share": share,
            "seed": 0,
            "fingerprint": request,
        },
        "method": method,
        "settings": {},
        "mask": mask,
    }
    return Record(
        id=f"{method}{seed}{mask}{share}",
        settings=settings,
        seed=seed,
        tag=None,
        metrics=figures,
        base_metrics=dict.fromkeys(figures, 0.0),
        curve=[],
        seconds={"mask": 0.0, "method": 1.0, "evaluation": 1.0},
        peak_memory=1,
        device="cpu",
        versions={},
        revision="r",
        split={"forget": 4500, "train": 45000},
        diverged=False,
    )


def four(value: float) -> dict[str, float | None]:
    """The four metrics that the gap is made of, all alike."""
    return dict.fromkeys(("UA", "RA", "TA", "MIA"), value)


def printed(rows: list[Row], width: int = 400, terminal: bool = False, published: bool = False) -> str:
    """Print rows on a console of a given width."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=terminal, color_system="standard")
    (print_published if published else print_rows)(console, rows)
    return out.getvalue()


def runs_of(name: str, *values: float, share: float | None = 0.1) -> tuple[str, list[Record]]:
    """An experiment whose runs have these metrics."""
    return name, [record(name, four(value), seed=seed, share=share) for seed, value in enumerate(values)]


def bold_lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if "\x1b[1m" in line and "%" not in line]


def plain(out: str) -> str:
    """What is printed, without the terminal's styles."""
    return re.sub(r"\x1b\[[0-9;]*m", "", out)


def test_only_the_nearest_method_is_bold_where_it_can_be_told_from_the_others() -> None:
    near, far = runs_of("rl", 0.45, 0.451, 0.449), runs_of("ga", 0.2, 0.22, 0.19)
    out = printed(summarise([runs_of("retrain", 0.5, 0.5), near, far]), terminal=True)
    (line,) = bold_lines(out)
    assert "rl" in line
    assert "45.00±0.10 †" in plain(line)
    assert "nearest to retraining: rl, distinguishable from all others (in bold)" in out
    out = printed(summarise([runs_of("retrain", 0.5, 0.5), near, runs_of("ga", 0.45, 0.448, 0.451)]), terminal=True)
    assert bold_lines(out) == []
    assert "nearest to retraining: rl, not distinguishable from ga (p " in out


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            [("retrain", 0.5), ("ft", 0.8), ("rl", 0.45), ("ga", 0.2)],
            "to retraining: rl; one run each: no test",
        ),
        (
            [("retrain", 0.5, 0.51), ("rl", 0.5, 0.52)],
            "to retraining: rl, with no other method to tell it from",
        ),
        ([("ft", 0.8), ("rl", 0.45)], "no gap without a 'retrain' entry"),
    ],
)
def test_nothing_is_bold_where_no_method_can_be_told_from_others(entries: list[Any], said: str) -> None:
    out = printed(summarise([runs_of(*entry) for entry in entries]), terminal=True)
    assert bold_lines(out) == []
    assert said in out
    assert out.splitlines()[0] == "resnet18 on cifar10, forgetting 0.1 of the training split: 4500 of 45000 images"


def test_each_forgetting_problem_has_its_table_and_its_best() -> None:
    rows = summarise(
        [
            runs_of(name, *(value + seed * slope for seed in range(3)), share=share)
            for share in (0.1, None)
            for name, value, slope in (("retrain", 0.5, 0), ("ft", 0.4, 0.001), ("rl", 0.45 if share else 0.1, 0))
        ]
    )
    out = printed(rows, terminal=True)
    assert out.count("resnet18 on cifar10, forgetting") == 2
    assert [line.split("m", 1)[1].split()[0] for line in bold_lines(out)] == ["rl", "ft"]


def test_marks_and_interval_stand_beside_the_numbers_and_are_explained() -> None:
    entries = [runs_of("retrain", 0.5, 0.52, 0.48), runs_of("rl", 0.51, 0.5), runs_of("ga", 0.9, 0.91)]
    out = plain(printed(summarise(entries)))
    head = next(line for line in out.splitlines() if "UA %" in line)
    assert re.search(r"gap %\s+95 % interval\s+n\s*$", head)
    (rl,) = (line for line in out.splitlines() if line.strip().startswith("rl"))
    (ga,) = (line for line in out.splitlines() if line.strip().startswith("ga"))
    assert rl.count("†") == 0
    assert ga.count("†") == 4
    assert re.search(r"40\.50\s+3\d\.\d\d–4\d\.\d\d", ga)
    assert "† differs from retraining beyond noise" in out
    assert "4 of 5 such tables would mark a true difference of UA " in out


def test_numbers_spreads_and_marks_are_below_each_other() -> None:
    entries = [("retrain", 0.05, 0.06), ("rl", 1.0, 0.5), ("ga", 0.9, 0.91), ("x", 0.5)]
    out = plain(printed(summarise([runs_of(*entry) for entry in entries])))
    titles = {"base", *(title for title, *_ in entries)}
    lines = [line for line in out.splitlines() if line.split()[:1] and line.split()[0] in titles][:5]

    def places(marks: str) -> list[int]:
        return sorted({place for line in lines for place, mark in enumerate(line) if mark in marks})

    spreads = places("±")
    assert len(spreads) == 4
    assert len(places("†")) == 4
    assert all(line[place - 3] == "." for line in lines for place in spreads)
    assert {line[place] for line in lines for place in spreads} == {"±", " "}


@pytest.mark.parametrize("width", [60, 100, 200])
def test_no_line_of_a_table_is_wider_than_the_terminal_and_the_four_metrics_stay(width: int) -> None:
    every = {name: 0.5 for name, found in METRICS.items() if found.unit != "table"}
    experiments = [
        (title, [record(method, every | four(value), seed=seed) for seed, value in enumerate((0.5, 0.52))])
        for title, method in (("retrain", "retrain"), ("saliency unlearning (lr 0.01)", "rl"))
    ]
    out = plain(printed(summarise(experiments), width=width)).splitlines()
    table = out[1 : next(place for place, line in enumerate(out) if line.startswith("not shown"))]
    assert all(len(line) <= width for line in table)
    assert all(name in out[2] for name in ("UA %", "RA %", "TA %", "MIA %", "gap %"))
    assert out[2].rstrip().endswith("n")
    assert "…" not in "".join(out)
    titles = "".join(line.split("  ")[0] for line in table).replace(" ", "")
    assert "saliencyunlearning(lr0.01)" in titles
    notes = "\n".join(out[1 + len(table) :])
    assert all(len(line) <= width for line in notes.splitlines())
    hidden = (
        re.sub(r"\s+", " ", notes.partition("one run")[0].partition("mean ±")[0]).partition(": ")[2].strip().split(", ")
    )
    known = [METRICS[name] for name in hidden if name in METRICS]
    kinds = ["original" if found.original else "default" if found.default else found.cost for found in known]
    order = ["original", "many models", "weights", "attack", "free", "default"]
    assert kinds == sorted(kinds, key=order.index)
    assert set(kinds) >= set(order[:4])


def test_where_output_goes_to_a_file_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(make_console(), summarise([("x" * 150, [record("ft", dict.fromkeys(METRICS, 0.5))])]))
    assert any("x" * 150 in line and "50.00" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("method", "masked", "share", "ua", "gap"),
    [
        ("retrain", False, 0.1, 5.24, 0.0),
        ("rl_split", True, 0.1, 2.85, 1.15),
        ("rl_split", False, 0.1, 7.61, 7.15),
        ("ga_small", False, 0.5, 0.40, 7.15),
        ("rl_split", True, 0.5, 7.75, 2.65),
    ],
)
def test_published_figures_stand_beside_ours(method: str, masked: bool, share: float, ua: float, gap: float) -> None:
    rows = summarise([("mine", [record(method, four(0.1234), mask=MASK if masked else None, share=share)])])
    out = printed(rows, published=True)
    assert "arXiv 2310.12508" in out
    heading = next(line for line in out.splitlines() if "UA % ours" in line)
    assert all(f"{name} % published" in heading for name in ("UA", "RA", "TA", "MIA", "gap"))
    (line,) = (line for line in out.splitlines() if line.split()[:1] == ["mine"])
    cells = re.split(r" {2,}", line.strip())
    assert cells[1:3] == [f"{ua:.2f}", "12.34"]
    assert cells[9] == f"{gap:.2f}"


@pytest.mark.parametrize(
    ("method", "mask", "share", "forget"),
    [
        ("ft", MASK, 0.1, {}),
        ("rl", MASK, 0.1, {}),
        ("ft", None, 0.2, {}),
        ("rl_split", {**MASK, "keep": 0.1}, 0.1, {}),
        ("rl_split", {**MASK, "score": "random"}, 0.1, {}),
        ("rl_split", {**MASK, "file": "m.pt", "digest": "d"}, 0.1, {}),
        ("rl_split", MASK, None, {}),
        ("rl_split", MASK, 0.1, {"stratified": True}),
    ],
)
def test_settings_that_no_paper_reports_have_no_published_figures(
    method: str, mask: dict[str, Any] | None, share: float | None, forget: dict[str, Any]
) -> None:
    run = record(method, four(0.5), mask=mask, share=share)
    run.settings["forget"] |= forget
    assert printed(summarise([("mine", [run])]), published=True) == "no published figures for these settings\n"
