"""Live progress: a line for each training that changes on a terminal, a line an epoch elsewhere."""

from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from salun.training.progress import Callback, Epoch, Progress, no_callback

_BAR = 24
_GAP = 2


class _Countdown:
    """Estimates how long a training still takes, from its mean pace so far."""

    def __init__(self, images: int) -> None:
        self.images = max(images, 1)
        self.exhausted = 0.0
        self.share = 0.0

    def left(self, step: Progress) -> float:
        """Take note of a step."""
        if step.epoch == 1:
            self.exhausted = 0.0
        seconds = self.exhausted + step.seconds
        epochs = step.epoch - 1 + min(step.images / self.images, 1)
        if step.done is not None:
            seconds += step.done.evaluation_seconds
            epochs = step.epoch
            self.images, self.exhausted = max(step.images, 1), seconds
        self.share = epochs / step.epochs
        return seconds * (step.epochs - epochs) / epochs


def _images_a_second(step: Progress) -> float:
    """Compute the pace of an epoch."""
    return step.images / max(step.seconds, 1e-9)


def _epoch_line(done: Epoch, epochs: int, rate: float, left: float) -> str:
    """Describe a finished epoch."""
    validation = "" if done.validation is None else f"  validation {100 * done.validation:.2f} %"
    figures = f"loss {done.loss:.4f}  accuracy {100 * done.accuracy:.2f} %{validation}"
    return f"epoch {done.epoch}/{epochs}  {figures}  {rate:,.0f} images/s  about {left:.0f} s left"


def _live_line(step: Progress, last: Epoch | None, left: float, width: int) -> str:
    """Describe a running training."""
    minutes, seconds = divmod(round(left), 60)
    parts = [
        f"epoch {step.epoch}/{step.epochs}",
        f"loss {last.loss:.4g}" if last else "loss -",
        f"acc {100 * last.accuracy:.2f} %" if last else "acc -",
        f"{_images_a_second(step):,.0f} img/s",
        f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left",
    ]
    line = (" " * _GAP).join(parts)
    if last is None or last.validation is None:
        return line
    parts.insert(3, f"val {100 * last.validation:.2f} %")
    longer = (" " * _GAP).join(parts)
    return longer if len(longer) <= width else line


@dataclass(frozen=True)
class _Line:
    """What is shown of a training."""

    title: str = ""
    figures: str = ""
    share: float = 0.0

    def fitted(self, width: int) -> RenderableType:
        """Lay the line out: the figures, and where there is room for them the title and a bar."""
        figures, title = Text(self.figures), Text(self.title)
        cells: list[RenderableType] = [figures]
        room = width - figures.cell_len - _GAP
        if title.cell_len <= room:
            cells.insert(0, title)
            room -= title.cell_len + _GAP
        if room >= _BAR:
            cells.insert(-1, ProgressBar(total=1, completed=self.share, width=_BAR))
        line = Table.grid(*(Column(no_wrap=True) for _ in cells), padding=(0, _GAP, 0, 0))
        line.add_row(*cells)
        return line


class Display:
    """Shows trainings, one after another or several at a time; a context manager."""

    def __init__(self, console: Console, lines: bool) -> None:
        self.console = console
        self.lines = lines
        self.shown: dict[str, _Line] = {}
        self.live = Live(console=console, transient=True, get_renderable=self.render)

    def __enter__(self) -> "Display":
        if self.console.is_interactive:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def render(self) -> RenderableType:
        """Lay out what is under way."""
        lines = list(self.shown.values()) or [_Line()]
        return Group(*(line.fitted(self.console.width) for line in lines))

    def callback(self, title: str, images: int, name: str = "") -> Callback:
        """Show one training.

        Args:
            title: what is trained.
            images: of an epoch, as expected.
            name: of its line; it takes the place of an earlier training of that name.
        """
        if not self.console.is_interactive and not self.lines:
            return no_callback
        countdown = _Countdown(images)
        last: Epoch | None = None
        self.shown[name] = _Line(title)

        def show(step: Progress) -> None:
            nonlocal last
            last, left = step.done or last, countdown.left(step)
            if self.console.is_interactive:
                figures = _live_line(step, last, left, self.console.width)
                self.shown[name] = _Line(title, figures, countdown.share)
            elif step.done is not None:
                print(_epoch_line(step.done, step.epochs, _images_a_second(step), left), flush=True)

        return show

    def drop(self, name: str) -> None:
        """Show a training no longer; where no line has the name, nothing changes."""
        self.shown.pop(name, None)
