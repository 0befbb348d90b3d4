"""Weights & Biases: run configuration, curves and final metrics; never a condition for a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dotenv import load_dotenv

KEYS = ("WANDB_API_KEY", "WANDB_SECRET")
KEYLESS_MODES = ("offline", "disabled", "dryrun")
PATIENCE = 30
PROJECT = "salun"

Log = Callable[[dict[str, Any]], None]


class Tracker:
    """Sends runs to Weights & Biases where a key or an offline mode is set, and says once where not.

    Attributes:
        enabled: whether runs are sent.
    """

    def __init__(self, wanted: bool, notice: Callable[[str], None]) -> None:
        """Find the key, asking nobody.

        Args:
            wanted: False turns logging off without a word.
            notice: is told, once, why runs are not logged.
        """
        self.notice = notice
        self.enabled = False
        if not wanted:
            return
        load_dotenv(Path.cwd() / ".env")
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if os.environ.get("WANDB_MODE") in KEYLESS_MODES:
            self.enabled = True
        elif key is None:
            notice("not logged to Weights & Biases: no WANDB_API_KEY or WANDB_SECRET in .env (-NL hides this notice)")
        else:
            os.environ["WANDB_API_KEY"] = key
            self.enabled = True

    @contextmanager
    def run(self, name: str, group: str, config: dict[str, Any]) -> Iterator[Log]:
        """Log one run.

        Args:
            name: of the run.
            group: of the experiment that it belongs to.
            config: its settings.

        Yields:
            A function that takes figures by name; it does nothing where runs are not logged.
        """
        started = self.start(name, group, config) if self.enabled else None
        if started is None:
            yield lambda figures: None
            return
        try:
            yield started.log
        finally:
            started.finish()

    def start(self, name: str, group: str, config: dict[str, Any]) -> Any:
        """Open a run, or give up logging with a notice.

        Args:
            name: of the run.
            group: of the experiment that it belongs to.
            config: its settings.

        Returns:
            wandb's run, or None.
        """
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, login_timeout=PATIENCE)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        try:
            return wandb.init(project=project, name=name, group=group, config=config, settings=settings)
        except (wandb.Error, OSError, TimeoutError) as error:
            self.enabled = False
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.notice(f"not logged to Weights & Biases: {reason}")
            return None
