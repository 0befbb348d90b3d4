"""Live progress: one line that changes on a terminal, a line an epoch elsewhere."""

from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from salun.training import Epoch, Progress, Watch, unwatched

BAR = 24
GAP = 2


class Countdown:
    """Estimates how long a training still takes, from its mean pace so far.

    Attributes:
        images: of an epoch: as expected, and once an epoch is over as counted.
        spent: seconds of the finished epochs.
        share: how much of the training is done.
    """

    def __init__(self, images: int) -> None:
        self.images = max(images, 1)
        self.spent = 0.0
        self.share = 0.0

    def left(self, step: Progress) -> float:
        """Take note of a step.

        Args:
            step: where the training stands.

        Returns:
            The seconds left.
        """
        if step.epoch == 1:
            self.spent = 0.0
        seconds = self.spent + step.seconds
        epochs = step.epoch - 1 + min(step.images / self.images, 1)
        if step.done is not None:
            seconds += step.done.evaluation_seconds
            epochs = step.epoch
            self.images, self.spent = max(step.images, 1), seconds
        self.share = epochs / step.epochs
        return seconds * (step.epochs - epochs) / epochs


def images_a_second(step: Progress) -> float:
    """Compute the pace of an epoch.

    Args:
        step: where the training stands.

    Returns:
        Images a second.
    """
    return step.images / max(step.seconds, 1e-9)


def epoch_line(done: Epoch, epochs: int, rate: float, left: float) -> str:
    """Describe a finished epoch.

    Args:
        done: its figures.
        epochs: planned.
        rate: images a second.
        left: seconds.

    Returns:
        One line.
    """
    validation = "" if done.validation is None else f"  validation {100 * done.validation:.2f} %"
    figures = f"loss {done.loss:.4f}  accuracy {100 * done.accuracy:.2f} %{validation}"
    return f"epoch {done.epoch}/{epochs}  {figures}  {rate:,.0f} images/s  about {left:.0f} s left"


def live_line(step: Progress, last: Epoch | None, left: float, width: int) -> str:
    """Describe a running training.

    Args:
        step: where it stands.
        last: the epoch that was finished last, if any.
        left: seconds.
        width: of the terminal; without room the validation accuracy is left out.

    Returns:
        One line.
    """
    minutes, seconds = divmod(round(left), 60)
    parts = [
        f"epoch {step.epoch}/{step.epochs}",
        f"loss {last.loss:.4g}" if last else "loss -",
        f"acc {100 * last.accuracy:.2f} %" if last else "acc -",
        f"{images_a_second(step):,.0f} img/s",
        f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left",
    ]
    line = (" " * GAP).join(parts)
    if last is None or last.validation is None:
        return line
    parts.insert(3, f"val {100 * last.validation:.2f} %")
    longer = (" " * GAP).join(parts)
    return longer if len(longer) <= width else line


class Display:
    """Shows trainings one after another; a context manager.

    Attributes:
        console: where it prints.
        lines: whether each epoch leaves a line where there is no terminal.
        title: of the training that is shown.
        figures: of it.
        share: how much of it is done.
    """

    def __init__(self, console: Console, lines: bool) -> None:
        self.console = console
        self.lines = lines
        self.title, self.figures, self.share = "", "", 0.0
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
        """Lay out the line: the figures, and where there is room for them the title and a bar.

        Returns:
            What the terminal shows.
        """
        figures, title = Text(self.figures), Text(self.title)
        cells: list[RenderableType] = [figures]
        room = self.console.width - figures.cell_len - GAP
        if title.cell_len <= room:
            cells.insert(0, title)
            room -= title.cell_len + GAP
        if room >= BAR:
            cells.insert(-1, ProgressBar(total=1, completed=self.share, width=BAR))
        line = Table.grid(*(Column(no_wrap=True) for _ in cells), padding=(0, GAP, 0, 0))
        line.add_row(*cells)
        return line

    def watch(self, title: str, images: int) -> Watch:
        """Show one training.

        Args:
            title: what is trained.
            images: of an epoch, as expected.

        Returns:
            A watch for the training loop.
        """
        if not self.console.is_interactive and not self.lines:
            return unwatched
        countdown = Countdown(images)
        last: Epoch | None = None
        self.title, self.figures, self.share = title, "", 0.0

        def show(step: Progress) -> None:
            nonlocal last
            last, left = step.done or last, countdown.left(step)
            if self.console.is_interactive:
                self.figures, self.share = live_line(step, last, left, self.console.width), countdown.share
            elif step.done is not None:
                print(epoch_line(step.done, step.epochs, images_a_second(step), left), flush=True)

        return show
