"""Weights & Biases: run configuration, curves and final metrics; never a condition for a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import load_dotenv

if TYPE_CHECKING:  # a record's module imports timm, which imports wandb
    from salun.experiments.record import Record

_LIMITS = ("WANDB_INIT_TIMEOUT", "WANDB_LOGIN_TIMEOUT", "WANDB_FINISH_TIMEOUT")
_SECRETS = ("KEY", "SECRET", "TOKEN", "PASSWORD")
_SHORTEST_SECRET = 6


class Tracker:
    """Sends runs to Weights & Biases; its first failure ends the logging with a notice, never the run.

    Args:
        wanted: whether anything is to be logged.
        notice: is given a line that the user reads.
        patience: seconds that wandb may take to begin or to end, unless the user's environment says otherwise.
    """

    def __init__(self, wanted: bool, notice: Callable[[str], None], patience: int = 20) -> None:
        self.notice = notice
        self.patience = patience
        self.enabled = False
        try:
            self.enabled = wanted and self._is_configured()
        except (OSError, ValueError) as error:
            self._give_up(f".env cannot be read: {getattr(error, 'strerror', None) or 'not a text file'}")

    def _is_configured(self) -> bool:
        """Read `.env`, and prepare the environment that wandb reads; it asks nobody for a key."""
        load_dotenv(Path.cwd() / ".env")
        mode = os.environ.get("WANDB_MODE")
        keys = (os.environ.get(name, "").strip() for name in ("WANDB_API_KEY", "WANDB_SECRET"))
        key = next(filter(None, keys), None)
        if mode == "disabled":
            return False
        if key is not None:
            os.environ["WANDB_API_KEY"] = key
        elif mode not in ("offline", "dryrun"):
            self._give_up("no WANDB_API_KEY or WANDB_SECRET in .env (-NL hides this notice)")
            return False
        # In the environment a user's own limits win, and versions of wandb that lack one pass it over.
        for limit in _LIMITS:
            os.environ.setdefault(limit, str(self.patience))
        os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
        return True

    @contextmanager
    def run(self, name: str, group: str, config: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], object]]:
        """Log one run.

        Args:
            name: of the run.
            group: of the experiment that it belongs to.
            config: its settings.

        Yields:
            A function that logs values by name; it does nothing where runs are not logged.
        """
        run = self._attempt(lambda: _start(name, group, config))
        try:
            yield lambda values: self._attempt(lambda: run.log(values))
        finally:
            self._attempt(lambda: run.finish())

    def _attempt(self, action: Callable[[], Any]) -> Any:
        """Call wandb, unless logging is off; a failure turns it off."""
        try:
            return action() if self.enabled else None
        except Exception as error:
            # Whatever goes wrong in a logger, the run that it logs is worth more.
            self._give_up(str(error).partition("\n")[0] or type(error).__name__)
            return None

    def _give_up(self, reason: str) -> None:
        """Log no more, and say why without the keys and passwords that a client's message may hold."""
        self.enabled = False
        for name, value in os.environ.items():
            if any(word in name.upper() for word in _SECRETS) and len(value.strip()) >= _SHORTEST_SECRET:
                reason = reason.replace(value.strip(), "***")
        self.notice(f"not logged to Weights & Biases: {reason}")


def _start(name: str, group: str, config: dict[str, Any]) -> Any:
    """Open a run of wandb."""
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    project = os.environ.get("WANDB_PROJECT", "salun")
    return wandb.init(project=project, name=name, group=group, config=config, settings=settings)


def log_run(tracker: Tracker, name: str, title: str, record: "Record") -> None:
    """Log a finished run of the list `name`: configuration, curve, final metrics."""
    config = {**record.settings, "seed": record.seed, "list": name, "device": record.device, "id": record.id}
    with tracker.run(f"{title} seed {record.seed}", f"{name}/{title}", config) as log:
        for point in record.curve:
            log(vars(point))
        log({key: value for key, value in record.metrics.items() if value is not None})
        log({f"base {key}": value for key, value in record.base_metrics.items() if value is not None})
        log({f"seconds {key}": value for key, value in record.seconds.items()})
        log({f"{name} passes {key}": count for key, value in record.passes.items() for name, count in value.items()})
