"""What was measured, as a table, as JSON and as Markdown, headed by where and when."""

import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from benchmarks.items import Bench
from benchmarks.measure import Result, Spread
from salun.cli.console import plain_table, print_table
from salun.device import own_threads
from salun.experiments.record import revision, versions
from salun.io.files import replacing

HEADINGS = ("", "unit", "ours", "control", "ratio", "goal", "note")
PLAIN = 1000

Found = dict[str, list[Result]]


def surroundings(bench: Bench, command: str) -> dict[str, str]:
    """Describe where and when something is measured.

    Args:
        bench: where.
        command: that measures.

    Returns:
        Texts by name.
    """
    gpu = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "none"
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": f"{processor()}, {own_threads()} threads",
        "GPU": gpu,
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "revision": revision(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "control's loader workers": str(bench.workers),
        "load before": load(),
    }


def load() -> str:
    """Tell how busy the machine is.

    Returns:
        Processes that ran or waited, over the last 1, 5 and 15 minutes.
    """
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def processor() -> str:
    """Name the processor.

    Returns:
        Its name as Linux knows it, else the kind of machine.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def number(value: float) -> str:
    """Write a number with as many digits as it has sense.

    Args:
        value: any.

    Returns:
        Three digits, and all of those before the point.
    """
    return f"{value:,.0f}" if abs(value) >= PLAIN else f"{value:.3g}"


def cell(spread: Spread | None) -> str:
    """Write a measured value.

    Args:
        spread: of its repetitions; None where there is none.

    Returns:
        The median, with least and greatest where it was measured more than once.
    """
    if spread is None:
        return ""
    around = f" ({number(spread.low)} to {number(spread.high)})" if len(spread.values) > 1 else ""
    return number(spread.median) + around


def cells(result: Result) -> list[str]:
    """Write a line of the table.

    Args:
        result: what was measured.

    Returns:
        As many texts as there are headings.
    """
    ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
    goal = "" if result.goal is None else f"{result.goal}: {'met' if result.met else 'missed'}"
    return [result.what, result.unit, cell(result.ours), cell(result.control), ratio, goal, result.note]


def print_report(console: Console, where: dict[str, str], found: Found) -> None:
    """Print the table below its surroundings.

    Args:
        console: where it is printed.
        where: as `surroundings` gives it.
        found: results by item.
    """
    for name, text in where.items():
        console.print(Text(f"{name}: {text}"), soft_wrap=True)
    table = plain_table("medians (least to greatest); ratio: how many times better ours is")
    for heading in HEADINGS:
        table.add_column(Text(heading), justify="right" if heading in HEADINGS[2:5] else "left", overflow="fold")
    for results in found.values():
        for result in results:
            table.add_row(*map(Text, cells(result)))
    print_table(console, table)


def as_markdown(where: dict[str, str], found: Found) -> str:
    """Write the table for a page.

    Args:
        where: as `surroundings` gives it.
        found: results by item.

    Returns:
        Markdown.
    """
    lines = [*(f"- {name}: {text}" for name, text in where.items()), "", f"| {' | '.join(HEADINGS)} |"]
    lines.append("| --- | --- | ---: | ---: | ---: | --- | --- |")
    lines += [f"| {' | '.join(cells(result))} |" for results in found.values() for result in results]
    return "\n".join(lines) + "\n"


def as_json(where: dict[str, str], found: Found) -> dict[str, Any]:
    """Gather everything that was measured.

    Args:
        where: as `surroundings` gives it.
        found: results by item.

    Returns:
        Plain values.
    """
    items = {
        name: [
            asdict(result)
            | {"median": result.ours.median, "ratio": result.ratio, "goal": str(result.goal or ""), "met": result.met}
            for result in results
        ]
        for name, results in found.items()
    }
    return {"where": where, "items": items}


def write(path: Path, text: str) -> None:
    """Write a file in one piece.

    Args:
        path: of the file.
        text: that it is to hold.
    """
    with replacing(path) as temporary:
        temporary.write_text(text)
