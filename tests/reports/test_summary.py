import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from records import METRIC_VALUES, make, measured, near, rows_by_title, spread_out, with_request, written
from scipy import stats

from salun.experiments.record import Record
from salun.metrics import Value
from salun.reports.statistics import estimate
from salun.reports.summary import best_of, gap_to, grouped, is_distinct, nearest, partly_known, summarise
from salun.reports.tables import columns_of, group_titles, legend

Entry = tuple[str, list[Record]]


def entry(title: str, *metrics: dict[str, Value], **fields: Any) -> Entry:
    """Runs of a method with these metrics, called like it."""
    return title, [make(title, seed, metrics=values, **fields) for seed, values in enumerate(metrics)]


def distances(*gaps: float) -> list[dict[str, Value]]:
    """Metrics of runs with these average gaps to `near(0)`."""
    return [near(4 * gap) for gap in gaps]


RETRAINED = entry("retrain", near(-0.001), near(0.0), near(0.001))


# Gaps


def test_gaps_are_distances_to_the_mean_of_the_retrained_models() -> None:
    base = measured(0.0, 1.0, 0.9, 0.0)
    gold = [measured(ua, 1.0, 0.9, 0.2, RTE=100.0, TUA=None) for ua in (0.4, 0.6)]
    runs = [measured(0.3, 0.9, 0.95, 0.3, RTE=1.0, TUA=0.5), measured(0.9, 1.0, 0.90, 0.2, RTE=2.0, TUA=0.5)]
    rows = rows_by_title(entry("retrain", *gold, base_metrics=base), entry("rl", *runs, base_metrics=base))
    first, second = rows["rl"].gaps
    assert first == pytest.approx({"UA": 0.2, "RA": 0.1, "TA": 0.05, "MIA": 0.1, "TUA": None, "average": 0.1125})
    assert second == pytest.approx({"UA": 0.4, "RA": 0.0, "TA": 0.0, "MIA": 0.0, "TUA": None, "average": 0.1})
    assert rows["rl"].gap.mean == pytest.approx((0.1 + 0.05 + 0.025 + 0.05) / 4)  # of the means, as papers have it
    assert rows["rl"].gap.n == 2
    assert rows["base"].gap.mean == pytest.approx((0.5 + 0.2) / 4)
    assert rows["retrain"].gaps == ()
    assert rows["retrain"].gap.mean == pytest.approx(0.2 / 4)  # of each retrained model to the other
    assert (rows["retrain"].gap.low, rows["retrain"].distance) == (None, None)


@pytest.mark.parametrize("missing", ["UA", "RA", "TA", "MIA"])
def test_an_average_gap_needs_all_four_metrics(missing: str) -> None:
    values = measured(0.1, 0.2, 0.3, 0.4)
    assert gap_to(values, measured(0.1, 0.2, 0.3, 0.4))["average"] == 0
    assert gap_to(values | {missing: None}, values)["average"] is None
    assert gap_to(values, values | {missing: None})["average"] is None
    assert gap_to({name: value for name, value in values.items() if name != missing}, values)["average"] is None


@pytest.mark.parametrize("other", [{"base": "B"}, {"forget": "G"}, {"base": "B", "forget": "G"}])
def test_retraining_of_another_problem_is_no_standard(other: dict[str, str]) -> None:
    elsewhere = "retrain elsewhere", [make("retrain", metrics=measured(0.0, 0.0, 0.0, 0.0), **other)]
    same = entry("retrain", measured(0.1, 0.9, 0.7, 0.3))
    for standards, gap in (([], None), ([elsewhere], None), ([elsewhere, same], pytest.approx(0))):
        (row,) = [row for row in summarise([("rl", [make("rl")]), *standards]) if row.title == "rl"]
        assert (row.gap.mean, len(row.gaps)) == (gap, 0 if gap is None else 1)


