"""Who does what, among processes that share nothing but a folder: claims that lapse when their maker is gone.

A claim is a file that only one process can make, by a mode of opening that also network file systems keep to. Its
maker touches it while it lives. Who finds a claim abandoned makes the next of its generation, never removes it, so
that of two who find it only one can; the latest generation is the one that holds. Nothing here trusts clocks of two
machines, or one that may jump, to agree: a claim is abandoned once its time of change has stood still for a lease on
the observer's own clock, or at once where its maker was a process of this machine that is no more.
"""

import json
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from salun.errors import SalunError

CLAIMS = "claims"

_LEASE = 60.0

_TOUCHES = 6

POLL = 0.5

SILENCE = 5.0

_log = logging.getLogger("salun")


@dataclass(frozen=True)
class _Claim:
    """A claim as it was found in its folder.

    Attributes:
        path: of its file.
        generation: from 1; a later one overrides it.
        content: who made it.
        changed: when its maker last touched it, by the file system's clock.
    """

    path: Path
    generation: int
    content: str
    changed: int


@dataclass
class Claims:
    """What this process has claimed in a folder; a context manager that gives all of it back.

    Attributes:
        folder: is made when needed, and goes again when nothing is left in it.
        lease: seconds after which a claim that nobody touches is abandoned.
        held: files of the claims that this process holds, and what it wrote into them, by name.
        made: folders around it that were not there before, the innermost first.
        seen: of others' claims, when the time of change was first what it is, on this process's clock.
    """

    folder: Path
    lease: float = _LEASE
    held: dict[str, tuple[Path, str]] = field(default_factory=dict)
    seen: dict[tuple[Path, int], float] = field(default_factory=dict)
    made: list[Path] = field(default_factory=list)
    over: Event = field(default_factory=Event)
    touching: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        for name in list(self.held):
            self.release(name)
        for folder in (self.folder, *self.made):
            with suppress(OSError):
                folder.rmdir()

    def take(self, name: str) -> bool:
        """Claim something, unless another process holds it.

        Args:
            name: usable in a file name.

        Returns:
            Whether it is this process's now.

        Raises:
            SalunError: the folder cannot be written.
        """
        if name in self.held:
            return self.holds(name)
        last = self.latest(name)
        if last is not None and not self.is_abandoned(last):
            return False
        mine = self.folder / f"{name}.{1 if last is None else last.generation + 1}"
        content = json.dumps({**here(), "token": uuid.uuid4().hex})
        if not self.make(mine, content):
            return False
        newest = self.latest(name)
        changed_hands = last is not None and _read(last.path) != last.content
        if changed_hands or newest is None or newest.path != mine:
            mine.unlink(missing_ok=True)  # another process did the same at the same moment
            return False
        self.held[name] = (mine, content)
        self.keep_touching()
        return True

    def holds(self, name: str) -> bool:
        """Tell whether a claim still is this process's, which it is not once another found it abandoned.

        Args:
            name: of something claimed.

        Returns:
            Whether nobody took it over.
        """
        if name not in self.held:
            return False
        last = self.latest(name)
        return last is not None and (last.path, last.content) == self.held[name]

    def release(self, name: str) -> None:
        """Give a claim back, with those before it that were abandoned.

        Args:
            name: of something claimed.
        """
        held = self.holds(name)
        mine, _ = self.held.pop(name)
        if not held:
            return
        own = _generation_of(mine)
        for path in self.files(name):
            if _generation_of(path) <= own:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the claims of processes that are seen to be gone.

        Raises:
            SalunError: the folder cannot be written.
        """
        for name in {path.stem for path in self.folder.glob("*") if _generation_of(path)} - self.held.keys():
            if self.take(name):
                self.release(name)

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Claim something, waiting for whoever holds it; a long wait is told of.

        Args:
            name: usable in a file name.

        Yields:
            Nothing; the claim is given back when the block ends.

        Raises:
            SalunError: the folder cannot be written.
        """
        pause, told = 0.001, time.monotonic() + SILENCE
        while not self.take(name):
            if time.monotonic() > told:
                _log.warning("%s: waiting for another process that is at work on it", self.folder.parent / name)
                told = math.inf
            time.sleep(pause)
            pause = min(2 * pause, POLL)
        try:
            yield
        finally:
            self.release(name)

    def take_unless_alive(self, name: str) -> bool:
        """Claim something, unless another process is seen to be alive that holds it; that takes a lease at most.

        A claim that a process of another machine left, or of this one before it was started anew, does not tell at
        first sight whether anybody still touches it.

        Args:
            name: usable in a file name.

        Returns:
            Whether it is this process's now.

        Raises:
            SalunError: the folder cannot be written.
        """
        first = self.latest(name)
        while not self.take(name):
            last = self.latest(name)
            touched = first is not None and last is not None and last.changed != first.changed
            if touched or (last is not None and _maker_here(last)):
                return False
            first = first or last
            time.sleep(POLL)
        return True

    def latest(self, name: str) -> _Claim | None:
        """Find the claim that holds.

        Args:
            name: of what is claimed.

        Returns:
            Its latest generation; None where there is none.
        """
        for path in reversed(self.files(name)):
            with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
                return _Claim(path, _generation_of(path), file.read(), os.fstat(file.fileno()).st_mtime_ns)
        return None

    def files(self, name: str) -> list[Path]:
        """List the files of a claim.

        Args:
            name: of what is claimed.

        Returns:
            Its generations, the latest last.

        Raises:
            SalunError: the folder cannot be read.
        """
        try:
            found = [self.folder / entry for entry in os.listdir(self.folder)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise SalunError(f"{self.folder}: cannot be read: {error.strerror or error}") from error
        return sorted((path for path in found if path.stem == name and _generation_of(path)), key=_generation_of)

    def is_abandoned(self, claim: _Claim) -> bool:
        """Tell whether the maker of a claim is gone.

        Args:
            claim: another process's.

        Returns:
            True where it was a process of this machine that has ended, or has not touched the claim for a lease.
        """
        now = time.monotonic()
        since = self.seen.setdefault((claim.path, claim.changed), now)
        maker = _maker_here(claim)
        return now - since > self.lease or (maker is not None and is_gone(*maker))

    def make(self, path: Path, content: str) -> bool:
        """Make a file that must not exist.

        Args:
            path: of the file.
            content: of it.

        Returns:
            Whether it did not exist.

        Raises:
            SalunError: the folder cannot be written.
        """
        try:
            if not self.folder.exists():
                self.made = [folder for folder in self.folder.parents if not folder.exists()]
                self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError as error:
            if not self.folder.is_dir():
                raise SalunError(f"{self.folder}: cannot be written: not a folder") from error
            return False
        except FileNotFoundError:  # the folder went with another's last claim
            return self.make(path, content)
        except OSError as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise SalunError(f"{path.parent}: cannot be written: {error.strerror or error}") from error
        return True

    def keep_touching(self) -> None:
        """Begin to touch the claims that are held, until all are given back."""
        if self.touching is None:
            self.touching = Thread(target=self.touch_on, name="salun claims", daemon=True)
            self.touching.start()

    def touch_on(self) -> None:
        """Touch the claims that are held, several times a lease."""
        while not self.over.wait(self.lease / _TOUCHES):
            for path, content in list(self.held.values()):
                if _read(path) == content:  # else it lapsed, and a later one may have its name
                    with suppress(OSError):
                        os.utime(path)


def _maker_here(claim: _Claim) -> tuple[int, str] | None:
    """Read which process of this machine made a claim."""
    try:
        maker = json.loads(claim.content)
        return (int(maker["process"]), maker["started"]) if maker["machine"] == machine() else None
    except (ValueError, KeyError, TypeError):
        return None


def _generation_of(path: Path) -> int:
    """Read a claim's generation from its name."""
    number = path.suffix.removeprefix(".")
    return int(number) if number.isdecimal() else 0


def _read(path: Path) -> str | None:
    """Read a claim's file."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return None


def here() -> dict[str, str]:
    """Say which process of which machine this is.

    Returns:
        "machine", "process" and "started".
    """
    return {"machine": machine(), "process": str(os.getpid()), "started": started(os.getpid())}


@cache
def machine() -> str:
    """Name this machine, in this boot of it, and the range of its process numbers, which containers have each.

    Returns:
        A text.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def started(process: int) -> str:
    """Tell when a process of this machine was started, so that another of its number is not taken for it.

    Args:
        process: its number.

    Returns:
        A text that is the same as long as it lives; empty where there is none, or this system does not tell.
    """
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = status.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def is_gone(process: int, since: str) -> bool:
    """Tell whether a process of this machine has ended.

    Args:
        process: its number.
        since: when it was started, as `started` told then.

    Returns:
        Whether it certainly has.
    """
    if now := started(process):
        return now != since
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False  # it is another user's, and hidden
    return Path(f"/proc/{process}").exists()  # one that has ended, and that nobody has asked about yet
