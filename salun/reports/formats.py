"""Tables as Markdown, LaTeX and CSV, in which a user's words stay words."""

import csv
import html
import io
from collections.abc import Iterable, Sequence

from salun.errors import one_line

DIFFERS, NEARER, LOST = "†", "‡", "↓"
_FORMULAS = ("=", "+", "-", "@")
_LATEX = str.maketrans(
    {mark: "\\" + mark for mark in "&%$#_{}"}
    | {"[": "{[}", "*": "{*}", "–": "--", "±": r"$\pm$", DIFFERS: r"$\dagger$", NEARER: r"$\ddagger$"}
    | {LOST: r"$\downarrow$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]], bold: int | None) -> str:
    """Render a table for a README, its first column aligned left, the others right, and one line bold."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    shown = [
        [f"**{text}**" if place == bold and text else text for text in map(escape_markdown, line)]
        for place, line in enumerate(lines)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [map(escape_markdown, headings), rule, *shown])


def latex_table(headings: Sequence[str], lines: Sequence[Sequence[str]], bold: int | None) -> str:
    """Render a table for a paper with booktabs, its first column aligned left, the others right, and one line bold."""
    shown = [
        [f"\\textbf{{{text}}}" if place == bold and text else text for text in map(escape_latex, line)]
        for place, line in enumerate(lines)
    ]
    head, *body = (" & ".join(line) + r" \\" for line in [map(escape_latex, headings), *shown])
    begin = rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def text_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Render a table as plain text, its first column aligned left, the others right."""
    rows = [list(map(one_line, line)) for line in (headings, *lines)]
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    shown = ("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]) for row in rows)
    return "\n".join(line.rstrip() for line in shown)


def html_table(headings: Sequence[str], lines: Sequence[Sequence[str]], bold: int | None = None) -> str:
    """Render a table for a notebook, its first column aligned left, the others right, and one line bold."""

    def row(cells: Sequence[str], tag: str, style: str = "") -> str:
        shown = (
            f'<{tag} style="text-align: {"right" if place else "left"}{style}">{html.escape(one_line(text))}</{tag}>'
            for place, text in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = [row(line, "td", "; font-weight: bold" if place == bold else "") for place, line in enumerate(lines)]
    return "\n".join(["<table>", row(headings, "th"), *body, "</table>"])


def escape_markdown(text: str) -> str:
    """Keep text from being read as Markdown or HTML."""
    return "".join("\\" + mark if mark in "\\`*_|<>[]~$&#" else mark for mark in one_line(text))


def escape_latex(text: str) -> str:
    """Keep text from being read as LaTeX commands."""
    return one_line(text).translate(_LATEX)


def csv_table(lines: Iterable[Iterable[object]]) -> str:
    """Render a table, headings first, for a spreadsheet to which no cell is a formula; None is left empty."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(_csv_cell, line) for line in lines)
    return out.getvalue()


def _csv_cell(value: object) -> object:
    """Bring a text into one line, with an apostrophe before it where it begins like a formula and is no number."""
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