def test_a_diverged_run_counts_as_a_run_without_figures() -> None:
    nothing = dict.fromkeys(METRIC_VALUES)
    rows = rows_by_title(
        ("retrain", [make("retrain")]),
        ("rl", [make("rl"), make("rl", 1, metrics=nothing, diverged=True)]),
        ("ga", [make("ga", metrics=nothing, diverged=True)]),
    )
    assert (rows["rl"].diverged, rows["rl"].estimates["UA"].n, rows["rl"].gap.n) == (1, 1, 1)
    assert rows["ga"].gap.mean is None
    text = written(list(rows.values()))["md"]
    assert re.search(r"rl .*\| 2 \(1 diverged\) \|", text)
    assert re.search(r"ga \| – .*\| 1 \(1 diverged\) \|", text)
    rows = rows_by_title(("retrain", [make("retrain", metrics=nothing, diverged=True)]), ("rl", [make("rl")]))
    assert rows["rl"].gap.mean is None
    assert best_of(list(rows.values()), rows["rl"].group) is None


def test_a_metric_that_is_no_longer_known_is_passed_over() -> None:
    values = METRIC_VALUES | {"of_yore": 0.5}
    rows = rows_by_title(entry("retrain", values), entry("rl", values))
    assert rows["rl"].gap.mean == 0
    assert "of_yore" not in written(list(rows.values()))["md"]


# Rows and groups


def test_every_group_starts_with_its_base_model_which_holds_every_metric_that_some_entry_asked_for() -> None:
    rows = summarise(
        [
            ("rl a", [make("rl", forget="F", base_metrics={"UA": 0.1})]),
            ("rl b", [make("rl", forget="G", base_metrics={"UA": 0.2})]),
            ("ft a", [make("ft", forget="F", base_metrics={"UA": 0.1, "RA": 0.9})]),
            ("rl c", [make("rl", base="B", forget="F", base_metrics={"UA": 0.3})]),
            ("nothing done yet", []),
        ]
    )
    titles = [[row.title for row in members] for members in grouped(rows).values()]
    assert titles == [["base", "rl a", "ft a"], ["base", "rl b"], ["base", "rl c"]]
    means = [{name: value.mean for name, value in row.estimates.items()} for row in rows if row.kind == "base"]
    assert means == [{"UA": 0.1, "RA": 0.9}, {"UA": 0.2}, {"UA": 0.3}]
    assert summarise([]) == summarise([("rl", [])]) == []


def test_groups_have_titles_as_short_as_tells_them_apart() -> None:
    for other, second in (
        (make(base="B"), "class 0: 10000000 of 100000000 images; base model: B"),
        (make(forget="G"), "class 0: 10000000 of 100000000 images; forget set: G"),
        (make(base="B", forget="G"), "class 0: 10000000 of 100000000 images; base model: B; forget set: G"),
        (with_request(make(forget="G"), "class 1"), "class 1: 10000000 of 100000000 images"),
    ):
        rows = summarise([("rl", [make()]), ("rl", [other])])
        titles = [group_titles(rows)[group].partition("resnet_tiny on digits, forgetting ") for group in grouped(rows)]
        assert titles[1][2] == second
        assert titles[0][2] != second
        assert titles[0][2].startswith("class 0: 10000000 of 100000000 images")


# Tests


def test_every_value_is_tested_against_the_retrained_models() -> None:
    gold, runs = spread_out("retrain", 0.5), spread_out("rl", 0.512)
    rows = rows_by_title(("retrain", gold), ("rl", runs), ("ft", spread_out("ft", 0.9)))
    assert rows["retrain"].against == {}
    assert set(rows["rl"].against) == set(rows["ft"].against) == {"UA", "RA", "TA", "MIA"}
    for name, found in rows["rl"].against.items():
        ours, theirs = ([run.metrics[name] for run in side] for side in (runs, gold))
        expected = stats.ttest_ind(ours, theirs, equal_var=False)
        assert found.p == pytest.approx(expected.pvalue)
        assert found.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert all(found.differs for found in rows["ft"].against.values())
    for name, found in rows["base"].against.items():
        theirs = [run.metrics[name] for run in gold]
        reach = stats.t.ppf(0.975, 3) * np.std(theirs, ddof=1) * (1 + 1 / 4) ** 0.5
        assert found.half_width == pytest.approx(reach)
    family = [found for row in rows.values() for found in row.against.values()]
    assert len(family) == 12
    smallest = min(family, key=lambda found: found.p)
    assert smallest.adjusted == pytest.approx(min(1, 12 * smallest.p))
    assert all(found.adjusted >= found.p for found in family)


