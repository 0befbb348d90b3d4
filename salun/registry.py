"""Registries of methods, metrics and data sets, and what their docstrings and signatures say."""

import inspect
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from salun.errors import SalunError, one_line

_Entry = TypeVar("_Entry")

ADDED: dict[str, str] = {}

_LOG = logging.getLogger("salun")


class Registered(dict[str, _Entry]):
    """The entries of a registry by name, which print a line each."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.values()))


def claim(kind: str, name: str, home: str, homes: Mapping[str, str]) -> None:
    """Check that nobody else has registered a name.

    Args:
        kind: of what is registered, such as "method".
        name: that it is to have.
        home: the module that registers it, which may do so again.
        homes: of the names that are taken, the modules.

    Raises:
        SalunError: another module has it; both files are named.
    """
    other = homes.get(name, home)
    if other != home:
        raise SalunError(
            f"{kind} '{name}': {file_of(other)} and {file_of(home)} both register it; give one of them another name"
        )


def file_of(home: str) -> str:
    """Tell where a module lies.

    Args:
        home: a module's name.

    Returns:
        Its file, or its name where it has none.
    """
    return getattr(sys.modules.get(home), "__file__", None) or home


@lru_cache
def load_installed(group: str) -> None:
    """Import what installed packages add to a registry, once; what is broken is named on standard error and left out.

    Args:
        group: of entry points: "salun.methods", "salun.metrics" or "salun.datasets".
    """
    for entry in entry_points(group=group):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            place = f"'{entry.name}' of package {' '.join(_package_of(entry))}"
            _LOG.warning(one_line(f"salun: plugin {place} ({entry.value}) is left out: {reason(error)}"))
        else:
            name, version = _package_of(entry)
            ADDED[f"plugin {name}"] = version


def _package_of(entry: EntryPoint) -> tuple[str, str]:
    """Tell which package an entry point belongs to."""
    return (entry.dist.name, entry.dist.version) if entry.dist else (entry.module, "unknown")


def reason(error: BaseException, file: str | None = None) -> str:
    """Say in one line what an import raised.

    Args:
        error: what was raised.
        file: whose line is told; None for no line.

    Returns:
        The line, where it is known, the kind of the error, and its text.
    """
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno is not None:
        lines = [error.lineno]
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    where = f"line {lines[-1]}: " if lines else ""
    return where + type(error).__name__ + (f": {text}" if text else "")


def summary_of(described: object) -> str:
    """Take the first sentence of a docstring.

    Args:
        described: a function or class.

    Returns:
        The first paragraph in one line; empty where there is none.
    """
    return _in_one_line((inspect.getdoc(described) or "").split("\n\n")[0])


def _in_one_line(text: str) -> str:
    """Join the lines of a text."""
    return re.sub(r"\s+", " ", text).strip()


def sections_of(described: object) -> dict[str, str]:
    """Take the sections of a docstring.

    Args:
        described: a function or class.

    Returns:
        By heading, such as "Source", the text below it in one line.
    """
    parts = re.split(r"^([A-Z][a-z ]+):\n", inspect.getdoc(described) or "", flags=re.MULTILINE)
    return {heading: _in_one_line(body) for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def remarks_of(described: object) -> list[str]:
    """Take what a docstring says between its first sentence and its sections.

    Args:
        described: a function or class.

    Returns:
        Paragraphs, each in one line.
    """
    introduction = re.split(r"^[A-Z][a-z ]+:\n", inspect.getdoc(described) or "", flags=re.MULTILINE)[0]
    return [_in_one_line(paragraph) for paragraph in introduction.split("\n\n")[1:] if paragraph.strip()]


def arguments_of(described: object) -> dict[str, str]:
    """Take what a docstring says of each argument.

    Args:
        described: a function.

    Returns:
        By argument, its text in one line.
    """
    section = re.search(r"^Args:\n((?: .*\n|\n)*)", (inspect.getdoc(described) or "") + "\n", flags=re.MULTILINE)
    parts = re.split(r"^    (\w+): ", section[1] if section else "", flags=re.MULTILINE)
    return {name: _in_one_line(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
