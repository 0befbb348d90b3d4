import csv
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path

import pytest
from hostile import examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from records import make, written
from rich.console import Console

from salun.cli.table import print_rows
from salun.errors import one_line
from salun.reports.formats import csv_table
from salun.reports.plots.style import save_figure, shorten, styled
from salun.reports.summary import summarise
from salun.reports.tables import as_csv

ODD = [
    "[red]bold[/red]", "[link=http://x]y[/link]", "$\\frac{1}{2}$", "$unbalanced", "<script>alert(1)</script>",
    "</text><script>x</script>", '=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1+1",
    "_hidden", "\x1b[31mred\x1b]0;title\x07", "\u202eright to left", "two\nlines", "\\write18{rm}", "{0} %s %(x)s",
    "&lt;b&gt;",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_a_table_of_the_terminal_shows_text_as_text(text: str) -> None:
    out = StringIO()
    rows = summarise([(text, [make()])])
    print_rows(Console(file=out, force_terminal=True, color_system="truecolor", width=400), rows)
    assert one_line(text) in out.getvalue()
    assert not [mark for mark in ("\x1b]", "\x1b[31m", "\u202e") if mark in out.getvalue()]


def drawn(text: str) -> list[str]:
    """What stands in a figure whose title, tick, text and legend are a user's words."""
    with styled():
        figure = Figure()
        axis = figure.subplots()
        axis.plot([1, 2], label=shorten(text, 60))
        axis.set_title(text)
        axis.set_xticks([0], [shorten(text, 60)])
        figure.text(0.5, 0.5, text)
        figure.legend(loc="outside right upper")
        save_figure(figure, Path("a.svg"), 60)
        save_figure(figure, Path("a.png"), 30)
    return ["".join(element.itertext()) for element in ET.parse("a.svg").iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("text", ODD)
def test_a_figure_shows_text_as_text(text: str) -> None:
    shown = drawn(text)
    for line in text.split("\n"):
        assert sum("".join(filter(str.isprintable, line)).strip() in found for found in shown) >= 3
    assert sum(one_line(text) in found for found in shown) >= 1
    assert not [mark for mark in ("<script", "\x1b", "\u202e") if mark in Path("a.svg").read_text()]


@pytest.mark.parametrize("text", ODD)
def test_a_spreadsheet_sees_no_formula(text: str) -> None:
    for line in csv.DictReader(StringIO(as_csv(summarise([(text, [make()])])))):
        for cell in line.values():
            assert not cell.startswith(("=", "@", "\t", "\r"))
            if cell.startswith(("+", "-")):
                float(cell)
        if line["kind"] == "method":
            assert line["title"].removeprefix("'") == one_line(text)


@examples(60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_a_spreadsheet_holds_the_texts_that_it_was_given(cells: list[str]) -> None:
    (line,) = csv.reader(StringIO(csv_table([["a", *cells]])))
    assert [cell.removeprefix("'") for cell in line[1:]] == [one_line(cell).removeprefix("'") for cell in cells]


@pytest.mark.parametrize("number", ["-0.5", "+3", "-1e-05", "-inf", -0.5, 3, None, True])
def test_numbers_stay_numbers_in_a_spreadsheet(number: object) -> None:
    assert csv_table([[number]]) == ('""\n' if number is None else f"{number}\n")


@examples(60)
@given(st.one_of(st.sampled_from(ODD), st.text(max_size=30)))
def test_no_text_breaks_a_summary(text: str) -> None:
    rows = summarise([(text, [make(tag=text)])])
    for summary in written(rows).values():
        assert all(line.isprintable() for line in summary.split("\n"))