def test_each_family_of_tests_is_adjusted_on_its_own() -> None:
    chance = np.random.default_rng(11)
    names = {"gap": ("UA", "RA", "TA", "MIA"), "derived": ("TUA", "ToW"), "other": ("VA", "JS", "FQS")}
    known = [name for family in names.values() for name in family]
    drawn = chance.uniform(size=(3, 4, 9)).tolist()
    entries = [
        entry(title, *(dict(zip(known, run, strict=True)) for run in runs), base_metrics={})
        for title, runs in zip(("retrain", "rl", "ft"), drawn, strict=True)
    ]
    rows = rows_by_title(*entries)
    for family in names.values():
        found = [rows[title].against[name] for title in ("rl", "ft") for name in family]
        smallest = min(found, key=lambda comparison: comparison.p)
        assert smallest.adjusted == pytest.approx(min(1, len(found) * smallest.p))


def test_the_test_of_a_distance_knows_the_model_that_both_sides_share() -> None:
    """JS of run i and of retrained model i both compare with model i, whose luck cancels in their difference."""
    luck, chance = np.array([0.0, 0.3, 0.1, 0.6]), np.random.default_rng(8)
    _, gold = entry(
        "retrain", *(near(0.0) | {"JS": 0.2 + sum(pair)} for pair in zip(luck, np.roll(luck, -1), strict=True))
    )
    _, runs = entry("rl", *(near(0.0) | {"JS": 0.9 + own + 0.01 * chance.normal()} for own in luck))
    runs = [replace(run, retrained=gold[run.seed].id) for run in runs]
    rows = rows_by_title(("retrain", gold), ("rl", runs))
    js = [[run.metrics["JS"] for run in side] for side in (runs, gold)]
    assert rows["rl"].against["JS"].p == pytest.approx(stats.ttest_rel(*js).pvalue)
    assert rows["rl"].against["UA"].n == 8
    swapped = [replace(run, retrained=gold[(run.seed + 1) % 4].id) for run in runs]
    other = rows_by_title(("retrain", gold), ("rl", swapped))["rl"].against["JS"]
    assert other.p == pytest.approx(stats.ttest_rel(np.roll(js[0], 1), js[1]).pvalue)


def test_distances_of_equal_models_seldom_show_a_difference() -> None:
    chance, alarms = np.random.default_rng(9), 0
    for _ in range(200):
        models = {name: chance.normal(size=(5, 3)) for name in ("retrain", "rl", "ft")}
        gold = models["retrain"]
        entries = []
        for name, found in models.items():
            apart = np.linalg.norm(found - (np.roll(gold, -1, axis=0) if name == "retrain" else gold), axis=1)
            runs = [
                make(name, seed, metrics={"JS": value}, base_metrics={}, retrained=f"retrain-A-F-{seed}")
                for seed, value in enumerate(apart)
            ]
            entries.append((name, runs))
        alarms += any(found.differs for row in summarise(entries) for found in row.against.values())
    assert alarms / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


@pytest.mark.parametrize(
    ("name", "shift", "mark"),
    [("JS", 0.3, "†"), ("JS", -0.3, "‡"), ("FQS", 0.3, "‡"), ("FQS", -0.3, "†"), ("UA", 0.3, "†"), ("UA", -0.3, "†")],
)
def test_a_mark_tells_nearer_to_retraining_from_farther(name: str, shift: float, mark: str) -> None:
    values = [[{name: 0.5 + centre + seed / 1000} for seed in range(4)] for centre in (0.0, shift)]
    rows = summarise([entry("retrain", *values[0], base_metrics={}), entry("rl", *values[1], base_metrics={})])
    assert marks(rows, "rl")[0] == mark
    text = " ".join(legend(rows))
    assert ("‡ nearer to a retrained model than another retrained model is" in text) == (mark == "‡")


