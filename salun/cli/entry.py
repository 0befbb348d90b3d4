"""Entry points of the commands: parse the flags, then import the command and run it, so that help is instant."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from salun.cli import parsers
from salun.cli.flags import Parser, add_about_flags
from salun.cli.startup import uncollected
from salun.cli.status import guarded


def train(argv: Sequence[str] | None = None) -> int:
    """Run `salun-train` with the given or the process's arguments, and return the exit status."""
    flags = _parsed(parsers.train_parser(), argv)
    if "RANK" in os.environ:
        # In each process of a launcher torch would report at length that others ended.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return guarded("salun-train", lambda: _command("train")(flags))


def unlearn(argv: Sequence[str] | None = None) -> int:
    """Run `salun-unlearn` with the given or the process's arguments, and return the exit status."""
    return _run("unlearn", _parsed(parsers.unlearn_parser(), argv))


def tune(argv: Sequence[str] | None = None) -> int:
    """Run `salun-tune` with the given or the process's arguments, and return the exit status."""
    return _run("tune", _parsed(parsers.tune_parser(), argv))


def audit(argv: Sequence[str] | None = None) -> int:
    """Run `salun-audit` with the given or the process's arguments, and return the exit status."""
    return _run("audit", _parsed(parsers.audit_parser(), argv))


def extract(argv: Sequence[str] | None = None) -> int:
    """Run `salun-extract` with the given or the process's arguments, and return the exit status."""
    return _run("extract", _parsed(parsers.extract_parser(), argv))


def import_weights(argv: Sequence[str] | None = None) -> int:
    """Run `salun-import` with the given or the process's arguments, and return the exit status."""
    return _run("importing", _parsed(parsers.import_parser(), argv), "salun-import")


def data(argv: Sequence[str] | None = None) -> int:
    """Run `salun-data` with the given or the process's arguments, and return the exit status."""
    return _run("data", _parsed(parsers.data_parser(), argv))


def report(argv: Sequence[str] | None = None) -> int:
    """Run `salun-report` with the given or the process's arguments, and return the exit status."""
    return _run("report", parsers.report_parser().parse_args(argv))


def viz(argv: Sequence[str] | None = None) -> int:
    """Run `salun-viz` with the given or the process's arguments, and return the exit status."""
    flags = _parsed(parsers.viz_parser(), argv)
    return _run(f"viz.{flags.command}", flags)


def _parsed(parser: Parser, argv: Sequence[str] | None) -> Namespace:
    """Parse a command's flags, and those that every command has."""
    add_about_flags(parser)
    return parser.parse_args(argv)


def _run(name: str, flags: Namespace, program: str = "") -> int:
    """Run a command after the plugins that the user named."""

    def command() -> int:
        run = _command(name)
        if getattr(flags, "plugin", ()):
            import_module("salun.experiments.plugins").load_plugins(map(Path, flags.plugin))
        return run(flags)

    return guarded(program or f"salun-{name.replace('.', ' ')}", command)


def _command(name: str) -> Callable[[Namespace], int]:
    """Import the function that runs a command."""
    with uncollected():
        run: Callable[[Namespace], int] = import_module(f"salun.cli.{name}").run
    return run
