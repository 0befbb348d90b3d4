"""The flags that several commands share, and the types of their values."""

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from salun.cli.status import USER_ERROR
from salun.errors import one_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help ends with examples as they are typed."""

    def add_examples(self, *lines: str) -> None:
        """End the help with commands."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.epilog = "\n  ".join(["examples:", *lines])

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        self.exit(USER_ERROR, f"{self.prog}: {one_line(message)}; {self.prog} --help lists the flags\n")


class _PrintVersion(argparse.Action):
    """Prints the package's version, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Import the package only now."""
        from salun import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


class _PrintCompletion(argparse.Action):
    """Prints what makes a shell complete the flags, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, shell: object, *_: object) -> NoReturn:
        """Import the library that writes it only now."""
        import shtab

        print(shtab.complete(parser, str(shell)))
        parser.exit()


def add_about_flags(parser: Parser) -> None:
    """Add the flags that tell of a command itself."""
    about = parser.add_argument_group("about this command")
    about.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    about.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        metavar="SHELL",
        help='print completion of flags for bash, zsh or tcsh, as in eval "$(salun-unlearn --print-completion bash)"',
    )


def positive(text: str) -> int:
    """Parse a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def filled(text: str) -> str:
    """Parse a text that is not empty, as an unset shell variable makes it."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def class_label(text: str) -> int | str:
    """Parse a class: digits are its number, anything else, or digits in quotes, its name."""
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else filled(text.strip('"'))


def add_order_flag(parser: argparse._ActionsContainer, default: str | None = "salun") -> None:
    """Add the flag that says how a forget-set file counts."""
    parser.add_argument(
        "--indices-in",
        choices=("salun", "imagefolder"),
        default=default,
        help="order that indices of a forget-set file count in: ours, or torchvision's ImageFolder's (default: salun)",
    )


def _minutes(text: str) -> float:
    """Parse a length of time."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from error
    if not 0 <= number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to a million minutes")
    return number


def points(text: str) -> float:
    """Parse a number of percentage points, 0 for "none"."""
    try:
        number = 0.0 if text == "none" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of points nor none") from error
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to 100 points, or none")
    return number


def add_machine_flags(parser: Parser) -> None:
    """Add the flags of commands that train."""
    add = add_data_flags(parser)
    add(
        "--save-every",
        type=_minutes,
        default=10.0,
        metavar="MINUTES",
        help="save the state of long trainings this often, so that they can be resumed; 0 for never (default: 10)",
    )
    add("--compile", action="store_true", help="compile models; pays for long trainings only")
    add("--cuda-graphs", action="store_true", help="record training steps as CUDA graphs; not measured on a GPU yet")
    add("-NL", "--no-log", action="store_true", help="do not log to Weights & Biases")


def add_data_flags(parser: Parser) -> Callable[..., argparse.Action]:
    """Add the flags that name a device, a folder of data, and files of code.

    Args:
        parser: of a command.

    Returns:
        What adds another flag to their part of the help.
    """
    add = parser.add_argument_group("device, data and plug-ins").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--deterministic", action="store_true", help="the same bits for the same seed, at the price of speed")
    add("--data-dir", default="data", metavar="DIR", help="where data sets lie (default: data)")
    add("--skip-corrupt", action="store_true", help="leave out images of folder: data that cannot be decoded")
    add(
        "--plugin",
        type=filled,
        action="append",
        default=[],
        metavar="FILE",
        help="run a Python file that adds methods, metrics, data sets or models; FILE.py:NAME for a model; repeatable",
    )
    return add


def add_moved_flag(parser: Parser) -> None:
    """Add the flag that says where the images of checkpoints lie now."""
    parser.add_argument("--dataset", type=filled, help="where the folder: of the checkpoints lies now")


def add_name_flag(parser: Parser) -> None:
    """Add the flag that names the folders of a list's results."""
    parser.add_argument(
        "--name",
        type=filled,
        help="name of the folder of results; needed where two lists have one name (default: the list's)",
    )


def add_figure_flags(parser: Parser) -> None:
    """Add the flags that all figures share."""
    add = parser.add_argument_group("files of figures").add_argument
    add("--out", type=filled, default="images", metavar="DIR", help="folder of figures (default: images)")
    add("--format", choices=("png", "svg", "pdf"), default="png", help="format of figures (default: png)")
    add("--dpi", type=positive, default=150, help="dots per inch of PNG figures (default: 150)")