def test_nearer_by_less_than_the_noise_floor_is_not_bold() -> None:
    methods = [
        entry(title, *(near(at + seed / 10_000) for seed in range(4))) for title, at in (("a", 0.4), ("b", 0.41))
    ]
    narrow, wide = (
        summarise([entry("retrain", *map(near, shifts)), *methods]) for shifts in ((-0.001, 0.001), (-0.05, 0.0, 0.05))
    )
    assert is_distinct(narrow, best_of(narrow, ("A", "F")))
    assert not is_distinct(wide, best_of(wide, ("A", "F")))
    assert any("a, nearer than b by less than the noise floor" in line for line in legend(wide))
    assert next(row for row in wide if row.title == "b").behind.differs  # type: ignore[union-attr]


@pytest.mark.parametrize(("most", "kept"), [(9, "abcd"), (5, "bcd"), (4, "bd"), (3, "d"), (1, "")])
def test_of_many_rows_those_nearest_to_retraining_are_chosen(most: int, kept: str) -> None:
    gaps = {"a": None, "b": 0.2, "c": 0.3, "d": 0.1}
    methods = [entry(title, {"UA": 0.5} if gap is None else near(gap)) for title, gap in gaps.items()]
    rows = summarise([methods[0], RETRAINED, *methods[1:]])
    base = rows[0].title
    order = [row.title for row in rows if row.title in {base, "retrain", *kept}]
    assert [row.title for row in nearest(rows, most)] == order


def test_methods_are_tested_against_the_best_over_the_same_seeds() -> None:
    entries = {"near": spread_out("rl", 0.52), "far": spread_out("ft", 0.9), "other": spread_out("ga", 0.521)}
    rows = rows_by_title(("retrain", spread_out("retrain", 0.5)), *entries.items())
    best = best_of(list(rows.values()), ("A", "F"))
    assert best is not None
    gaps = {title: [gap["average"] for gap in rows[title].gaps] for title in entries}
    compared = [title for title in entries if title != best.title]
    raw = {title: stats.ttest_rel(gaps[title], gaps[best.title]) for title in compared}
    for title in compared:
        found = rows[title].behind
        assert found.p == pytest.approx(raw[title].pvalue)
        assert found.difference == pytest.approx(np.mean(gaps[title]) - np.mean(gaps[best.title]))
        assert found.n == 4
    adjusted = sorted(rows[title].behind.adjusted for title in compared)
    first, second = sorted(raw[title].pvalue for title in compared)
    assert adjusted == pytest.approx([2 * first, max(2 * first, second)])
    assert rows["base"].behind is rows["retrain"].behind is best.behind is None


APART = {"b": (0.11, 0.12, 0.131), "a": (0.01, 0.02, 0.03)}


