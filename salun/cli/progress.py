"""Live progress: bars on a terminal, a line an epoch elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from salun import training
from salun.training import Watch, unwatched


def epoch_line(done: training.Epoch, epochs: int, rate: float) -> str:
    """Describe a finished epoch.

    Args:
        done: its figures.
        epochs: planned.
        rate: images a second.

    Returns:
        One line.
    """
    validation = "" if done.validation is None else f"  validation {100 * done.validation:.2f} %"
    figures = f"loss {done.loss:.4f}  accuracy {100 * done.accuracy:.2f} %{validation}"
    return f"epoch {done.epoch}/{epochs}  {figures}  {rate:,.0f} images/s"


class Display:
    """Shows trainings one after another; a context manager.

    Attributes:
        console: where it prints.
        lines: whether each epoch leaves a line where there is no terminal.
    """

    def __init__(self, console: Console, lines: bool) -> None:
        self.console = console
        self.lines = lines
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def watch(self, title: str, images: int) -> Watch:
        """Show one training.

        Args:
            title: what is trained.
            images: of an epoch, for the bar.

        Returns:
            A watch for the training loop.
        """
        if not self.console.is_terminal:
            return self.print_epoch if self.lines else unwatched
        for shown in self.progress.task_ids:
            self.progress.remove_task(shown)
        bar = self.progress.add_task(title, total=None, figures="")

        def show(step: training.Progress) -> None:
            done = (step.epoch - 1) * images + step.images
            self.progress.update(bar, completed=done, total=step.epochs * images)
            if step.done is not None:
                figures = epoch_line(step.done, step.epochs, step.images / max(step.seconds, 1e-9))
                self.progress.update(bar, figures=figures)

        return show

    def print_epoch(self, step: training.Progress) -> None:
        """Print an epoch once it is over.

        Args:
            step: where the training stands.
        """
        if step.done is not None:
            rate = step.images / max(step.seconds, 1e-9)
            print(epoch_line(step.done, step.epochs, rate), flush=True)
