"""Wrong inputs, and what every one of them must meet: it is taken, or refused in one line, soon."""

import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from salun.errors import SalunError, SalunErrors, one_line

SECONDS = 20
EDGE = 4096


def examples(count: int) -> settings:
    """As many wrong inputs, the same ones each time; one that fails is shown as it is."""
    return settings(
        derandomize=True,
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


class TooLong(BaseException):
    """What nothing catches that turns exceptions into errors."""


@contextmanager
def in_time(seconds: int = SECONDS) -> Iterator[None]:
    """End what hangs."""

    def end(*_: Any) -> None:
        raise TooLong(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def memory_below(mib: int) -> Iterator[None]:
    """See that Python and numpy take no more memory than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mib * 2**20
    finally:
        tracemalloc.stop()


def refused(action: Callable[[], Any]) -> list[str]:
    """The lines that a command would print of a refusal; none where all is taken. Any other exception is a fault."""
    try:
        with in_time():
            action()
    except SalunError as error:
        lines = [one_line(line) for line in (error.lines if isinstance(error, SalunErrors) else [str(error)])]
        assert lines
        assert all(lines)
        return lines
    return []


def refuses(match: str, action: Callable[[], Any]) -> str:
    """See that something is refused in one line that holds this pattern, and give the line."""
    with pytest.raises(SalunError, match=match or None) as caught:
        action()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was cut off, or some of whose bytes were changed, left out, doubled or put in, most at its ends."""
    last = len(content) - 1
    place = st.one_of(st.integers(0, min(EDGE, last)), st.integers(max(0, last - EDGE), last), st.integers(0, last))
    kind = draw(st.sampled_from(["cut", "flip", "fill", "drop", "double"]))
    if kind == "cut":
        return content[: draw(place)]
    if kind == "flip":
        changed = bytearray(content)
        for at in draw(st.lists(place, min_size=1, max_size=8)):
            changed[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    at, length = draw(place), draw(st.integers(1, 64))
    if kind == "drop":
        return content[:at] + content[at + length :]
    if kind == "double":
        return content[: at + length] + content[at:]
    filling = draw(st.sampled_from([b"\x00", b"\xff", b"\x7f", b"\x80"])) * length
    return content[:at] + filling + content[at + length :]


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)