@pytest.mark.parametrize(
    ("methods", "bold", "words"),
    [
        (APART, "a", "a, distinguishable from all others (in bold)"),
        ({"a": (0.01, 0.02, 0.03), "b": (0.01, 0.03, 0.05)}, None, "a, not distinguishable from b (p 0.23)"),
        ({**APART, "c": (0.03, 0.021, 0.02)}, None, "a, not distinguishable from c (p 0.72)"),
        ({"a": (0.01, 0.02, 0.03)}, None, "a, with no other method to tell it from"),
        ({"a": (0.01,), "b": (0.2,)}, None, "a; one run each: no test"),
        ({"a": (0.01, 0.02), "b": (0.2,)}, None, "a; too few runs: no test"),
        (
            {"a": (0.01, 0.02, 0.03), "b": (0.02, 0.05, 0.04), "c": (0.5,), "d": (0.9, 0.91, 0.93)},
            None,
            "a, not distinguishable from b (p 0.13); not tested against c",
        ),
        ({"a": (0.25, 0.25), "b": (0.25, 0.25)}, None, "a, not distinguishable from b (p 1)"),
        (
            dict.fromkeys("abcdef", (0.1, 0.2)),
            None,
            "a, not distinguishable from f (p 1), e (p 1), d (p 1) and 2 others",
        ),
    ],
)
def test_the_best_is_bold_only_where_it_can_be_told_from_all_others(
    methods: dict[str, tuple[float, ...]], bold: str | None, words: str
) -> None:
    gone = [make("ft", 0, metrics={}, diverged=True), *(make("ft", seed, metrics=near(0.0)) for seed in (1, 2))]
    entries = [entry(title, *distances(*gaps)) for title, gaps in methods.items()]
    for others in ([("gone", gone)], []):  # a diverged method is neither best nor in the way of one
        rows = summarise([RETRAINED, *others, *entries])
        best = best_of(rows, ("A", "F"))
        assert (best and best.title, is_distinct(rows, best)) == ("a", bold is not None)
    assert f"nearest to retraining: {words}" in legend(rows)
    texts, shown = written(rows), [bold] if bold else []
    assert re.findall(r"^\| \*\*(\w+)\*\*", texts["md"], re.MULTILINE) == shown
    assert re.findall(r"^\\textbf\{(\w+)\}", texts["tex"], re.MULTILINE) == shown
    assert [told["title"] for told in json.loads(texts["json"]) if told["distinct"]] == shown


def marks(rows: list[Any], title: str) -> list[str]:
    (line,) = [line for line in written(rows)["md"].splitlines() if line.startswith(f"| {title} ")]
    return [part.strip()[-1:] if part.strip()[-1:] in "†‡" else "" for part in line.split("|")[2:-1]]


@pytest.mark.parametrize(
    ("gold", "runs", "mark"),
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), ""),
        ((0.5, 0.5, 0.5), (0.6, 0.6, 0.6), "†"),
        ((0.5, 0.5, 0.5), (0.6,), "†"),
        ((0.5,), (0.5, 0.5), ""),
        ((0.5,), (0.6, 0.6), "†"),
        ((0.4, 0.5, 0.6), (0.5, 0.7, 0.4), ""),
        ((0.4, 0.5, 0.6), (0.5,), ""),
        ((0.5,), (0.5,), ""),
        ((0.5,), (0.9,), ""),
        ((None, None), (0.9, 0.8), ""),
        ((0.5, 0.6), (None, None), ""),
        ((0.50, 0.51, None), (0.9, None, 0.91), "†"),
    ],
)
def test_only_a_value_that_differs_is_marked(gold: tuple[Value, ...], runs: tuple[Value, ...], mark: str) -> None:
    rows = summarise([entry(title, *({"UA": ua} for ua in side)) for title, side in (("retrain", gold), ("rl", runs))])
    assert marks(rows, "rl")[0] == mark
    assert marks(rows, "retrain")[0] == ""
    tested = any(row.against for row in rows)
    assert any("† differs from retraining beyond noise" in line for line in legend(rows)) == tested
    texts = written(rows)
    assert "nan" not in (texts["md"] + texts["csv"]).lower()
    json.loads(texts["json"], parse_constant=lambda text: pytest.fail(text))


def test_only_what_retrained_models_show_is_compared() -> None:
    values = {"RTE": 1.0, "FQS": 0.5, "UA": 0.5}
    rows = rows_by_title(entry("retrain", *[values] * 3), entry("rl", *[values | {"RTE": 9.0}] * 3))
    assert set(rows["rl"].against) == {"UA", "FQS"}
    assert set(rows["rl"].gaps[0]) == {"UA", "average"}


def test_two_retrained_models_have_one_distance_to_each_other() -> None:
    base = near(0.3) | {"JS": 0.1}
    gold = [near(0.1 * seed) | {"JS": 0.2} for seed in (0, 1)]
    runs = [near(0.1) | {"JS": 0.1 + 0.01 * seed} for seed in (0, 1)]
    rows = rows_by_title(entry("retrain", *gold, base_metrics=base), entry("rl", *runs, base_metrics=base))
    assert rows["retrain"].estimates["JS"] == estimate([0.2])
    assert rows["retrain"].estimates["UA"].n == 2
    assert "JS" not in rows["base"].against
    assert rows["rl"].against["JS"].n == 3


