import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salun.errors import SalunError
from salun.reports.plots.film import check_film, write_gif, write_mp4


def frames(count: int = 5, side: tuple[int, int] = (31, 21)) -> Iterator[Image.Image]:
    for number in range(count):
        picture = np.full((side[1], side[0], 3), 255, dtype=np.uint8)
        picture[:, number * 4 : number * 4 + 3] = (200, 30, 40)
        yield Image.fromarray(picture)


def test_a_gif_turns_for_ever(tmp_path: Path) -> None:
    write_gif(tmp_path / "deep" / "a.gif", frames())
    with Image.open(tmp_path / "deep" / "a.gif") as found:
        assert (found.n_frames, found.info["loop"], found.size) == (5, 0, (31, 21))
        for number, expected in enumerate(frames()):
            found.seek(number)
            assert np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(expected)).max() < 40
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.gif"]


def fake_ffmpeg(folder: Path, script: str) -> None:
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_film_is_given_to_ffmpeg_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, 'for last; do :; done\ncat > "$last"\necho "$@" > arguments')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    check_film()
    write_mp4(tmp_path / "out" / "a.mp4", frames())
    assert (tmp_path / "out" / "a.mp4").stat().st_size == 5 * 30 * 20 * 3
    assert "-s 30x20" in Path("arguments").read_text()


def test_a_failing_ffmpeg_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, "echo first >&2\necho no such encoder >&2\nexit 3")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SalunError, match=r"a\.mp4: ffmpeg failed: no such encoder"):
        write_mp4(tmp_path / "out" / "a.mp4", frames())
    assert not list((tmp_path / "out").iterdir())


def test_without_ffmpeg_there_is_no_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SalunError, match="--mp4: needs the program ffmpeg"):
        check_film()


def test_the_real_ffmpeg_takes_it(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        with pytest.raises(SalunError, match="ffmpeg"):
            check_film()
        return
    write_mp4(tmp_path / "a.mp4", frames(side=(64, 48)))
    probed = subprocess.run(["ffmpeg", "-i", str(tmp_path / "a.mp4")], capture_output=True, text=True, check=False)
    assert "64x48" in probed.stderr
