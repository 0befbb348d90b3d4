"""What a user did wrong, in one line."""

import json
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any


class SalunError(Exception):
    """A mistake that the user can mend; its text names the place, the value and what is accepted."""


class SalunErrors(SalunError):  # noqa: N818 - several of them
    """Several mistakes found at once, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that memory, the machine's or a device's, does not suffice.

    Args:
        error: any; of torch there is none while it has not been imported.

    Returns:
        Whether it is.
    """
    return isinstance(error, (MemoryError, getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)))


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Find the valid name that was probably meant.

    Args:
        name: what the user wrote.
        valid: the names that are accepted.

    Returns:
        The name, of equally near ones the first in alphabetical order, or None where none is near.
    """
    near = get_close_matches(name, list(valid), n=3, cutoff=0.6)
    return min(near, key=lambda other: (-SequenceMatcher(None, other, name).ratio(), other), default=None)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Hint at the nearest valid name.

    Args:
        name: what the user wrote.
        valid: the names that are accepted.

    Returns:
        ``; did you mean 'x'?``, or all the names where none is near.
    """
    known = sorted(valid)
    near = nearest(name, known)
    if near is not None:
        return f"; did you mean '{near}'?"
    return f"; accepted: {', '.join(known[:40])}" + (", ..." if len(known) > 40 else "")


def one_line(text: str) -> str:
    """Bring a text into one line that can be printed, whatever a user's names hold.

    Args:
        text: with a user's words in it.

    Returns:
        The text, each stretch of white space one blank, control characters and lone surrogates left out.
    """
    return "".join(mark for mark in " ".join(text.split()) if mark.isprintable())


def shown(value: Any) -> str:
    """Show a value as it stands in JSON.

    Args:
        value: from a JSON file.

    Returns:
        At most 80 characters.
    """
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
