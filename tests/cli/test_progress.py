import io

import pytest
from rich.console import Console

from salun.cli.progress import Display, epoch_line
from salun.training import Epoch, Progress, unwatched

DONE = Epoch(epoch=2, loss=0.5, accuracy=0.875, validation=0.75, lr=0.1, seconds=2.0)


def fail(display: Display) -> None:
    """Raise in the middle of a training."""
    display.watch("base", 10)(Progress(1, 5, 50, 0.1))
    raise RuntimeError("no time")


def test_an_epoch_in_a_line() -> None:
    line = epoch_line(DONE, 5, 12345.6)
    assert line == "epoch 2/5  loss 0.5000  accuracy 87.50 %  validation 75.00 %  12,346 images/s"
    unseen = Epoch(epoch=1, loss=0.5, accuracy=0.875, validation=None, lr=0.1, seconds=2.0)
    assert "validation" not in epoch_line(unseen, 5, 1.0)


def test_off_the_terminal_an_epoch_leaves_a_line_once_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(Console(), lines=True) as display:
        watch = display.watch("base", 100)
        watch(Progress(1, 5, 50, 0.1))
        assert capsys.readouterr().out == ""
        watch(Progress(2, 5, 100, 0.5, DONE))
    assert capsys.readouterr().out == epoch_line(DONE, 5, 200) + "\n"


def test_off_the_terminal_runs_of_a_list_print_no_epochs() -> None:
    assert Display(Console(), lines=False).watch("run", 100) is unwatched


def test_the_terminal_shows_loss_accuracy_rate_and_time_left() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, color_system=None)
    with Display(console, lines=True) as display:
        watch = display.watch("my [base]", 100)
        watch(Progress(1, 5, 50, 0.1))
        watch(Progress(2, 5, 100, 0.5, DONE))
        display.progress.refresh()
        task = display.progress.tasks[0]
        assert (task.completed, task.total) == (200, 500)
        display.watch("next", 10)
        assert [task.description for task in display.progress.tasks] == ["next"]
    shown = out.getvalue()
    assert "my [base]" in shown
    assert epoch_line(DONE, 5, 200) in shown
    assert "0:00:0" in shown


def test_the_terminal_is_left_as_it_was_after_a_fault() -> None:
    out = io.StringIO()
    display = Display(Console(file=out, force_terminal=True), lines=True)
    with pytest.raises(RuntimeError, match="no time"), display:
        fail(display)
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert out.getvalue().rindex(shown) > out.getvalue().rindex(hidden)
