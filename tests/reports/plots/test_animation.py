import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import refuses
from matplotlib.figure import Figure
from PIL import Image

from salun.errors import SalunError
from salun.reports.plots.animation import check_ffmpeg, write_animation


def frames(count: int = 5) -> Iterator[Figure]:
    """A figure of 40 by 31 pixels at 80 dots per inch, filled with greys that grow darker."""
    figure = Figure(figsize=(0.5, 0.39))
    for number in range(count):
        figure.set_facecolor(str(1 - number / 10))
        yield figure


def fake_ffmpeg(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_gif_turns_for_ever(tmp_path: Path) -> None:
    write_animation(tmp_path / "deep" / "a.gif", frames())
    with Image.open(tmp_path / "deep" / "a.gif") as found:
        assert (found.n_frames, found.info["loop"], found.info["duration"], found.size) == (5, 0, 90, (40, 31))
        for number in range(5):
            found.seek(number)
            assert np.asarray(found.convert("L")).mean() == pytest.approx(255 * (1 - number / 10), abs=4)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.gif"]


def test_an_mp4_is_given_to_ffmpeg_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, 'for last; do :; done\ncat > "$last"\necho "$@" > arguments', monkeypatch)
    check_ffmpeg()
    write_animation(tmp_path / "out" / "a.mp4", frames())
    assert (tmp_path / "out" / "a.mp4").stat().st_size == 5 * 40 * 30 * 4
    assert "-s 40x30" in Path("arguments").read_text()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("cat > /dev/null\necho first >&2\necho no such encoder >&2\nexit 3", "ffmpeg failed: no such encoder"),
        ("exec 0<&-\necho no such encoder >&2\nexit 3", ""),  # it ends at once
    ],
)
def test_a_failing_ffmpeg_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    fake_ffmpeg(tmp_path, script, monkeypatch)
    refuses(rf"a\.mp4: {said}", lambda: write_animation(tmp_path / "out" / "a.mp4", frames(500)))
    assert not list((tmp_path / "out").iterdir())


def test_without_ffmpeg_there_is_no_mp4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SalunError, match="--mp4: needs the program ffmpeg"):
        check_ffmpeg()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_the_real_ffmpeg_takes_it(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.mp4", frames())
    probed = subprocess.run(["ffmpeg", "-i", str(tmp_path / "a.mp4")], capture_output=True, text=True, check=False)
    assert "40x30" in probed.stderr
