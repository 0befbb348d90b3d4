"""Downloads: absent data are fetched beside their place and moved in whole."""

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from salun.errors import SalunError

# Where packages of Debian put data sets, by our names.
PACKAGED = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


def fetch(
    name: str, folder: Path, files: str, download: bool, get: Callable[[str], object], timeout: float = 20.0
) -> None:
    """Download the absent files of a data set.

    Args:
        name: the data set, for the text of errors.
        folder: where they belong; it is made where it is missing.
        files: what is absent, for the text of errors.
        download: whether it may be fetched.
        get: downloads into a folder.
        timeout: seconds that a server may be silent.

    Raises:
        SalunError: it may not, or it could not be fetched; nothing is left behind.
    """
    absent = f"data set '{name}' is not in {folder}"
    remedy = f"put {files} there, or use --dataset digits, which needs no download"
    if not download:
        raise SalunError(f"{absent}: {remedy}")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as staging:
            with _impatient(timeout):
                get(staging)
            _move_files(Path(staging), folder)
    except (OSError, RuntimeError, HTTPException, ImportError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SalunError(f"{absent} and could not be downloaded ({reason}): {remedy}") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _move_files(source: Path, target: Path) -> None:
    """Move all files of a folder to the same places in another one."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)


@contextmanager
def _impatient(seconds: float) -> Iterator[None]:
    """Let silent connections fail, which torchvision would wait for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
