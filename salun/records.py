"""Records on disk: a line a run."""

import fcntl
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from salun.errors import SalunError
from salun.run import Record
from salun.training import Epoch


def append(path: Path, record: Record) -> None:
    """Add a record to a file, durably, one line, under a lock.

    Args:
        path: `records.jsonl`.
        record: of a finished run.

    Raises:
        SalunError: the file cannot be written.
    """
    line = json.dumps(numbers_only(asdict(record)), allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SalunError(f"{path}: cannot be written: {error.strerror or error}") from error


def numbers_only(value: Any) -> Any:
    """Put null in place of NaN and infinity, which JSON lacks and the curve of a diverged run holds.

    Args:
        value: lists, dictionaries and plain values.

    Returns:
        The same without them.
    """
    if isinstance(value, dict):
        return {key: numbers_only(content) for key, content in value.items()}
    if isinstance(value, list):
        return [numbers_only(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> tuple[dict[str, Record], list[str]]:
    """Read a file of records.

    Args:
        path: `records.jsonl`, which need not exist.

    Returns:
        The last record of each id, and a notice for each line that could not be read, such as one
        that a power cut tore. A loss that was no number is NaN again.

    Raises:
        SalunError: the file exists and cannot be opened.
    """
    if not path.exists():
        return {}, []
    found: dict[str, Record] = {}
    notices = []
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            lines = file.read().splitlines()
    except OSError as error:
        raise SalunError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            content["curve"] = [as_epoch(point) for point in content["curve"]]
            found[content["id"]] = Record(**content)
        except (ValueError, TypeError, KeyError):
            if line.strip():
                notices.append(f"{path}: line {number} is no record and is passed over")
    return found, notices


def as_epoch(point: dict[str, Any]) -> Epoch:
    """Read a point of a curve.

    Args:
        point: as written; its loss is null where it was no number.

    Returns:
        The point.
    """
    return Epoch(**(point | {"loss": math.nan if point["loss"] is None else point["loss"]}))
