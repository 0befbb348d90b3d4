"""Reading JSON with a plain error, writing files whole or not at all, and names for them."""

import hashlib
import json
import os
import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from salun.errors import SalunError

_LONGEST_NAME = 72


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it when the block ends well.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        The temporary path to write to.

    Raises:
        SalunError: the folder cannot be written, or has no room (which `torch.save` hides behind a RuntimeError).
    """
    temporary = path.with_name(f".{path.name}.{_process_mark()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        settle_folder(path.parent)
    except (OSError, RuntimeError) as error:
        first = error if isinstance(error, OSError) else error.__context__ or error
        reason = getattr(first, "strerror", None) or str(first).partition("\n")[0]
        raise SalunError(f"{path}: cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def settle_folder(folder: Path) -> None:
    """Let names of new files in a folder outlive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _process_mark() -> str:
    """Mark temporary files as this process's."""
    return f"{hashlib.sha256(_machine().encode()).hexdigest()[:6]}-{os.getpid()}"


@cache
def _machine() -> str:
    """Name this machine, in this boot of it, and the range of its process numbers, which containers have each."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _is_gone(process: int) -> bool:
    """Tell whether no process of this machine has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # it is another user's
    return False


def sweep(folder: Path) -> None:
    """Remove temporary files in a folder of processes of this machine that were killed over them."""
    for path in folder.glob(".*.part"):
        host, _, digits = path.name.removesuffix(".part").rpartition(".")[2].partition("-")
        number = int(digits) if digits.isdecimal() else os.getpid()
        if host == _process_mark().partition("-")[0] and _is_gone(number):
            with suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece.

    Args:
        path: the file.
        text: its whole content.

    Raises:
        SalunError: the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file, refusing a key that stands twice in one object.

    Args:
        path: the file.

    Returns:
        What the file holds.

    Raises:
        SalunError: the file is missing, unreadable, or not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise SalunError(f"{path}: key '{key}' stands twice in one object")
            found[key] = value
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SalunError(f"{path}: not valid JSON: {error.msg} at {where}") from error
    except UnicodeDecodeError as error:
        raise SalunError(f"{path}: not a text file") from error
    except ValueError as error:
        raise SalunError(f"{path}: cannot be read: {error}") from error
    except RecursionError as error:
        raise SalunError(f"{path}: nested too deeply") from error
    except OSError as error:
        raise SalunError(f"{path}: cannot be read: {error.strerror or error}") from error


def find_place(given: Path, root: Path) -> Path | None:
    """Look for a path as given, then under a folder.

    Args:
        given: of a file or a folder, of any length.
        root: where such files are kept.

    Returns:
        The path that exists; None where neither does.
    """
    return next((path for path in (given, root / given) if os.path.exists(path)), None)


def each_once(paths: Iterable[Path]) -> list[Path]:
    """Leave out the files that were named before in another way.

    Args:
        paths: of files that exist.

    Returns:
        Each file once, as it was named first.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return list(found.values())


def name_part(text: str) -> str:
    """Make a name usable in a file name.

    Args:
        text: for example a data set's name.

    Returns:
        ASCII letters, digits, dot, dash and underscore; of a long or foreign text both ends and a digest.
    """
    name = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "unnamed"
    if text.isascii() and len(name) <= _LONGEST_NAME:
        return name
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    half = (_LONGEST_NAME - len(mark) - 2) // 2
    return f"{name}-{mark}" if len(name) <= 2 * half else f"{name[:half]}-{mark}-{name[-half:]}"


def mirrored(path: Path, root: Path) -> Path:
    """Find the place of a file's results in a folder that mirrors where the file lies.

    Args:
        path: the file.
        root: the folder that is mirrored.

    Returns:
        A relative path without ending: from `root` or the working folder on, else the file's own folder and name.
    """
    return mirrored_apart([path], root)[0]


def mirrored_apart(paths: Sequence[Path], root: Path) -> list[Path]:
    """Find the places of several files' results, each its own.

    Args:
        paths: the files.
        root: the folder that is mirrored.

    Returns:
        Relative paths as of `mirrored`, outside the working folder from the folder on that holds all such files;
        with a digest behind them where two would be equal.
    """
    tops = [root.resolve(), Path.cwd()]
    full = [path.resolve() for path in paths]
    outside = [str(path.parent) for path in full if not any(path.is_relative_to(top) for top in tops)]
    tops += [Path(os.path.commonpath(outside)).parent] if outside else []
    places = []
    for path in full:
        inside = path.relative_to(next(top for top in tops if path.is_relative_to(top)))
        places.append(Path(*(name_part(part) for part in inside.with_suffix("").parts)))
    counts = Counter(places)
    return [
        place.with_name(f"{place.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}")
        if counts[place] > 1
        else place
        for place, path in zip(places, full, strict=True)
    ]
