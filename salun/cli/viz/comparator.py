"""`salun-viz comparator`: runs as files for the Machine Unlearning Comparator's page."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salun.cli.arguments import check_folder, filled, notice
from salun.cli.viz.models import add_model_flags, find_triples, report, shelf

if TYPE_CHECKING:
    from salun.experiments.record import Record

HELP = "unlearned models as the JSON files that the Machine Unlearning Comparator's page reads"
_PROGRAM = "salun-viz comparator"
ENDINGS = {"notebook": ".json", "comparator": "_comparator.json"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags.

    Args:
        parser: gets the flags.
    """
    add_model_flags(parser)
    parser.add_argument(
        "--definition",
        choices=("notebook", "comparator"),
        default="notebook",
        help="whose scores: the notebook's, of one model, with ln(number of classes) for its ln 10; or the "
        "Comparator's, against a retrained model (default: notebook)",
    )
    parser.add_argument(
        "--runs",
        type=filled,
        default="runs",
        metavar="DIR",
        help="where records lie, for the time taken (default: runs)",
    )
    parser.add_argument(
        "--out",
        type=filled,
        default="images",
        metavar="DIR",
        help="files go to DIR/comparator/CLASS/ID.json, or ID_comparator.json by the Comparator's definition (images)",
    )


def draw(flags: argparse.Namespace) -> int:
    """Write a file for each unlearned model.

    Args:
        flags: of the command line.

    Returns:
        The exit status: 3 where some models could not be shown.

    Raises:
        SalunError: a flag is refused, or no model can be shown.
    """
    from salun.errors import SalunError
    from salun.io.files import name_part
    from salun.latent.comparator_json import describe_run, identity

    check_folder("--out", Path(flags.out))
    data = shelf(flags)
    found = find_triples(flags)
    records = _read_records(Path(flags.runs))
    failed = list(found.failed)
    for triple in found.triples:
        record = records.get(identity(triple.unlearned))
        try:
            content = describe_run(
                flags.definition, triple, data.take(triple.unlearned.spec.dataset), record, data.device
            )
        except SalunError as error:
            failed.append(str(error))
            continue
        path = free(Path(flags.out, "comparator", name_part(str(content["FC"]))), content)
        remarks = list(triple.remarks)
        if record is None:
            remarks.append(f"{triple.unlearned.path}: no record in {flags.runs}; {_keep_time(path, content)}")
        for remark in remarks:
            notice(f"{_PROGRAM}: {remark}")
        _write(path, content)
    return report(_PROGRAM, failed, len(found.triples) + len(found.failed))


def _read_records(folder: Path) -> "dict[str, Record]":
    """Read all records below a folder."""
    from salun.experiments.edits import corrected
    from salun.experiments.records import read

    found: dict[str, Record] = {}
    for path in sorted(folder.rglob("records.jsonl")):
        records, notices = read(path)
        records, wrong = corrected(path, records)
        found |= records
        for line in notices + wrong:
            notice(f"{_PROGRAM}: {line}")
    return found


def free(folder: Path, content: dict[str, Any]) -> Path:
    """Name the file of a run, and shorten its id for it: 4 digits, as the page expects, unless another run has them.

    Args:
        folder: of the forgotten class.
        content: of the file; its "ID" is set.

    Returns:
        The path, which is another one for each definition.
    """
    from salun.io.files import name_part

    run = str(content["run"])
    for digits in (4, 8, len(run)):
        content["ID"] = run[:digits]
        paths = {definition: folder / f"{name_part(run[:digits])}{ending}" for definition, ending in ENDINGS.items()}
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
    from salun.errors import SalunError
    from salun.io.files import read_json

    try:
        content = read_json(path)
    except SalunError:
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write the file of a run and print where."""
    from salun.experiments.records import numbers_only
    from salun.io.files import write_text

    write_text(path, json.dumps(numbers_only(content), allow_nan=False))
    print(path, flush=True)
