"""The real command in processes of its own, and what becomes of them."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

UNLEARN = str(Path(sys.executable).with_name("salun-unlearn"))


def until(happened: Callable[[], bool], patience: float = 120) -> bool:
    """Wait until something has happened; whether it has."""
    deadline = time.monotonic() + patience
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


def running(pids: list[int]) -> list[int]:
    """The processes that have not ended, or not been buried."""
    states = [subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True) for pid in pids]
    found = [state.stdout.strip() for state in states]
    return [pid for pid, state in zip(pids, found, strict=True) if state and not state.startswith("Z")]
