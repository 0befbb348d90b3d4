"""What a user did wrong, in one line."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher, get_close_matches
from operator import index
from typing import Any

_MOST_NAMED = 10


class SalunError(Exception):
    """A mistake that the user can mend; its text names the place, the value and what is accepted."""


class SalunErrors(SalunError):  # noqa: N818 - several of them
    """Several mistakes found at once, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class ListErrors(SalunErrors):
    """The mistakes in a list of experiments, each told once with the entries that have it.

    Args:
        source: what each line begins with.
        found: pairs of an entry, as `Experiment.place` has it, and a line; the command line has no entries.
    """

    def __init__(self, source: str, found: list[tuple[str, str]]) -> None:
        places: dict[str, list[str]] = {}
        for place, line in found:
            places.setdefault(line, []).append(place)
        listed = source != "command line"
        where = {line: f"{enumerated([*dict.fromkeys(at)])}: " if listed else "" for line, at in places.items()}
        super().__init__([f"{source}: {where[line]}{line}" for line in places])
        self.found = found


@contextmanager
def noting(notices: list[str]) -> Iterator[None]:
    """Note a mistake that the user can mend, and go on without what it keeps from being done.

    Args:
        notices: lines, to which that of the mistake is added.

    Yields:
        Nothing.
    """
    try:
        yield
    except SalunError as error:
        notices.append(str(error))


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
        The name, of equally near ones the first in alphabetical order, or None where none is near; capitals or not.
    """
    wanted, known = name.lower(), {other.lower(): other for other in sorted(valid, reverse=True)}
    near = get_close_matches(wanted, list(known), n=3, cutoff=0.6)
    best = min(near, key=lambda other: (-SequenceMatcher(None, other, wanted).ratio(), other), default=None)
    return None if best is None else known[best]


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


def whole_number(name: str, value: Any, least: int = 0, below: int = 2**31) -> int:
    """Check that an argument is a whole number in a range.

    Args:
        name: of the argument.
        value: what the user gave, an integer of Python, numpy or torch.
        least: the smallest that is accepted.
        below: the smallest that is too large.

    Returns:
        The number.

    Raises:
        SalunError: it is no such number.
    """
    try:
        number = index(value)
    except (TypeError, ValueError):
        number = None
    if isinstance(value, bool) or number is None or not least <= number < below:
        most = f", below {below}" if number is not None and number >= below else ""
        raise SalunError(f"{name}={value!r}: must be a whole number from {least}{most}")
    return number


def first_line(error: BaseException) -> str:
    """Take what an error of somebody else's code says first.

    Args:
        error: any.

    Returns:
        The first line of its text, or its kind where it has none.
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def enumerated(names: Sequence[str]) -> str:
    """List names, of many the first and a count."""
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


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
