"""Commands of the package in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(name: str, *arguments: str) -> list[str]:
    """Spell a command of the package.

    Args:
        name: of its module.
        arguments: of the command.

    Returns:
        What starts it under this Python.
    """
    return [sys.executable, "-c", f"import sys; from salun.cli.entry import {name}; sys.exit({name}())", *arguments]


def called(arguments: list[str], folder: Path) -> None:
    """Run a command in a folder.

    Args:
        arguments: of the process.
        folder: where it runs.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    said(arguments, environment(), folder)


def said(arguments: list[str], variables: dict[str, str], folder: Path | None = None) -> str:
    """Run a process to its end.

    Args:
        arguments: of the process.
        variables: its environment.
        folder: where it runs; None for where this one does.

    Returns:
        Its standard output.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[3:])}: status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """Let a process in another folder find the package where it is not installed.

    Returns:
        The process's environment.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
