"""What the commands share: flags, one-line errors, exit statuses."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from salun.errors import SalunError

USER_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end.

        Args:
            message: argparse's.
        """
        self.exit(USER_ERROR, f"{self.prog}: {message}; {self.prog} --help lists the flags\n")


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where a command runs.

    Args:
        parser: gets the flags.
    """
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where data sets lie (default: data)")
    parser.add_argument("-NL", "--no-log", action="store_true", help="do not log to Weights & Biases")


def guarded(program: str, command: Callable[[], int]) -> int:
    """Run a command; print what the user did wrong in place of a traceback.

    Args:
        program: the command's name.
        command: gives an exit status.

    Returns:
        The exit status: 2 for a user's mistake, 130 where interrupted.
    """
    try:
        return command()
    except SalunError as error:
        print("\n".join(f"{program}: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED


def notice(text: str) -> None:
    """Tell the user something on standard error.

    Args:
        text: one line.
    """
    print(text, file=sys.stderr, flush=True)
