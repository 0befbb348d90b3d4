import csv
import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from records import METRIC_VALUES, ODD_TEXT, make, with_request, written

from salun.experiments.record import Record
from salun.metrics import Value
from salun.reports.statistics import Comparison, Estimate, estimate
from salun.reports.summary import grouped, summarise
from salun.reports.tables import as_csv, cell, columns_of, group_titles, legend, lines_of, write_summaries

# Cells


@pytest.mark.parametrize(
    ("unit", "text"),
    [("%", "150.00±70.71"), ("s", "1.50±0.71"), ("epochs", "1.5±0.7"), ("nats", "1.500±0.707"), ("", "1.500±0.707")],
)
def test_a_cell_shows_percentages_or_the_unit_with_its_digits(unit: str, text: str) -> None:
    assert cell(estimate([1.0, 2.0]), unit) == text
    assert cell(estimate([1.5]), unit) == text.partition("±")[0]
    assert cell(estimate([None, None]), unit) == "–"


@pytest.mark.parametrize(
    ("ends", "text"), [((0.1, 0.1), ["10.00–10.00"]), ((0.0, 0.68534), ["0.00–68.53"]), ((None, None), [])]
)
def test_the_interval_of_a_gap_is_left_out_where_there_is_none(ends: tuple[Value, Value], text: list[str]) -> None:
    (row,) = [row for row in summarise([("rl", [make("rl")])]) if row.kind == "method"]
    headings, (line,) = lines_of([replace(row, gap=Estimate(0.1, None, 2, *ends))])
    assert [cell for heading, cell in zip(headings, line, strict=True) if heading == "95 % interval"] == text


# Summaries


def several() -> list[Any]:
    """Two problems: in the first one method is distinctly nearest, in the second none is."""

    def varied(method: str, shift: float, forget: str) -> list[Record]:
        spread = 700 if forget == "F" else 7
        values = [
            {name: value and value + shift + seed / spread for name, value in METRIC_VALUES.items()}
            for seed in range(3)
        ]
        return [make(method, seed, forget=forget, metrics=each) for seed, each in enumerate(values)]

    return summarise(
        [
            (title, varied(method, shift, forget))
            for forget in "FG"
            for title, method, shift in (("retrain", "retrain", 0.0), ("near", "rl", 0.01), ("far", "ga", 1 / 30))
        ]
        + [("one run", varied("ft", 0.5, "G")[:1])]
    )


def test_json_holds_every_number() -> None:
    rows = several()
    for row, told in zip(rows, json.loads(written(rows)["json"]), strict=True):
        assert told["title"] == row.title
        assert told["kind"] == row.kind
        assert told["metrics"] == {name: vars(value) for name, value in row.estimates.items()}
        assert told["average_gap"] == vars(row.gap) | {"bias": row.distance.bias if row.distance else None}
        assert [run["metrics"] for run in told["runs"]] == [record.metrics for record in row.records]
        assert [run["seed"] for run in told["runs"]] == [record.seed for record in row.records]
        if row.kind == "method":
            assert [run["gap"] for run in told["runs"]] == list(row.gaps)
        assert told["best"] == (row.title == "near")
        assert told["distinct"] == (row.title == "near" and row.group == ("A", "F"))
        assert (told["base_models"], told["forget_sets"], told["seeds"]) == (1, 1, len(row.records))
        assert told["against_retrained"] == {name: laid_out(found) for name, found in row.against.items()}
        assert told["behind_best"] == (None if row.behind is None else laid_out(row.behind))
    assert sum(bool(told["against_retrained"]) for told in json.loads(written(rows)["json"])) == 7
    assert [row.title for row in rows if row.behind is not None] == ["far", "far"]


def laid_out(found: Comparison) -> dict[str, float | bool | None]:
    """A comparison as programs read it."""
    reach = found.half_width
    return {
        "difference": found.difference,
        "low": None if reach is None else found.difference - reach,
        "high": None if reach is None else found.difference + reach,
        "detectable": found.detectable,
        "p": found.p,
        "adjusted_p": found.adjusted,
        "n": found.n,
        "differs": found.differs,
    }


def test_the_long_form_has_a_line_a_row_and_metric_with_its_test() -> None:
    rows = several()
    told = list(csv.DictReader(StringIO(written(rows)["csv"])))
    wide = list(csv.DictReader(StringIO(as_csv(rows))))
    seen = 0
    for row, line in zip(rows, wide, strict=True):
        names = [name for name in (*columns_of(rows), "gap") if row.value(name).n]
        members = told[seen : seen + len(names)]
        seen += len(names)
        assert [one["metric"] for one in members] == names
        for one, name in zip(members, names, strict=True):
            assert all(one[part] == line[part] for part in ("problem", "title", "kind", "seeds", "best", "distinct"))
            assert all(one[part] == line[f"{name}_{part}"] for part in ("mean", "sd", "n", "low", "high"))
            found, against = (row.behind, "best") if name == "gap" else (row.against.get(name), "retrained")
            assert one["test"] == (against if found else "")
            numbers = laid_out(found) if found else {}
            for part in ("difference", "p", "adjusted_p", "differs"):
                assert one[part] == ("" if numbers.get(part) is None else str(numbers[part]))
            assert one["difference_low"] == ("" if numbers.get("low") is None else str(numbers["low"]))
    assert seen == len(told)


