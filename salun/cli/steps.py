"""A progress bar over steps of any kind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress


@contextmanager
def watched(title: str, steps: int) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(title), total=steps)
        yield lambda: bar.advance(task)
