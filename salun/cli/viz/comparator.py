"""`salun-viz comparator`: runs as files for the Machine Unlearning Comparator's page."""

import argparse
import json
from pathlib import Path
from typing import Any

from salun.cli.status import check_folder, notice
from salun.cli.viz.models import DatasetCache, report
from salun.errors import SalunError
from salun.experiments.edits import corrected
from salun.experiments.record import Record
from salun.experiments.records import numbers_only, read
from salun.io.files import name_part, read_json, write_text
from salun.latent.comparator_json import describe_run, identity
from salun.latent.trios import find_trios

_PROGRAM = "salun-viz comparator"
_ENDINGS = {"notebook": ".json", "comparator": "_comparator.json"}


def run(flags: argparse.Namespace) -> int:
    """Write a file for each unlearned model.

    Returns:
        The exit status: 3 where some models could not be shown.
    """
    check_folder("--out", Path(flags.out))
    data = DatasetCache.of(_PROGRAM, flags)
    trios, failed = find_trios(flags.paths, flags.base, flags.retrained)
    total = len(trios) + len(failed)
    records = _read_records(Path(flags.runs))
    for trio in trios:
        record = records.get(identity(trio.unlearned))
        try:
            content = describe_run(flags.definition, trio, data.take(trio.unlearned.spec), record, data.device)
        except SalunError as error:
            failed.append(str(error))
            continue
        path = _free(Path(flags.out, "comparator", name_part(str(content["FC"]))), content)
        remarks = list(trio.remarks)
        if record is None:
            remarks.append(f"{trio.unlearned.path}: no record in {flags.runs}; {_keep_time(path, content)}")
        for remark in remarks:
            notice(f"{_PROGRAM}: {remark}")
        _write(path, content)
    return report(_PROGRAM, failed, total)


def _read_records(folder: Path) -> dict[str, Record]:
    """Read all records below a folder."""
    found: dict[str, Record] = {}
    for path in sorted(folder.rglob("records.jsonl")):
        records, notices = read(path)
        records, wrong = corrected(path, records)
        found |= records
        for line in notices + wrong:
            notice(f"{_PROGRAM}: {line}")
    return found


def _free(folder: Path, content: dict[str, Any]) -> Path:
    """Name the file of a run, and shorten its id for it: 4 digits, as the page expects, unless another run has them."""
    run = str(content["run"])
    for digits in (4, 8, len(run)):
        content["ID"] = run[:digits]
        paths = {definition: folder / f"{name_part(run[:digits])}{ending}" for definition, ending in _ENDINGS.items()}
        if all(_earlier(path).get("run") == run for path in paths.values() if path.exists()):
            break
    return paths[content["definition"]]


def _keep_time(path: Path, content: dict[str, Any]) -> str:
    """Keep the time that an earlier call knew of the same run, where the record is lost by now."""
    before = _earlier(path)
    if before.get("run") != content["run"] or not isinstance(before.get("RTE"), int | float):
        return "RTE is not known"
    content["RTE"] = before["RTE"]
    return f"RTE is kept as it was in {path}"


def _earlier(path: Path) -> dict[str, Any]:
    """Read what an earlier call wrote."""
    try:
        content = read_json(path)
    except SalunError:
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write the file of a run and print where."""
    write_text(path, json.dumps(numbers_only(content), allow_nan=False))
    print(path, flush=True)