# Several base models and forget sets


def test_gaps_are_to_the_retrained_models_of_the_same_base_model_and_forget_set() -> None:
    def runs(method: str, shift: float) -> list[Record]:
        levels = {("A", "F"): 0.1, ("A", "G"): 0.3, ("B", "F"): 0.5, ("B", "G"): 0.7}
        return [
            make(method, seed, base=base, forget=forget, metrics=measured(*[level + shift] * 4))
            for (base, forget), level in levels.items()
            for seed in range(2)
        ]

    rows = rows_by_title(("retrain", runs("retrain", 0.0)), ("rl", runs("rl", 0.05)))
    assert [gap["average"] for gap in rows["rl"].gaps] == pytest.approx([0.05] * 8)
    assert rows["rl"].gap.mean == pytest.approx(0.05)
    assert rows["rl"].gap.n == 8
    assert rows["rl"].group == ("A B", "F G")


@pytest.mark.parametrize(
    ("bases", "forgets", "seeds", "over"),
    [
        ("A", "F", 1, "one run each;"),
        ("A", "F", 4, "over 4 runs: unlearning seed varied;"),
        ("ABC", "F", 1, "over 3 runs: base model varied;"),
        ("A", "FG", 1, "over 2 runs: forget set varied;"),
        ("AB", "F", 3, "over 6 runs: 2 base models × 3 unlearning seeds; intervals and tests over the base models;"),
        ("ABC", "FG", 2, "3 base models × 2 forget sets × 2 unlearning seeds; intervals and tests over the forget"),
    ],
)
def test_a_table_says_what_was_varied(bases: str, forgets: str, seeds: int, over: str) -> None:
    kind, counts = {"bases": bases, "forgets": forgets, "seeds": seeds}, (len(bases), len(forgets), seeds)
    rows = summarise([(name, spread_out(name, 0.5, **kind)) for name in ("retrain", "rl")])
    assert over in legend(rows)[0]
    texts = written(rows)
    told = {line["title"]: line for line in json.loads(texts["json"])}
    assert tuple(told["rl"][name] for name in ("base_models", "forget_sets", "seeds")) == counts
    assert tuple(told["base"][name] for name in ("base_models", "forget_sets", "seeds")) == (*counts[:2], 0)
    title = group_titles(rows)[rows[0].group]
    assert (("base models)" in title), ("forget sets)" in title)) == (counts[0] > 1, counts[1] > 1)
    (line,) = [line for line in texts["md"].splitlines() if line.startswith("| base ")]
    assert line.split("|")[-2].strip() == (f"{len(bases)} models" if len(bases) > 1 else "")


def test_tables_of_several_runs_say_the_range_of_their_numbers() -> None:
    rows = summarise([("retrain", spread_out("retrain", 0.5, seeds=2)), ("rl", spread_out("rl", 0.5, seeds=4))])
    assert legend(rows)[0].startswith("mean ± standard deviation over 2 to 4 runs: unlearning seed varied; gap")


