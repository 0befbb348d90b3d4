import pytest
from rich.console import Console

from salun.cli.steps import watched


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
