"""Records on disk: a line a run."""

import hashlib
import json
import math
import os
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from salun.errors import SalunError
from salun.experiments.record import Record
from salun.io.files import settle_folder
from salun.io.locks import LOCKS, Locks
from salun.metrics import METRICS, load_metrics, outdated, revisions
from salun.training.progress import Epoch

_TORN = "records.torn"

DIGEST, _NAMED_AT_WILL = "digest", "tag"

_PLAIN = (int, float, str)
_AS_THEY_ARE = (int, str)

_KNOWN = {kind: frozenset(entry.name for entry in fields(kind)) - {"unknown"} for kind in (Record, Epoch)}


def append(path: Path, record: Record) -> None:
    """Add a record to a file, durably, one line, while no other process does; a torn last line is set aside.

    Its versions tell under which definition each metric that was ever revised is computed.

    Args:
        path: `records.jsonl`.
        record: of a finished run.

    Raises:
        SalunError: the file cannot be written; it is as it was.
    """
    load_metrics()
    content = content_of(replace(record, versions=record.versions | revisions(_measured(record))))
    line = json.dumps(content | {DIGEST: figures_digest(content)}, allow_nan=False) + "\n"
    with Locks(path.parent / LOCKS) as locks, locks.holding(path.name):
        try:
            with path.open("a+b", buffering=0) as file:
                _set_torn_aside(path, file)
                _add(file, line.encode())
            settle_folder(path.parent)
        except OSError as error:
            raise SalunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _measured(record: Record) -> set[str]:
    """List the metrics that a record holds, of the run or of its base model."""
    return {*record.metrics, *record.details, *record.base_metrics}


def content_of(record: Record) -> dict[str, Any]:
    """Give what is written of a record, with what was read of it under unknown keys.

    Args:
        record: of a run.

    Returns:
        Plain values as JSON holds them, without a digest.
    """
    content = asdict(record)
    unknown = content.pop("unknown")
    points = unknown.pop("curve", [{}] * len(record.curve))
    content["curve"] = [more | point for more, point in zip(points, content["curve"], strict=True)]
    del content[DIGEST]
    plain: dict[str, Any] = json.loads(json.dumps(numbers_only(unknown | content), allow_nan=False))
    return plain


