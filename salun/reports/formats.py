"""Tables as Markdown, LaTeX and CSV, in which a user's words stay words."""

import csv
import io
from collections.abc import Iterable, Sequence

from salun.errors import one_line

DIFFERS, NEARER = "†", "‡"
_FORMULAS = ("=", "+", "-", "@")


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]], bold: int | None) -> str:
    """Render a table for a README.

    Args:
        headings: of the columns, the first of which is aligned left, the others right.
        lines: the cells.
        bold: place of the line that is printed bold, if any is.
    """
    rule = ["---", *["---:"] * (len(headings) - 1)]
    shown = [
        [f"**{text}**" if place == bold and text else text for text in map(escape_markdown, line)]
        for place, line in enumerate(lines)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [map(escape_markdown, headings), rule, *shown])


def latex_table(headings: Sequence[str], lines: Sequence[Sequence[str]], bold: int | None) -> str:
    """Render a table for a paper, with booktabs rules.

    Args:
        headings: of the columns, the first of which is aligned left, the others right.
        lines: the cells.
        bold: place of the line that is printed bold, if any is.
    """
    shown = [
        [f"\\textbf{{{text}}}" if place == bold and text else text for text in map(_escape_latex, line)]
        for place, line in enumerate(lines)
    ]
    head, *body = (" & ".join(line) + r" \\" for line in [map(_escape_latex, headings), *shown])
    begin = rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def escape_markdown(text: str) -> str:
    """Keep text from being read as Markdown or HTML."""
    return "".join("\\" + mark if mark in "\\`*_|<>[]~$&#" else mark for mark in one_line(text))


def _escape_latex(text: str) -> str:
    """Keep text from being read as LaTeX commands."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "*": "{*}",
        "±": r"$\pm$",
        DIFFERS: r"$\dagger$",
        NEARER: r"$\ddagger$",
        "–": "--",
    }
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(mark, mark) for mark in one_line(text))


def csv_table(lines: Iterable[Iterable[object]]) -> str:
    """Render a table for a spreadsheet, which no cell is a formula to.

    Args:
        lines: the cells of each, headings first; None is left empty.
    """
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(csv_cell, line) for line in lines)
    return out.getvalue()


def csv_cell(value: object) -> object:
    """Keep a spreadsheet from taking a text for a formula.

    Returns:
        The value; of a text one line, with an apostrophe before it where a formula would begin like that, and which is
        no number.
    """
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(_FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
