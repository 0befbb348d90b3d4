"""Locks between processes that share a folder; the kernel frees them when their holder ends."""

import errno
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from salun.errors import SalunError

LOCKS = "locks"
POLL = 0.5
_SILENCE = 5.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_log = logging.getLogger("salun")


class Locks:
    """The locks that this process holds in a folder; a context manager that frees all of them.

    Args:
        folder: is made when needed, and removed again when nothing is left in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, BaseFileLock] = {}
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._held):
            self.release(name)
        for folder in (self._folder, *self._made):
            with suppress(OSError):
                folder.rmdir()

    def take(self, name: str) -> bool:
        """Take a lock unless another process holds it.

        Args:
            name: usable in a file name.

        Returns:
            Whether this process holds it now.

        Raises:
            SalunError: the folder cannot be written.
        """
        if name in self._held:
            return True
        path = self._folder / f"{name}.lock"
        lock: BaseFileLock = FileLock(path, timeout=0, fallback_to_soft=False)
        while True:
            try:
                self._make_folder()
                lock.acquire()
            except Timeout:
                return False
            except OSError as error:
                if isinstance(error, FileNotFoundError | FileExistsError) and not self._is_taken():
                    continue  # another process has just removed the empty folder, or made it
                if error.errno in _NO_LOCKS and isinstance(lock, FileLock):
                    path.unlink(missing_ok=True)  # without locks in the kernel, nobody holds this file
                    lock = SoftFileLock(path.with_suffix(".held"), timeout=0)
                    continue
                raise SalunError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
            self._held[name] = lock
            return True

    def release(self, name: str) -> None:
        """Free a lock.

        Args:
            name: of a lock that this process holds.
        """
        lock = self._held.pop(name)
        with suppress(OSError):  # while it is held: a process that opened the file sees that it is gone, and opens anew
            Path(lock.lock_file).unlink()
        lock.release()

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Hold a lock for a block, waiting for whoever holds it; a long wait is reported.

        Args:
            name: usable in a file name.

        Yields:
            Nothing.

        Raises:
            SalunError: the folder cannot be written.
        """
        pause, silent_until = 0.001, time.monotonic() + _SILENCE
        while not self.take(name):
            if time.monotonic() > silent_until:
                _log.warning("%s: waiting for another process that is at work on it", self._folder.parent / name)
                silent_until = math.inf
            time.sleep(pause)
            pause = min(2 * pause, POLL)
        try:
            yield
        finally:
            self.release(name)

    def _is_taken(self) -> bool:
        """Tell whether something else stands in the place of the folder, or of one above it."""
        return any(os.path.lexists(place) and not place.is_dir() for place in (self._folder, *self._folder.parents))

    def _make_folder(self) -> None:
        """Make the folder, and remember which folders above it were not there."""
        if not self._folder.is_dir():
            self._made += [
                folder for folder in self._folder.parents if not folder.exists() and folder not in self._made
            ]
            self._folder.mkdir(parents=True, exist_ok=True)
