"""Methods, metrics, data sets and models from files that the user alone names: code that is run as it stands."""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib.abc import SourceLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from salun.data.sources import SOURCES, load_sources
from salun.errors import SalunError, did_you_mean
from salun.metrics import METRICS, load_metrics
from salun.models.architecture import timm_name
from salun.models.own import MODELS, OwnModel, check_model
from salun.registry import ADDED, reason
from salun.unlearning import METHODS, load_methods

_REGISTRIES: tuple[dict[str, Any], ...] = (METHODS, METRICS, SOURCES, MODELS)
_MODEL_MARK = ".py:"


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
    """Run files that register methods, metrics, data sets or models, after everything that is there without them.

    Args:
        files: Python files, or FILE.py:NAME for a class or function of a file that gives a model.

    Raises:
        SalunError: a file cannot be read or run, registers nothing, or takes a name that is taken.
    """
    load_methods()
    load_metrics()
    load_sources()
    for file in files:
        if _MODEL_MARK in str(file):
            known_model(str(file))
        else:
            _load_plugin(file)
    load_metrics()


def known_model(name: str) -> str:
    """Check the name of a model that the user gave, running the file that it names, which registers it.

    Args:
        name: "resnet_tiny", of timm, of a plugin, or FILE.py:NAME.

    Returns:
        The name as checkpoints and records have it: of timm without "timm/", of a file without its folder.

    Raises:
        SalunError: there is no such model, or the file cannot be read or run.
    """
    if _MODEL_MARK not in name:
        plain = name if name in MODELS else timm_name(name)
        check_model(plain)
        return plain
    file, attribute = source_file(Path(name)), name.rpartition(_MODEL_MARK)[2]
    canonical = f"{file.name}:{attribute}"
    if file.name == str(file) and not file.exists() and canonical in MODELS:
        return canonical  # as a record names it
    home = _run(file, "model")
    build = vars(sys.modules[home]).get(attribute)
    if not callable(build):
        own = [key for key, value in vars(sys.modules[home]).items() if getattr(value, "__module__", "") == home]
        raise SalunError(f"model '{name}': {file} has no class or function '{attribute}'{did_you_mean(attribute, own)}")
    MODELS[canonical] = OwnModel(build, None, home, file.resolve())
    return canonical


def source_file(plugin: Path) -> Path:
    """Tell which file a plugin's code is in: FILE.py of FILE.py:NAME."""
    path, mark, _ = str(plugin).rpartition(_MODEL_MARK)
    return Path(path + ".py") if mark else plugin


def model_files(names: Iterable[str | None]) -> tuple[Path, ...]:
    """List what other processes must run to have the same models.

    Args:
        names: of models, as records have them.

    Returns:
        FILE.py:NAME of those that came from such a name.
    """
    found = {name: MODELS[name].file for name in names if name in MODELS}
    return tuple(file.with_name(name) for name, file in found.items() if file is not None)


def _load_plugin(file: Path) -> None:
    """Run one file, which must register something."""
    home = _run(file, "plugin")
    if not any(found.home == home for registry in _REGISTRIES for found in registry.values()):
        _drop(home)
        del ADDED[f"plugin {file.name}"]
        needed = "@method(), @metric(...), @dataset(...) or @model(...)"
        raise SalunError(f"plugin {file}: registers nothing; it needs {needed}; {file}:NAME names a model of it")


def _run(file: Path, kind: str) -> str:
    """Run a file as a module, unless it has run as it stands; what it registered when it ran before goes first."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SalunError(f"{kind} {file}: cannot be read: {error.strerror}") from error
    home, path, digest = f"salun_plugin_{file.stem}", file.resolve(), hashlib.sha256(content).hexdigest()
    earlier = getattr(sys.modules.get(home), "__file__", None)
    if earlier is not None and earlier != str(path):
        raise SalunError(f"{kind} {file}: records know plugins by name, and {earlier} has the same; rename one of them")
    if earlier is not None and kind == "model" and ADDED.get(f"plugin {file.name}") == digest:
        return home
    _drop(home)
    try:
        _execute(file, home, _Loader(path, content))
    except SalunError:
        _drop(home)
        raise
    ADDED[f"plugin {file.name}"] = digest
    return home


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
