"""`scripts/bench`: measure, and print a table."""

import argparse
import importlib
import json
import os
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from salun.cli.flags import Parser, positive
from salun.cli.status import SOME_FAILED, check_folder, guarded, notice
from salun.errors import SalunError, did_you_mean

PROGRAM = "scripts/bench"
MOST_WORKERS = 4
MODULES = ("training", "masks", "runs", "protocol", "growth", "tables", "start", "attacks", "accuracy", "cluster")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The flags.
    """
    parser = Parser(PROGRAM, description="Measure salun beside the way of the field, in one run on this machine.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these items")
    parser.add_argument("--list", action="store_true", help="list the items")
    parser.add_argument("--quick", action="store_true", help="try the code at tiny sizes; the figures say nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=positive, default=workers, metavar="N", help=f"of the control's loaders (default: {workers})"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures, after every item anew")
    parser.add_argument("--markdown", metavar="FILE", help="write the table, after every item anew")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit status: 3 where an item failed.
    """
    flags = parse(argv)
    for name in MODULES:
        importlib.import_module(f"benchmarks.{name}")
    if flags.list:
        return print_items()
    given = sys.argv[1:] if argv is None else argv
    return guarded(PROGRAM, lambda: measure(flags, shlex.join([PROGRAM, *given])))


def print_items() -> int:
    """List what can be measured.

    Returns:
        The exit status.
    """
    from benchmarks.items import ITEMS

    for one in ITEMS.values():
        asked = ", ".join(one.devices) if one.devices else "only by name"
        print(f"{one.name:<16}{one.about} ({asked})")
    return 0


def chosen(asked: list[str] | None, device: str) -> list[str]:
    """Settle what is measured.

    Args:
        asked: names; None for all that the device is meant for.
        device: its type.

    Returns:
        Names.

    Raises:
        SalunError: there is no item of that name.
    """
    from benchmarks.items import ITEMS

    for name in asked or ():
        if name not in ITEMS:
            raise SalunError(f"--only {name}: unknown{did_you_mean(name, list(ITEMS))}")
    return asked or [name for name, one in ITEMS.items() if device in one.devices]


def measure(flags: argparse.Namespace, command: str) -> int:
    """Measure item by item; one that fails does not end the others.

    Args:
        flags: of the command line.
        command: as it was given.

    Returns:
        The exit status.
    """
    from benchmarks.items import ITEMS, Bench
    from benchmarks.report import load, print_report, surroundings
    from salun.cli.console import make_console
    from salun.device import pick_device

    for flag in ("json", "markdown"):
        if getattr(flags, flag):
            check_folder(f"--{flag}", Path(getattr(flags, flag)).parent)
    device = pick_device(flags.device)
    names, failed = chosen(flags.only, device.type), []
    found: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="salun-bench-") as folder:
        where = surroundings(Bench(device, Path(folder), flags.quick, flags.workers), command)
        for name in names:
            place = Path(folder, name)
            place.mkdir()
            begun = time.perf_counter()
            try:
                found[name] = ITEMS[name].measure(Bench(device, place, flags.quick, flags.workers))
            except Exception:  # whatever is wrong with one item, the others' figures are worth having
                failed.append(name)
                notice(f"{name} failed:\n{traceback.format_exc()}")
            notice(f"{name}: {time.perf_counter() - begun:.1f} s")
            where["load after"] = load()
            keep(flags, where, found)
    print_report(make_console(), where, found)
    return SOME_FAILED if failed else 0


def keep(flags: argparse.Namespace, where: dict[str, str], found: dict[str, list[Any]]) -> None:
    """Write the files that are asked for.

    Args:
        flags: of the command line.
        where: as `surroundings` gives it.
        found: results so far, by item.
    """
    from benchmarks.report import as_json, as_markdown, write

    if flags.json:
        write(Path(flags.json), json.dumps(as_json(where, found), indent=1) + "\n")
    if flags.markdown:
        write(Path(flags.markdown), as_markdown(where, found))
