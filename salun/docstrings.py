"""Docstrings taken apart: what methods and metrics say of themselves."""

import inspect
import re


def summary_of(described: object) -> str:
    """Take the first sentence of a docstring.

    Args:
        described: a function or class.

    Returns:
        The first paragraph in one line; empty where there is none.
    """
    paragraph = (inspect.getdoc(described) or "").split("\n\n")[0]
    return re.sub(r"\s+", " ", paragraph).strip()


def sections_of(described: object) -> dict[str, str]:
    """Take the sections of a docstring.

    Args:
        described: a function or class.

    Returns:
        By heading, such as "Source", the text below it in one line.
    """
    parts = re.split(r"^([A-Z][a-z ]+):\n", inspect.getdoc(described) or "", flags=re.MULTILINE)
    return {heading: re.sub(r"\s+", " ", body).strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def remarks_of(described: object) -> list[str]:
    """Take what a docstring says between its first sentence and its sections.

    Args:
        described: a function or class.

    Returns:
        Paragraphs, each in one line.
    """
    introduction = re.split(r"^[A-Z][a-z ]+:\n", inspect.getdoc(described) or "", flags=re.MULTILINE)[0]
    return [re.sub(r"\s+", " ", paragraph).strip() for paragraph in introduction.split("\n\n")[1:] if paragraph.strip()]


def arguments_of(described: object) -> dict[str, str]:
    """Take what a docstring says of each argument.

    Args:
        described: a function.

    Returns:
        By argument, its text in one line.
    """
    section = re.search(r"^Args:\n((?: .*\n|\n)*)", (inspect.getdoc(described) or "") + "\n", flags=re.MULTILINE)
    parts = re.split(r"^    (\w+): ", section[1] if section else "", flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
