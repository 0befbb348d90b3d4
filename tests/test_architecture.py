"""The page of the architecture names what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()
ROOMS = re.findall(r"^\| \d \| (.+?) \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:salun|exp|tests)/[\w./]+)`", PAGE))))
def test_every_path_of_the_page_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_room_of_the_package_is_on_the_page() -> None:
    named = {name.rstrip("/") for cell in ROOMS for name in re.findall(r"`([\w./]+)`", cell)}
    found = {path.name for path in (ROOT / "salun").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    files = {path.name for path in (ROOT / "salun").glob("*.py")} - {"__init__.py"}
    assert named == found | files
