"""Files of records that tables, figures and pages are made of."""

from collections.abc import Iterable
from pathlib import Path

from salun.errors import SalunError
from salun.experiments.edits import corrected
from salun.experiments.record import Record, experiment_of, is_superseded
from salun.experiments.records import read
from salun.io.files import each_once, find_place

RUNS = Path("runs")
RECORDS = "records.jsonl"
_SUFFIX = ".jsonl"


def find_records(paths: Iterable[str | Path]) -> list[Path]:
    """List files of records.

    Args:
        paths: files and folders, looked for as given, then under `runs/`; none for all under `runs/`.

    Returns:
        At least one file, each once.

    Raises:
        SalunError: a path does not exist, or holds no records.
    """
    found: list[Path] = []
    given = [str(path) for path in paths]
    for each in given or [str(RUNS)]:
        place = find_place(Path(each), RUNS)
        if place is None:
            hint = f", here or under {RUNS}/" if given else "; salun-unlearn writes records"
            raise SalunError(f"{each}: no such file or folder{hint}")
        if place.is_file() and place.suffix != _SUFFIX:
            raise SalunError(f"{place}: is no file of records (*{_SUFFIX})")
        files = [place] if place.is_file() else sorted(path for path in place.rglob(RECORDS) if path.is_file())
        if not files:
            raise SalunError(f"{place}: holds no {RECORDS}; salun-unlearn writes it")
        found += files
    return each_once(found)


def read_runs(path: Path) -> tuple[list[Record], list[str]]:
    """Read the runs of a file that this version can summarise.

    Args:
        path: of records.

    Returns:
        The records, and a notice for what is passed over or was corrected; no records where none can be read.

    Raises:
        SalunError: the file cannot be opened.
    """
    found, torn = read(path)
    found, wrong = corrected(path, found)
    kept = []
    for record in found.values():
        try:
            experiment_of(record, 0)
            if is_superseded(record.settings, record.seed, record.id):
                raise SalunError(f"record {record.id}: was retrained by an earlier version")
            kept.append(record)
        except SalunError as error:
            torn.append(f"{path}: {error}, and it is passed over")
    if not kept:
        return [], [f"{path}: holds no record that can be read"]
    more = f"; and {len(torn) - 1} more" if len(torn) > 1 else ""
    return kept, [*([torn[0] + more] if torn else []), *wrong]
