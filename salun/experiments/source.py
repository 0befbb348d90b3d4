"""Which list of experiments a folder of results belongs to, so that no other list of the same name overwrites them."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from salun.errors import SalunError
from salun.io.files import name_part, read_json, write_text
from salun.io.locks import LOCKS, Locks

_SOURCE = "source.json"

_ENTRIES = "entries "

COMMAND_LINE = "command line"


def find_list(given: str) -> str:
    """Find a list of experiments: a file, or else the name of a list that comes with the package.

    Args:
        given: a path, or a name such as "quickstart".

    Returns:
        The path; one in a folder, or ending in .json, as it is given.

    Raises:
        SalunError: there is neither a file nor a list of that name.
    """
    if os.path.exists(given) and not os.path.isdir(given):
        return given
    shipped = {path.stem: str(path) for path in Path(str(resources.files("salun") / "exp")).glob("*.json")}
    if given in shipped:
        return shipped[given]
    if Path(given).name != given or Path(given).suffix:
        return given
    raise SalunError(f"list '{given}': no such file; by name there are, with salun: {', '.join(sorted(shipped))}")


def source_of(entries: Sequence[dict[str, Any]]) -> str:
    """Name the source of entries that are in no file, by a digest of each.

    Args:
        entries: as JSON has them.

    Returns:
        The source; a folder of results takes it in the place of another that has no other entries.
    """
    texts = (json.dumps(entry, sort_keys=True, default=str) for entry in entries)
    return _ENTRIES + " ".join(dict.fromkeys(hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts))


def _is_path(source: str) -> bool:
    """Tell the path of a list from other sources."""
    return source != COMMAND_LINE and not source.startswith(_ENTRIES)


def results_name(name: str | None, source: str) -> str:
    """Name the folders of a list's results: as the user says, or as the list is called."""
    return name_part(name or Path(source).stem)


def check_source(folder: Path, source: str) -> None:
    """Refuse a folder that the results of another list, which still is where it was, lie in.

    Args:
        folder: for the results; need not exist.
        source: path of the list, `COMMAND_LINE`, or what `source_of` gives.

    Raises:
        SalunError: another list has it.
    """
    owner = owner_of(folder)
    if owner is None or owner == source:
        return
    if _is_path(owner) and _is_path(source) and os.path.samefile(owner, source):
        return
    if owner.startswith(_ENTRIES) and set(owner.split()) <= set(source.split()):
        return
    held, refused = (os.path.relpath(name) if _is_path(name) else f"the {COMMAND_LINE}" for name in (owner, source))
    if owner.startswith(_ENTRIES):
        held = "other entries"
    if source.startswith(_ENTRIES):
        raise SalunError(f"{folder}: holds the results of {held}; name= gives those of these entries another folder")
    raise SalunError(f"{folder}: holds the results of {held}; --name gives those of {refused} another folder")


def keep_source(folder: Path, source: str) -> None:
    """Write down whose results a folder holds, unless they are another list's.

    Args:
        folder: for the results; is made where it is missing.
        source: path of the list, or `COMMAND_LINE`.

    Raises:
        SalunError: another list has it, or the file cannot be written.
    """
    with Locks(folder / LOCKS) as locks, locks.holding(_SOURCE):
        check_source(folder, source)
        # A path from the folder on stays true where both are moved or copied together.
        place = os.path.relpath(Path(source).resolve(), folder.resolve()) if _is_path(source) else source
        if _noted(folder) != place:
            write_text(folder / _SOURCE, json.dumps({"list": place}) + "\n")


@contextmanager
def keeping_source(folder: Path, source: str) -> Iterator[None]:
    """Write down whose results a folder is to hold, and take that back where none came of it.

    Args:
        folder: for the results; is made where it is missing.
        source: path of the list, or `COMMAND_LINE`.

    Raises:
        SalunError: another list has it, or the file cannot be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    keep_source(folder, source)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [_SOURCE]:
                (folder / _SOURCE).unlink()
                for place in made:
                    place.rmdir()


def owner_of(folder: Path) -> str | None:
    """Find the list whose results lie in a folder.

    Args:
        folder: of results.

    Returns:
        Its path, `COMMAND_LINE`, or what `source_of` gave; None where nothing is known, or the list is gone.
    """
    place = _noted(folder)
    if place is None or not _is_path(place):
        return place
    path = folder.resolve() / place
    return str(path) if os.path.exists(path) else None


def _noted(folder: Path) -> str | None:
    """Read what was written down."""
    try:
        content = read_json(folder / _SOURCE)
    except SalunError:
        return None
    place = content.get("list") if isinstance(content, dict) else None
    return place if isinstance(place, str) else None
