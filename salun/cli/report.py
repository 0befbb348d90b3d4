"""`salun-report`: one page of recorded runs."""

import argparse
from pathlib import Path

from salun import api
from salun.cli import entry
from salun.cli.status import check_folder, notice

main = entry.report


def run(flags: argparse.Namespace) -> int:
    """Make the page, and say what it could not show."""
    check_folder("--out", Path(flags.out).parent)
    made = api.report(
        *flags.paths,
        out=flags.out,
        deletion=flags.deletion,
        checkpoints=flags.checkpoints,
        data_dir=flags.data_dir,
        device=flags.device,
        embedding=flags.embedding,
    )
    for line in made.notices:
        notice(f"salun-report: {line}")
    print(made.path)
    return 0
