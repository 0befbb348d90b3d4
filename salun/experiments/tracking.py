"""Weights & Biases: run configuration, curves and final metrics; never a condition for a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dotenv import load_dotenv

_KEYS = ("WANDB_API_KEY", "WANDB_SECRET")

_KEYLESS_MODES = ("offline", "dryrun")

_SECRETS = ("KEY", "SECRET", "TOKEN", "PASSWORD")

_SHORTEST_SECRET = 6

_OFF = "disabled"

PATIENCE = 20

_PROJECT = "salun"

_Log = Callable[[dict[str, Any]], None]


class Tracker:
    """Sends runs to Weights & Biases where a key or an offline mode is set, and says once where not.

    The first failure, whatever it is, ends the logging with a notice and leaves the run to go on.

    Attributes:
        enabled: whether runs are sent.
    """

    def __init__(self, wanted: bool, notice: Callable[[str], None]) -> None:
        """Find the key, asking nobody.

        Args:
            wanted: False turns logging off without a word, as does the mode "disabled".
            notice: is told, once, why runs are not logged.
        """
        self.notice = notice
        self.enabled = False
        try:
            self.enabled = wanted and self.find_key()
        except (OSError, ValueError) as error:
            self.give_up(f".env cannot be read: {getattr(error, 'strerror', None) or 'not a text file'}")

    def find_key(self) -> bool:
        """Read `.env` and prepare the environment that wandb reads.

        Returns:
            Whether runs can be sent; where they cannot, and the mode is not "disabled", the user was told.

        Raises:
            OSError: `.env` cannot be read.
            ValueError: `.env` is not text.
        """
        load_dotenv(Path.cwd() / ".env")
        mode = os.environ.get("WANDB_MODE")
        key = next((os.environ[name].strip() for name in _KEYS if os.environ.get(name, "").strip()), None)
        if mode == _OFF:
            return False
        if key is not None:
            os.environ["WANDB_API_KEY"] = key
        elif mode not in _KEYLESS_MODES:
            self.give_up("no WANDB_API_KEY or WANDB_SECRET in .env (-NL hides this notice)")
            return False
        # In the environment a user's own limits win, and versions of wandb that lack one pass it over.
        for limit in ("WANDB_INIT_TIMEOUT", "WANDB_LOGIN_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
            os.environ.setdefault(limit, str(PATIENCE))
        os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
        return True

    @contextmanager
    def run(self, name: str, group: str, config: dict[str, Any]) -> Iterator[_Log]:
        """Log one run.

        Args:
            name: of the run.
            group: of the experiment that it belongs to.
            config: its settings.

        Yields:
            A function that takes figures by name; it does nothing where runs are not logged.
        """
        started = self.attempt(partial(start, name, group, config))
        if started is None:
            yield lambda figures: None
            return
        try:
            yield lambda figures: self.attempt(partial(started.log, figures))
        finally:
            self.attempt(started.finish)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do something with wandb, unless logging is off; a failure turns it off.

        Args:
            action: a call of wandb.

        Returns:
            What the call returns; None where it was not made or failed.
        """
        if not self.enabled:
            return None
        try:
            return action()
        except Exception as error:
            # Whatever goes wrong in a logger, the run that it logs is worth more.
            self.give_up(str(error).partition("\n")[0] or type(error).__name__)
            return None

    def give_up(self, reason: str) -> None:
        """Log no more.

        Args:
            reason: for the notice.
        """
        self.enabled = False
        self.notice(f"not logged to Weights & Biases: {_without_secrets(reason)}")


def _without_secrets(text: str) -> str:
    """Blot out keys and passwords of the environment, which the words of a client or a server may hold."""
    for name, value in os.environ.items():
        if any(word in name.upper() for word in _SECRETS) and len(value.strip()) >= _SHORTEST_SECRET:
            text = text.replace(value.strip(), "***")
    return text


def start(name: str, group: str, config: dict[str, Any]) -> Any:
    """Open a run.

    Args:
        name: of the run.
        group: of the experiment that it belongs to.
        config: its settings.

    Returns:
        wandb's run.
    """
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return wandb.init(project=project, name=name, group=group, config=config, settings=settings)
