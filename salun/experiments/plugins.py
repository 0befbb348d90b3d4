"""Methods, metrics and data sets from files that the user alone names: code that is run as it stands."""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from salun.data.sources import SOURCES, load_sources
from salun.errors import SalunError
from salun.metrics import METRICS, load_metrics
from salun.registry import ADDED, reason
from salun.unlearning import METHODS, load_methods

_REGISTRIES: tuple[dict[str, Any], ...] = (METHODS, METRICS, SOURCES)


class _Loader(SourceLoader):
    """Loads a module from bytes that were read before, so that their digest is the code's; writes no compiled file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.content = content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - one loader a module
        return str(self.path)

    def get_data(self, path: Any) -> bytes:  # noqa: ARG002 - one loader a file
        return self.content


def load_plugins(files: Iterable[Path]) -> None:
    """Run files that register methods, metrics or data sets, after everything that is there without them.

    Args:
        files: Python files.

    Raises:
        SalunError: a file cannot be read or run, registers nothing, or takes a name that is taken.
    """
    load_methods()
    load_metrics()
    load_sources()
    for file in files:
        _load_plugin(file)
    load_metrics()


def _load_plugin(file: Path) -> None:
    """Run one file; what it registered when it ran before goes first."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SalunError(f"plugin {file}: cannot be read: {error.strerror}") from error
    home, path = f"salun_plugin_{file.stem}", file.resolve()
    earlier = getattr(sys.modules.get(home), "__file__", None)
    if earlier is not None and earlier != str(path):
        raise SalunError(f"plugin {file}: records know plugins by name, and {earlier} has the same; rename one of them")
    _drop(home)
    try:
        _execute(file, home, _Loader(path, content))
        if not any(found.home == home for registry in _REGISTRIES for found in registry.values()):
            raise SalunError(f"plugin {file}: registers nothing; it needs @method(), @metric(...) or @dataset(...)")
    except SalunError:
        _drop(home)
        raise
    ADDED[f"plugin {file.name}"] = hashlib.sha256(content).hexdigest()


def _execute(file: Path, home: str, loader: _Loader) -> None:
    """Run a file as a module."""
    spec = spec_from_loader(home, loader)
    if spec is None:
        raise SalunError(f"plugin {file}: cannot be loaded")
    module = sys.modules[home] = module_from_spec(spec)
    try:
        loader.exec_module(module)
    except SalunError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise SalunError(f"plugin {file}: {reason(error, str(loader.path))}") from error


def _drop(home: str) -> None:
    """Take back what a module registered."""
    sys.modules.pop(home, None)
    for registry in _REGISTRIES:
        for name in [name for name, found in registry.items() if found.home == home]:
            del registry[name]


def outdated(versions: Iterable[Mapping[str, str]]) -> list[str]:
    """Find finished runs that were done with another version of a plugin than the one at hand.

    Args:
        versions: of each run, by what it depended on.

    Returns:
        A line for each plugin that changed.
    """
    known = list(versions)
    counts = {name: sum(held.get(name, now) != now for held in known) for name, now in ADDED.items()}
    return [
        f"{name}: has changed since {count} of the finished runs; with another --out they are done anew"
        for name, count in counts.items()
        if count
    ]