def test_intervals_and_tests_are_over_base_models_where_they_vary() -> None:
    kind = {"bases": "ABC", "seeds": 4}
    gold, runs = spread_out("retrain", 0.5, **kind), spread_out("rl", 0.52, **kind)
    rows = rows_by_title(("retrain", gold), ("rl", runs))
    means = [np.reshape([run.metrics["UA"] for run in side], (3, 4)).mean(1) for side in (runs, gold)]
    assert rows["rl"].against["UA"].p == pytest.approx(stats.ttest_rel(*means).pvalue)
    found, expected = rows["rl"].estimates["UA"], estimate(means[0].tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.sd == pytest.approx(np.std([run.metrics["UA"] for run in runs], ddof=1))
    assert found.n == 12


def test_a_base_model_counts_once() -> None:
    def base(name: str, forget: str, ua: float) -> list[Record]:
        return [make("rl", seed, base=name, forget=forget, base_metrics={"UA": ua + seed / 100}) for seed in (0, 1)]

    one = summarise([("rl", base("A", "F", 0.1) + base("A", "G", 0.3))])[0].estimates["UA"]
    assert (one.mean, one.sd, one.n, one.low, one.high) == (pytest.approx(0.205), None, 1, None, None)
    several_models = base("A", "F", 0.1) + base("A", "G", 0.3) + base("B", "F", 0.5) + base("B", "G", 0.7)
    two = summarise([("rl", several_models)])[0].estimates["UA"]
    assert (two.mean, two.n) == (pytest.approx(0.405), 2)
    assert two.sd == pytest.approx(np.std([0.205, 0.605], ddof=1))


def test_what_is_not_finished_yet_stands_in_the_table_of_the_rest() -> None:
    whole = {"bases": "AB", "seeds": 2}
    entries = [(name, spread_out(name, 0.5, **whole)) for name in ("retrain", "rl")]
    rows = summarise([*entries, ("ft", spread_out("ft", 0.6, seeds=2))])
    assert [row.title for row in rows] == ["base", "retrain", "rl", "ft"]
    assert {row.group for row in rows} == {("A B", "F")}
    assert rows[-1].gap.n == 2
    gold = [run.metrics["UA"] for run in rows[1].records if run.settings["base"]["identity"] == "A"]
    ours = [run.metrics["UA"] for run in rows[-1].records]
    assert rows[-1].against["UA"].p == pytest.approx(stats.ttest_ind(ours, gold, equal_var=False).pvalue)


def test_metrics_of_all_runs_together_have_a_column_and_no_spread() -> None:
    runs, gold = spread_out("rl", 0.5), spread_out("retrain", 0.5)
    rows = summarise(
        [("retrain", gold), ("none yet", []), ("rl", runs)], [{}, {"KLoM": 9.0}, {"KLoM": 0.1234, "of_yore": 1}]
    )
    found = next(row for row in rows if row.title == "rl").estimates["KLoM"]
    assert (found.mean, found.sd, found.n, found.low, found.high) == (0.1234, None, 4, None, None)
    text = written(rows)["md"]
    assert "| KLoM nats |" in text
    assert "| 0.123 |" in text
    assert "9.0" not in text
    assert "KLoM" not in columns_of(summarise([("retrain", gold), ("rl", runs)], [{}, {"KLoM": None}]))
    rows = summarise([("rl", [make("rl", metrics=METRIC_VALUES | {"prediction_matrix": 1.0})])])
    assert "prediction_matrix" not in columns_of(rows)


# Few images, few values


def of_few_images(method: str, value: float, images: int, seeds: int = 2) -> list[Record]:
    split = {"fingerprint": "S", "train": 100, "retain": 90, "validation": 20, "test": 30, "forget": images}
    metrics = measured(value, 0.5, 0.5, 0.5)
    return [make(method, seed, metrics=metrics, base_metrics=metrics, split=split) for seed in range(seeds)]


@pytest.mark.parametrize(("images", "differs"), [(1, False), (100, True)])
def test_an_accuracy_of_one_image_is_no_certainty(images: int, differs: bool) -> None:
    rows = rows_by_title(("retrain", of_few_images("retrain", 1.0, images)), ("ft", of_few_images("ft", 0.0, images)))
    found = rows["ft"].against
    assert (found["UA"].differs, found["RA"].differs) == (differs, False)
    # Rounding to the step of the smallest set that a metric is computed from: 90 images are retained.
    for name, step in (("UA", 1 / images), ("RA", 1 / 90), ("MIA", 1 / min(images, 30))):
        assert found[name].half_width == pytest.approx(stats.t.ppf(0.975, 2) * step * (1 / 12) ** 0.5)


def test_figures_over_some_of_the_runs_are_named() -> None:
    runs = [make("ft", seed, metrics=measured(0.1, 0.9, 0.8 if seed else None, 0.3)) for seed in range(3)]
    rows = summarise([("fine tuning", runs), ("whole", [make("rl", seed) for seed in range(3)])])
    assert partly_known(rows) == ["fine tuning: TA: only of 2 of 3 runs"]
