"""`salun-viz`: figures of the latent space, of predictions and of runs."""

import argparse
from collections.abc import Callable
from types import ModuleType

from salun.cli.arguments import Parser, guarded
from salun.cli.viz import cka, comparator, confusion, runs, tsne, umap, wasserstein

_PROGRAM = "salun-viz"
COMMANDS: dict[str, ModuleType] = {
    "tsne": tsne,
    "umap": umap,
    "wasserstein": wasserstein,
    "cka": cka,
    "confusion": confusion,
    "runs": runs,
    "comparator": comparator,
}


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, Callable[[argparse.Namespace], int]]:
    """Parse the command line."""
    parser = Parser(_PROGRAM, description="Draw figures of features, models and runs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        module.add_flags(commands.add_parser(name, help=module.HELP, description=module.HELP))
    flags = parser.parse_args(argv)
    return flags, COMMANDS[flags.command].draw


def main(argv: list[str] | None = None) -> int:
    """Draw figures.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit status.
    """
    flags, draw = _parse(argv)
    return guarded(f"{_PROGRAM} {flags.command}", lambda: draw(flags), getattr(flags, "plugin", ()))