def test_the_wide_form_is_written_on_request_and_kept_up_to_date(tmp_path: Path) -> None:
    rows = several()
    assert "summary_wide.csv" not in [path.name for path in write_summaries(tmp_path, rows)]
    assert (tmp_path / "summary_wide.csv") in write_summaries(tmp_path, rows, wide=True)
    write_summaries(tmp_path, rows[:2])
    assert (tmp_path / "summary_wide.csv").read_text() == as_csv(rows[:2])


def test_the_wide_form_holds_every_number() -> None:
    rows = several()
    told = list(csv.DictReader(StringIO(as_csv(rows))))
    assert len(told) == len(rows)
    for row, line in zip(rows, told, strict=True):
        assert (line["title"], line["kind"]) == (row.title, row.kind)
        for name, value in [*((name, row.estimates[name]) for name in columns_of(rows)), ("gap", row.gap)]:
            for part, number in vars(value).items():
                found = line[f"{name}_{part}"]
                assert (None if found == "" else float(found)) == number
        tests = {f"{name}_vs_retrained": row.against.get(name) for name in ("UA", "RA", "VA", "TA", "MIA")}
        for name, comparison in (tests | {"gap_vs_best": row.behind}).items():
            for part, number in laid_out(comparison or Comparison(0, 0, 0, 0, 0)).items():
                assert line.get(f"{name}_{part}", "") == (str(number) if comparison and number is not None else "")
        assert "RTE_vs_retrained_p" not in line
        assert [line[source] for source in ("base_models", "forget_sets", "seeds")] == ["1", "1", str(len(row.records))]
        assert line["distinct"] == str(row.title == "near" and row.group == ("A", "F"))


class Shown:
    """Markdown as a browser shows it: the text of paragraphs, and of tables' cells, row by row."""

    def __init__(self, markdown: str) -> None:
        html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)
        document = ElementTree.fromstring(f"<html>{html}</html>")
        self.paragraphs = ["".join(part.itertext()) for part in document.iter("p")]
        self.rows = [["".join(cell.itertext()) for cell in row] for row in document.iter("tr")]
        self.tags = {part.tag for part in document.iter()} - {"html"}


def expected_cells(members: list[Any]) -> list[list[str]]:
    """The numbers of a table, rounded as it prints them, with marks and interval."""
    lines = []
    for row in members:
        figures = [
            (row.estimates[name], 1 if name == "RTE" else 100, row.against.get(name)) for name in columns_of(members)
        ]
        line = [row.title]
        for value, factor, found in [*figures, (row.gap, 100, None)]:
            spread = "" if value.sd is None else f"±{factor * value.sd:.2f}"
            mark = " †" if found is not None and found.differs else ""
            line.append("–" if value.mean is None else f"{factor * value.mean:.2f}{spread}{mark}")
        ends = [end for end in (row.gap.low, row.gap.high) if end is not None]
        line.append("–".join(f"{100 * end:.2f}" for end in ends))
        lines.append([*line, "" if row.kind == "base" else str(len(row.records))])
    return lines


def test_markdown_and_latex_show_the_numbers_and_in_bold_a_best_that_can_be_told_from_the_others() -> None:
    rows = several()
    texts = written(rows)
    shown, latex, expected, paragraphs = Shown(texts["md"]), texts["tex"], [], []
    for group, members in grouped(rows).items():
        names = columns_of(members)
        units = [f"{name} {'s' if name == 'RTE' else '%'}" for name in names]
        expected += [["", *units, "gap %", "95 % interval", "n"], *expected_cells(members)]
        paragraphs += [group_titles(rows)[group], *legend(members)]
    assert shown.rows == expected
    assert shown.paragraphs == paragraphs
    assert "†" in texts["md"]
    assert re.findall(r"\*\*(.*?)\*\*", texts["md"])[0] == "near"
    assert sum("**" in line for line in texts["md"].splitlines()) == 1
    assert latex_rows(latex) == expected
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert re.findall(r"^\\textbf\{(\w+)\}", latex, re.MULTILINE) == ["near"]
    assert [line[2:] for line in latex.splitlines() if line.startswith("% ")] == paragraphs


