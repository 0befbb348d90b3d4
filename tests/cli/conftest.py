import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Main = Callable[[list[str]], int]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be downloaded, however well this machine is connected."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Main, list[str]], list[str]]:
    """Run a command that must refuse: status 2, nothing written; gives the lines on standard error."""

    def call(main: Main, argv: list[str]) -> list[str]:
        before = tree(tmp_path)
        try:
            status: Any = main(argv)
        except SystemExit as ended:
            status = ended.code
        captured = capsys.readouterr()
        assert status == 2
        assert tree(tmp_path) == before
        assert "Traceback" not in captured.out + captured.err
        assert captured.err.endswith("\n")
        return captured.err.splitlines()

    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a file of the test's folder: text and bytes as they are, a path as a copy, all else as JSON."""

    def call(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return call
