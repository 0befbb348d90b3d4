"""Plugins: what the page about them prints, and registries that forget what a test adds."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from salun.data.sources import SOURCES, load_sources
from salun.metrics import METRICS, load_metrics
from salun.models.own import MODELS
from salun.registry import ADDED, load_installed
from salun.unlearning import METHODS, load_methods

REGISTRIES: tuple[dict[str, Any], ...] = (METHODS, METRICS, SOURCES, MODELS, ADDED)
PAGE = (Path(__file__).resolve().parents[2] / "docs/add_a_method.md").read_text()
PRINTED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FILES = {
    re.search(r"my_\w+\.py", PAGE[PAGE.index(code) + len(code) :])[0]: code  # type: ignore[index]
    for code in PRINTED
}
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def registered() -> list[dict[str, Any]]:
    """Copy what the registries hold."""
    return [dict(registry) for registry in REGISTRIES]


@contextmanager
def forgotten() -> Iterator[None]:
    """Take back what is registered meanwhile."""
    load_methods()
    load_metrics()
    load_sources()
    before, modules = registered(), added_modules()
    try:
        yield
    finally:
        if registered() != before:
            for registry, held in zip(REGISTRIES, before, strict=True):
                registry.clear()
                registry.update(held)
            for name in added_modules() - modules:
                del sys.modules[name]
            load_installed.cache_clear()


def added_modules() -> set[str]:
    """Name the modules that plugins were run as."""
    return {name for name in sys.modules if name.startswith(("salun_plugin", "added"))}
