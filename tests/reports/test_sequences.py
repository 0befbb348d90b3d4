import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from figures import assert_tidy, laid_out
from records import recorded

from salun.experiments.record import Record, run_id
from salun.reports.labels import rows_of_records
from salun.reports.plots.requests import requests_figure
from salun.reports.plots.style import styled
from salun.reports.requests import Chain, sequence_as_csv, sequences_of
from salun.reports.summary import Row


def chain(method: str, count: int, first: int = 0, runs: int = 2, **given: Any) -> list[Record]:
    """Runs of an experiment that forgets the classes from `first` on, one after another."""
    found = []
    for step in range(count):
        names = [f"class {label}" for label in range(first, first + step + 1)]
        before = [{"classes": [0], "share": None, "seed": 0, "fingerprint": f"print of {name}"} for name in names[:-1]]
        for seed in range(runs):
            record = recorded(method, seed, request=names[-1], **given)
            record.metrics.update({"passes": 100.0 * (step + 1), "UA_earlier": 0.5, "passes_total": 1000.0 * step})
            forget = record.settings["forget"] | ({"earlier": before} if before else {})
            settings = record.settings | {"forget": forget}
            found.append(replace(record, settings=settings, id=run_id(settings, seed)))
    return found


def rows_of(*chains: list[Record]) -> list[Row]:
    return rows_of_records([record for records in chains for record in records])


def titles(found: list[Chain]) -> list[tuple[str, int]]:
    return [(one.rows[0].title, len(one.rows)) for one in found]


def test_chains_are_found_as_far_as_they_have_come_with_the_base_model_over_all_requests() -> None:
    other = chain("rl", 1, lr=0.5)
    rows = rows_of(chain("retrain", 3), chain("rl", 3), chain("ft", 2), chain("ga", 1), other)
    (found,) = sequences_of(rows)
    assert titles(found) == [("base", 3), ("retrain", 3), ("rl (lr 0.1)", 3), ("ft", 2)]
    assert [value.mean for value in found[2].values("passes_total")] == [100.0, 1000.0, 2000.0]
    assert [value.mean for value in found[2].values("UA")] == [row.value("UA").mean for row in found[2].rows]
    lines = list(csv.DictReader(io.StringIO(sequence_as_csv(found))))
    assert [(line["title"], line["request"]) for line in lines[3:6]] == [("retrain", str(step)) for step in (1, 2, 3)]
    assert float(lines[7]["passes_total_mean"]) == 1000


def test_each_sequence_of_requests_stands_alone_and_lists_without_any_have_none() -> None:
    found = sequences_of(rows_of(chain("rl", 2), chain("rl", 3, first=4), chain("ft", 2, first=4)))
    assert [titles(each) for each in found] == [[("base", 2), ("rl", 2)], [("base", 3), ("rl", 3), ("ft", 2)]]
    assert sequences_of(rows_of(chain("rl", 1), chain("ft", 1))) == []


def test_several_drawn_shares_are_one_chain() -> None:
    drawn = []
    for step in (1, 2):
        for seed in (0, 1):
            record = recorded(request="0.1 of the training split")
            forget = {"classes": [], "share": 0.1, "seed": seed, "fingerprint": f"draw {seed} of request {step}"}
            before = [forget | {"fingerprint": f"draw {seed} of request 1"}] * (step - 1)
            settings = record.settings | {
                "forget": record.settings["forget"] | forget | ({"earlier": before} if before else {})
            }
            drawn.append(replace(record, settings=settings, id=run_id(settings, 0)))
    (found,) = sequences_of(rows_of_records(drawn))
    assert titles(found) == [("base", 2), ("rl", 2)]
    assert [len(row.records) for row in found[1].rows] == [2, 2]


@pytest.mark.parametrize("methods", [("rl",), ("retrain", "rl", "ft", "ga", "scrub", "amun")])
@pytest.mark.parametrize("runs", [1, 3])
def test_the_figure_is_tidy_and_draws_every_chain(methods: tuple[str, ...], runs: int) -> None:
    (found,) = sequences_of(rows_of(*(chain(method, 3, runs=runs) for method in methods)))
    with styled():
        figure = laid_out(requests_figure(found, "resnet_tiny on digits, 3 requests"))
    assert_tidy(figure)
    drawn = {axis.get_title(): len(axis.containers) for axis in figure.axes}
    assert drawn["RA: accuracy on the retain set, %"] == len(methods) + 1
    assert drawn["image passes of all requests so far"] == len(methods)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:1] == ["base"]
