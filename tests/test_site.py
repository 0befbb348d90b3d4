"""The documentation's site: a broken link or anchor ends its build."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = (ROOT / "scripts/docs").read_text().splitlines()[-1].partition("exec .venv/bin/")[2].replace('"$@"', "")


@pytest.mark.parametrize("link", ["[page](nowhere.md)", "[anchor](index.md#nowhere)"])
def test_a_broken_link_ends_the_build(tmp_path: Path, link: str) -> None:
    program, *flags = shlex.split(BUILD)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Site\n\n{link}\n")
    strict = (ROOT / "mkdocs.yml").read_text().partition("\ntheme:")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{strict}\ntheme: material\n")
    command = [str(Path(sys.executable).parent / program), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "contains a link" in done.stderr
    (tmp_path / "docs/index.md").write_text("# Site\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
