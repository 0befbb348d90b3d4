import io
import re
import time

import pytest
from rich.console import Console

from salun.cli.progress import Display
from salun.cli.steps import watched
from salun.training.progress import Epoch, Progress, no_callback

DONE = Epoch(epoch=2, loss=0.5, accuracy=0.875, validation=0.75, lr=0.1, seconds=2.0)
UNSEEN = Epoch(epoch=2, loss=0.5, accuracy=0.875, validation=None, lr=0.1, seconds=2.0)
LONG = Epoch(epoch=1999, loss=-123456.789, accuracy=1.0, validation=1.0, lr=0.1, seconds=1e5)
LINE = re.compile(r"epoch \d+/\d+  loss \S+  acc \S+( %)?  (val \S+ %  )?[\d,]+ img/s  \d+:\d\d:\d\d left")


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a terminal like any other, whatever the tests run in."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def terminal(width: int) -> Console:
    """Open a terminal without colours that keeps what is written."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def drawn(display: Display) -> str:
    """Draw what a display shows, without the control codes of a live line."""
    with display.console.capture() as captured:
        display.console.print(display.render())
    return captured.get()


def shown(width: int, steps: list[Progress], title: str = "my [base]", images: int = 100) -> str:
    """Show a training; gives what the terminal shows after the last step."""
    with Display(terminal(width), lines=True) as display:
        callback = display.callback(title, images)
        for step in steps:
            callback(step)
    return drawn(display)


def time_left(steps: list[Progress], images: int) -> int:
    """Read the seconds left that are shown after the last step."""
    hours, minutes, seconds = re.findall(r"(\d+):(\d\d):(\d\d) left", shown(80, steps, images=images))[0]
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_where_nothing_can_change_in_place_an_epoch_leaves_a_line_once_it_is_over(
    term: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    with Display(Console(force_terminal=term == "dumb"), lines=True) as display:
        callback = display.callback("base", 100)
        callback(Progress(1, 5, 50, 0.1))
        assert capsys.readouterr().out == ""
        callback(Progress(2, 5, 100, 0.5, DONE))
        figures = "loss 0.5000  accuracy 87.50 %  validation 75.00 %"
        assert capsys.readouterr().out == f"epoch 2/5  {figures}  200 images/s  about 1 s left\n"
        callback(Progress(2, 5, 100, 0.5, UNSEEN))
        assert "validation" not in capsys.readouterr().out
    assert Display(Console(), lines=False).callback("run", 100) is no_callback


@pytest.mark.parametrize("width", [80, 110, 160])
@pytest.mark.parametrize(
    "steps",
    [
        [Progress(1, 182, 50, 0.1)],
        [Progress(2, 182, 100, 0.5, DONE)],
        [Progress(1, 182, 0, 0.0, UNSEEN), Progress(2, 182, 50, 0.01)],
        [Progress(1, 2000, 10**9, 1e3), Progress(1999, 2000, 10**9, 1e5, LONG), Progress(2000, 2000, 1, 1e-4)],
        [Progress(1, 182, 1, 600.0)],
    ],
)
def test_loss_accuracy_rate_and_time_left_fit_the_terminal_uncut(width: int, steps: list[Progress]) -> None:
    line = shown(width, steps).removesuffix("\n")
    assert "\n" not in line
    assert len(line) <= width
    assert LINE.search(line)


def test_the_figures_are_those_of_the_last_finished_epoch_and_of_the_last_step() -> None:
    line = shown(80, [Progress(2, 5, 100, 8.0, DONE), Progress(3, 5, 50, 0.1)])
    assert line.startswith("epoch 3/5  loss 0.5  acc 87.50 %  val 75.00 %  500 img/s  0:00:")


def test_a_terminal_that_is_too_narrow_gets_one_line_cut() -> None:
    line = shown(30, [Progress(2, 182, 100, 0.5, DONE)])
    assert line.startswith("epoch 2/182  loss 0.5  ")
    assert len(line) == 31


def test_before_the_first_epoch_is_over_rate_and_time_left_are_shown() -> None:
    line = shown(80, [Progress(1, 4, 50, 10.0)], title="a title too long for what is left of the line")
    assert line.strip("━╸ \n") == "epoch 1/4  loss -  acc -  5 img/s  0:01:10 left"


@pytest.mark.parametrize(("width", "title", "bar"), [(80, False, False), (110, True, False), (160, True, True)])
def test_title_and_bar_are_shown_where_there_is_room(width: int, title: bool, bar: bool) -> None:
    line = shown(width, [Progress(100, 182, 100, 0.5, DONE)], title="resnet_tiny_digits_[base]")
    assert ("resnet_tiny_digits_[base]" in line) is title
    assert ("━" in line) is bar


@pytest.mark.parametrize("images", [10, 100, 1000, 0])
def test_after_an_epoch_time_left_does_not_depend_on_the_images_expected(images: int) -> None:
    done = Progress(1, 4, 100, 10.0, DONE)
    assert time_left([done], images) == 30
    assert time_left([done, Progress(2, 4, 50, 5.0)], images) == 25
    assert time_left([done, Progress(2, 4, 100, 10.0, DONE), Progress(3, 4, 100, 10.0, DONE)], images) == 10
    assert time_left([Progress(4, 4, 100, 10.0, DONE)], images) == 0


def test_time_left_counts_the_evaluation_after_each_epoch() -> None:
    watched = Epoch(epoch=1, loss=0.5, accuracy=0.5, validation=0.5, lr=0.1, seconds=10.0, evaluation_seconds=5.0)
    assert time_left([Progress(1, 4, 100, 10.0, watched)], 100) == 45


def test_a_second_training_of_a_run_starts_to_count_anew() -> None:
    first = [Progress(epoch, 3, 100, 1000.0, DONE) for epoch in (1, 2, 3)]
    assert time_left([*first, Progress(1, 2, 50, 1.0)], 100) == 3


def test_trainings_with_names_of_their_own_have_a_line_each_until_they_are_dropped() -> None:
    display = Display(terminal(160), lines=True)
    display.callback("before", 100, "first")(Progress(2, 5, 100, 0.5, DONE))
    first, second = (display.callback(name, 100, name) for name in ("first", "second"))
    first(Progress(1, 5, 50, 0.1))
    assert "loss -" in drawn(display)
    first(Progress(2, 5, 100, 0.5, DONE))
    second(Progress(1, 5, 50, 0.5))
    first(Progress(3, 5, 50, 0.1))
    lines = drawn(display).splitlines()
    assert [line.split()[0] for line in lines] == ["first", "second"]
    assert ["epoch 3/5" in lines[0], "epoch 1/5" in lines[1]] == [True, True]
    for name in ("first", "never shown"):
        display.drop(name)
    assert [line.split()[0] for line in drawn(display).splitlines()] == ["second"]
    display.drop("second")
    assert not drawn(display).strip()


def test_the_line_changes_by_itself_and_is_gone_at_the_end() -> None:
    console = terminal(80)
    with Display(console, lines=True) as display:
        display.callback("base", 100)(Progress(1, 4, 50, 10.0))
        deadline = time.monotonic() + 10
        while "0:01:10 left" not in console.file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert console.file.getvalue().endswith("\x1b[1A\x1b[2K")


def test_the_terminal_is_left_as_it_was_after_a_fault() -> None:
    console = terminal(80)
    display = Display(console, lines=True)
    with pytest.raises(ZeroDivisionError), display:
        display.callback("base", 10)(Progress(1, 5, 50, 1 / 0))
    hidden, back = "\x1b[?25l", "\x1b[?25h"
    assert console.file.getvalue().rindex(back) > console.file.getvalue().rindex(hidden)


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("features", 3) as step:
        for _ in range(3):
            step()
    assert capsys.readouterr() == ("", "")


def test_a_title_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, record=True, width=80, height=10)
    monkeypatch.setattr("salun.cli.steps.Console", lambda stderr: console)
    with watched("[red]a[/b] name", 2) as step:
        step()
    assert "[red]a[/b] name" in console.export_text()