SPECIAL = dict(zip("&%$#_{}", map("\\{}".format, "&%$#_{}"), strict=True)) | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}", "±": r"$\pm$", "–": "--", "†": r"$\dagger$",
    "‡": r"$\ddagger$",
}  # fmt: skip
PLAIN = {latex: mark for mark, latex in SPECIAL.items()}
TOKEN = re.compile("|".join(map(re.escape, PLAIN)) + r"|[^\\{}$&#^_%~<>|\[*]")


def typeset(latex: str) -> str:
    """The text that LaTeX prints, where nothing in it is a command."""
    tokens = TOKEN.findall(latex)
    assert "".join(tokens) == latex, f"{latex!r} holds more than text"
    return "".join(PLAIN.get(token, token) for token in tokens)


def latex_rows(text: str) -> list[list[str]]:
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    split = [re.split(r"(?<!\\) ?& ", line) for line in lines]
    return [[typeset(re.sub(r"^\\textbf\{(.*)\}$", r"\1", part)) for part in line] for line in split]


@pytest.mark.parametrize("text", ODD_TEXT)
def test_user_text_is_shown_as_text(text: str) -> None:
    record = with_request(make("rl"), f"the images in {text}")
    rows = summarise([(text, [record]), ("retrain", [make("retrain")])])
    plain = " ".join(text.split())
    texts = written(rows)
    shown = Shown(texts["md"])
    assert shown.rows[2][0] == plain
    assert {len(line) for line in shown.rows} == {len(shown.rows[0])}
    assert plain in shown.paragraphs[0]
    assert shown.tags <= {"p", "table", "thead", "tbody", "tr", "td", "th", "strong"}
    assert latex_rows(texts["tex"])[2][0] == plain
    assert sum(line.startswith("%") for line in texts["tex"].splitlines()) == 1 + len(legend(rows))
    assert plain in {line["title"] for line in csv.DictReader(StringIO(texts["csv"]))}
    assert json.loads(texts["json"])[1]["title"] == text


def test_a_row_that_starts_with_a_bracket_or_star_is_no_argument_of_the_row_before() -> None:
    text = written(summarise([("[2em] x", [make("rl")]), ("*", [make("ft")])]))["tex"]
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text)


# Budgets


def with_budget(method: str, passes: int, budget: int | None = 1000, steps: bool = True, mask: int = 0) -> Record:
    record = make(method, seed=passes, passes={"mask": {"forward": mask}, "method": {"forward": passes}})
    settings = record.settings | {"settings": {"epochs": 1} if method != "ssd" else {}}
    settings |= {} if budget is None else {"budget": budget}
    return replace(record, settings=settings, curve=record.curve if steps else [])


def budget_lines(*records: Record) -> list[str]:
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record.settings["method"], []).append(record)
    return [line for line in legend(summarise(list(runs.items()))) if "budget" in line]


def test_what_certified_runs_guarantee_is_stated_and_written() -> None:
    runs = [
        replace(make("noisy_ft", seed=seed), certificate={"epsilon": epsilon, "delta": 1e-5, "sigma": 1.5})
        for seed, epsilon in enumerate([1.0, 1.25])
    ]
    rows = summarise([("noisy_ft", runs), ("ft", [make("ft")])])
    assert [line for line in legend(rows) if "certified" in line] == ["certified: noisy_ft (epsilon 1.25, delta 1e-05)"]
    described = {row["title"]: row["runs"] for row in json.loads(written(rows)["json"])}
    assert [run["certificate"]["epsilon"] for run in described["noisy_ft"]] == [1.0, 1.25]
    assert all("certificate" not in run for run in described["ft"])
    partly = summarise([("noisy_ft", [runs[0], replace(runs[1], certificate=None)])])
    assert not any("certified" in line for line in legend(partly))


def test_the_excess_over_a_budget_is_stated_mask_included() -> None:
    assert budget_lines(with_budget("ft", 1000), with_budget("rl", 900, mask=100)) == []
    assert budget_lines(with_budget("ft", 5000, None), with_budget("retrain", 9000, None)) == []
    found = [with_budget("ft", 1000), with_budget("rl", 901, mask=100), with_budget("ssd", 1500, steps=False)]
    assert budget_lines(*found, with_budget("ssd", 1400, steps=False)) == [
        "image passes above the budget, by work that cannot be cut: rl (up to 1001 of 1000), ssd (up to 1500 of 1000)"
    ]


def test_a_budget_without_room_for_a_step_and_retraining_are_told() -> None:
    found = [with_budget("ft", 0, steps=False), with_budget("ssd", 100, steps=False), with_budget("ga", 100)]
    assert budget_lines(*found, with_budget("retrain", 9000, None)) == [
        "budget without room for a training step: ft",
        "the budget does not hold for retraining",
    ]
