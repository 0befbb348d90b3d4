"""What the commands share: flags, one-line errors, exit statuses."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from salun.errors import SalunError, SalunErrors, is_out_of_memory, one_line

USER_ERROR = 2
SOME_FAILED = 3
INTERRUPTED = 130
_UNREAD = 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end.

        Args:
            message: argparse's.
        """
        self.exit(USER_ERROR, f"{self.prog}: {one_line(message)}; {self.prog} --help lists the flags\n")


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where a command runs.

    Args:
        parser: gets the flags.
    """
    add_place_flags(parser)
    parser.add_argument("--compile", action="store_true", help="compile models; pays for long trainings only")
    parser.add_argument("-NL", "--no-log", action="store_true", help="do not log to Weights & Biases")


def add_place_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a device, a folder of data, and files of code.

    Args:
        parser: gets the flags.
    """
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--deterministic", action="store_true", help="the same bits for the same seed, at the price of speed"
    )
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where data sets lie (default: data)")
    parser.add_argument(
        "--skip-corrupt", action="store_true", help="leave out images of folder: data that cannot be decoded"
    )
    parser.add_argument(
        "--plugin",
        type=filled,
        action="append",
        default=[],
        metavar="FILE",
        help="run a Python file that adds methods, metrics or data sets; may be given several times",
    )


def add_saving_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says how often the state of a training is written.

    Args:
        parser: gets the flag.
    """
    parser.add_argument(
        "--save-every",
        type=_minutes,
        default=10.0,
        metavar="MINUTES",
        help="write the state of base and retrain trainings, to go on after a kill; 0 for never (default: 10)",
    )


def add_name_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the folders of a list's results.

    Args:
        parser: gets the flag.
    """
    parser.add_argument(
        "--name", type=filled, help="of the folders of results, where two lists are called alike (default: the list's)"
    )


def name_of(flags: argparse.Namespace, source: str) -> str:
    """Name the folders of a list's results.

    Args:
        flags: of the command line.
        source: path of the list, or what stands for it.

    Returns:
        A name usable in a path.
    """
    from salun.io.files import name_part

    return name_part(flags.name or Path(source).stem)


def _minutes(text: str) -> float:
    """Take a length of time."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from error
    if not 0 <= number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to a million minutes")
    return number


def positive(text: str) -> int:
    """Take a whole number from 1 on.

    Args:
        text: from the command line.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def guarded(program: str, command: Callable[[], int], plugins: Sequence[str] = ()) -> int:
    """Run a command; print what the user did wrong in place of a traceback.

    Args:
        program: the command's name.
        command: gives an exit status.
        plugins: files that are run before it.

    Returns:
        The exit status: 2 for a user's mistake, 130 where interrupted, 141 where nobody reads on.
    """
    try:
        with _ended_in_order():
            if plugins:
                load(plugins)
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
def _ended_in_order() -> Iterator[None]:
    """Let a request to end, such as a scheduler's or a closing terminal's, be what Ctrl-C is."""

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


def load(plugins: Sequence[str]) -> None:
    """Run the files that the user named as plugins.

    Args:
        plugins: paths of the files.

    Raises:
        SalunError: one is refused.
    """
    from salun.experiments.plugins import load_plugins

    load_plugins(map(Path, plugins))


def filled(text: str) -> str:
    """Take a flag's value, unless it is empty, as an unset shell variable makes it.

    Args:
        text: from the command line.

    Returns:
        The text.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def check_folder(flag: str, folder: Path) -> None:
    """Check that files can be written to a folder, before hours go into what it is to hold.

    Args:
        flag: that names it.
        folder: need not exist yet; none is made.

    Raises:
        SalunError: something else is in its place, it can be no name, or it must not be written to.
    """
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
    """Tell the user something on standard error.

    Args:
        text: one line.
    """
    print(text, file=sys.stderr, flush=True)
