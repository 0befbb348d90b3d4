"""What a user did wrong, in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class SalunError(Exception):
    """A mistake that the user can mend; its text names the place, the value and what is accepted."""


class SalunErrors(SalunError):  # noqa: N818 - several of them
    """Several mistakes found at once, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Hint at the nearest valid name.

    Args:
        name: what the user wrote.
        valid: the names that are accepted.

    Returns:
        ``; did you mean 'x'?``, or all the names where none is near.
    """
    known = sorted(valid)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; accepted: {', '.join(known[:20])}" + (", ..." if len(known) > 20 else "")