def figures_digest(content: dict[str, Any]) -> str:
    """Identify what a program wrote, so that a change by hand shows.

    Args:
        content: as JSON holds it; its digest and its tag do not count, nor does what is null or empty, which a version
            with more keys writes of a record that has no value of them.

    Returns:
        16 hexadecimal digits.
    """
    counted = {key: value for key, value in content.items() if key not in (DIGEST, _NAMED_AT_WILL)}
    return hashlib.sha256(json.dumps(_canonical(counted), sort_keys=True).encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """Bring to one form what programs that read and write JSON take for the same."""
    if isinstance(value, dict):
        kept = [(key, content) for key, content in value.items() if content or isinstance(content, _PLAIN)]
        return {key: content if type(content) in _AS_THEY_ARE else _canonical(content) for key, content in kept}
    if isinstance(value, list):
        return [_canonical(content) for content in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _add(file: FileIO, content: bytes) -> None:
    """Add to the end of an unbuffered file, and see to it that it is on the disk; in part is not at all."""
    size = file.seek(0, os.SEEK_END)
    try:
        left = content
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(file.fileno(), size)
        raise


def _set_torn_aside(path: Path, file: FileIO) -> None:
    """Move what a kill or a power cut left of a line to a file beside the records."""
    end = file.seek(0, os.SEEK_END)
    if end == 0 or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n":
        return
    file.seek(0)
    whole = file.read().rpartition(b"\n")[0]
    begin = len(whole) + 1 if whole else 0
    file.seek(begin)
    torn = file.read()
    if _record_of(torn) is not None:
        _add(file, b"\n")
        return
    with path.with_name(_TORN).open("ab", buffering=0) as aside:
        _add(aside, torn + b"\n")
    file.truncate(begin)


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
        The last record of each id, without values of metrics that were revised since, and a notice for each line
        that could not be read, such as one that a power cut tore, and for each revised metric. A loss that was no
        number is NaN again.

    Raises:
        SalunError: the file exists and cannot be opened.
    """
    try:
        status, revised = path.stat(), tuple((name, found.revised) for name, found in METRICS.items() if found.revised)
        log = _log_of(path.resolve(), path, status.st_ino, status.st_size, status.st_mtime_ns, *revised)
    except OSError:  # absent, or Log tells what is wrong with it
        log = Log(path)
        log.refresh()
    _await_writer(log)
    notices = list(log.notices)
    if log.rest:
        record = _record_of(log.rest)
        if record is None:
            notices.append(f"{path}: its last line is torn and is passed over; the next run sets it aside")
        else:
            log.add(record)
    old = Counter(name for names in log.outdated.values() for name in names)
    for name, count in sorted(old.items()):
        since = f"{path}: {name} was defined anew in version {METRICS[name].revised}"
        notices.append(f"{since}; earlier values left out, to be computed again: {count}")
    return dict(log.found), notices


@lru_cache(maxsize=1)
def _log_of(_place: Path, path: Path, *_state: object) -> "Log":
    """Read a file, which a command asks for several times, once as long as it does not change."""
    log = Log(path)
    log.refresh()
    return log


def _await_writer(log: "Log") -> None:
    """Read on where the last line is torn, until no other process can be at work on it."""
    locks_folder, before = log.path.parent / LOCKS, None
    while log.rest != before and _record_of(log.rest) is None:
        if locks_folder.is_dir():
            with Locks(locks_folder) as locks, locks.holding(log.path.name):
                log.refresh()
            return
        before = log.rest
        log.refresh()


@dataclass
class Log:
    """A file of records that others may be adding to.

    Attributes:
        path: `records.jsonl`, which need not exist.
        found: the last record of each id, without values of metrics that were revised since.
        outdated: names of the metrics that were left out, by id.
        notices: a line for each line that could not be read.
        rest: the end of the file, where it is no whole line.
        offset: bytes that are read.
        lines: lines that are read.
    """

    path: Path
    found: dict[str, Record] = field(default_factory=dict)
    outdated: dict[str, list[str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    rest: bytes = b""
    offset: int = 0
    lines: int = 0

    def refresh(self) -> None:
        """Read what was added.

        Raises:
            SalunError: the file exists and cannot be opened.
        """
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.offset:  # another file is in its place
                    self.found.clear()
                    self.outdated.clear()
                    self.offset, self.lines = 0, 0
                file.seek(self.offset)
                *whole, self.rest = file.read().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise SalunError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if whole or self.rest:
            load_metrics()
        for line in whole:
            self.offset, self.lines = self.offset + len(line) + 1, self.lines + 1
            record = _record_of(line)
            if record is not None:
                self.add(record)
            elif line.strip():
                self.notices.append(f"{self.path}: line {self.lines} is no record and is passed over")

    def add(self, record: Record) -> None:
        """Take the place of an earlier record of the run, and leave out what counts as missing.

        Args:
            record: as it was written.
        """
        old = self.outdated[record.id] = outdated(_measured(record), record.versions)
        if old:
            kept = [
                {name: held[name] for name in held if name not in old}
                for held in (record.metrics, record.details, record.base_metrics)
            ]
            record = replace(record, metrics=kept[0], details=kept[1], base_metrics=kept[2])
        self.found[record.id] = record


@cache
def _record_types() -> TypeAdapter[Record]:
    """Give what checks the types of a record's fields, of files that others may have written."""
    return TypeAdapter(Record)


def _record_of(line: bytes) -> Record | None:
    """Read a line."""
    try:
        content = json.loads(line)
        points = [_by_known(point, Epoch) for point in content["curve"]]
        known, unknown = _by_known(content, Record)
        known = known | {"curve": [_as_epoch(point) for point, _ in points]}
        _record_types().validate_python(known)
        if any(more for _, more in points):
            unknown["curve"] = [more for _, more in points]
        changed = known.get(DIGEST) is not None and known[DIGEST] != figures_digest(content)
        return Record(**(known | {"edited": changed or known.get("edited", False), "unknown": unknown}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _by_known(content: dict[str, Any], kind: type[Record] | type[Epoch]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what this version knows from what it does not."""
    names = _KNOWN[kind]
    if content.keys() <= names:
        return content, {}
    known = {key: value for key, value in content.items() if key in names}
    return known, {key: value for key, value in content.items() if key not in names}


def _as_epoch(point: dict[str, Any]) -> Epoch:
    """Read a point of a curve."""
    return Epoch(**(point | {"loss": math.nan if point["loss"] is None else point["loss"]}))
