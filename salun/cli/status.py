"""What the commands share: exit statuses, one-line errors, checks of folders."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from salun.errors import SalunError, SalunErrors, is_out_of_memory, one_line

USER_ERROR = 2
SOME_FAILED = 3
INTERRUPTED = 130
_UNREAD = 141


def guarded(program: str, command: Callable[[], int]) -> int:
    """Run a command, and print what the user did wrong in place of a traceback.

    Returns:
        The exit status: 2 for a user's mistake, 130 where interrupted, 141 where nobody reads on.
    """
    try:
        with _signals_as_interrupt():
            return command()
    except SalunError as error:
        for line in error.lines if isinstance(error, SalunErrors) else [str(error)]:
            notice(f"{program}: {one_line(line)}")
        return USER_ERROR
    except KeyboardInterrupt:
        notice(f"{program}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more as it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        notice(f"{program}: out of memory: a smaller batch size, model or data set, or another --device, needs less")
        return USER_ERROR


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Treat a request to end, such as a scheduler's or a closing terminal's, like Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_folder(flag: str, folder: Path) -> None:
    """Check that files can be written to a folder before anything is computed for it."""
    place = Path(os.path.abspath(folder))
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise SalunError(f"{flag}: {folder}: {error.strerror}") from error
    while not os.path.lexists(place):
        place = place.parent
    if not os.path.isdir(place):
        raise SalunError(f"{flag}: {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SalunError(f"{flag}: {folder}: {place} must not be written to")


def notice(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)
