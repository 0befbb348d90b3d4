"""Runs that lost more of what they were to keep than `--utility-floor` lets pass."""

import json

import pytest
from records import make, measured, written

from salun.reports.results import Results
from salun.reports.scores import Scores
from salun.reports.summary import lost, ruined, summarise
from salun.reports.tables import lines_of

BASE = measured(0.0, 0.97, 0.9, 0.0)


@pytest.mark.parametrize(
    ("values", "floor", "losses"),
    [
        ({"RA": 0.45, "TA": 0.9}, 5.0, {"RA": 52.0}),
        ({"RA": 0.92, "TA": 0.84}, 5.0, {"TA": 6.0}),
        ({"RA": 0.92, "TA": None}, 4.5, {"RA": 5.0}),
        ({"RA": 0.0, "TA": 0.0, "UA": 1.0}, 0.0, {}),
    ],
)
def test_losses_are_points_of_retain_and_test_accuracy_beyond_the_floor(
    values: dict[str, float | None], floor: float, losses: dict[str, float]
) -> None:
    assert lost(values, BASE, floor) == pytest.approx(losses)


def test_rows_with_such_runs_are_marked_and_told() -> None:
    good, bad = measured(0.9, 0.96, 0.89, 0.9), measured(0.9, 0.45, 0.88, 0.9)
    runs = [make("ga", seed, metrics=values, base_metrics=BASE) for seed, values in enumerate((bad, good, bad))]
    kept = ("ft", [make("ft", metrics=good, base_metrics=BASE)])
    rows = summarise([("ga", runs), kept])
    headings, lines = lines_of(rows)
    cells = {line[0]: dict(zip(headings, line, strict=True)) for line in lines}
    assert cells["ga"]["RA %"].endswith("↓")
    assert not any("↓" in cell for cell in (*cells["ft"].values(), *cells["base"].values(), cells["ga"]["TA %"]))
    told = "lost more than 5 points of RA or TA against the base model"
    texts = written(rows)
    assert f"↓ {told}, by runs: ga (2 of 3)" in texts["md"]
    assert r" $\downarrow$ &" in texts["tex"]
    assert [row["lost"] for row in json.loads(texts["json"])] == [0, 2, 0]
    assert f"↓ {told}, by runs: ga (2 of 3)" in str(Results(rows, None))  # type: ignore[arg-type]
    assert ruined(rows) == [f"2 of 4 runs {told}: ga; docs/choosing.md tells what to change"]
    assert ruined(summarise([("ga", runs), kept], floor=60.0)) == ruined(summarise([kept])) == []
    assert "↓" not in written(summarise([("ga", runs)], floor=0.0))["md"]


def test_scores_say_it_below_their_table() -> None:
    scores = Scores({"UA": 1.0, "RA": 0.45, "TA": 0.5}, base={"UA": 0.0, "RA": 0.97, "TA": 0.9})
    told = "lost 52.00 points of RA and 40.00 points of TA against the base model"
    assert str(scores).splitlines()[-1] == told
    assert scores._repr_html_().endswith(f"</table>\n<p>{told}</p>")
    assert "lost" not in str(Scores({"RA": 0.45}))
