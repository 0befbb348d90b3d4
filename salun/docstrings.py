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
