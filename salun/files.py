"""Reading JSON with a plain error, and writing files whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from salun.errors import SalunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it when the block ends well.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        The temporary path to write to.

    Raises:
        SalunError: the folder cannot be written, or has no room (which `torch.save` tells by a RuntimeError).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise SalunError(f"{path}: cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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
