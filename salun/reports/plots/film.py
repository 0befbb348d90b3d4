"""Turning clouds as files."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from salun.errors import SalunError
from salun.io.files import replacing

_MILLISECONDS = 90

_COLOURS = 128


def write_gif(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write pictures as an endless GIF.

    Args:
        path: ends in `.gif`.
        frames: RGB, of equal size, at least one.

    Raises:
        SalunError: the file cannot be written.
    """
    first = next(frames).quantize(_COLOURS)
    others = [frame.quantize(palette=first, dither=Image.Dither.NONE) for frame in frames]
    with replacing(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=_MILLISECONDS, loop=0)


def check_film() -> None:
    """Check that films can be made.

    Raises:
        SalunError: there is no ffmpeg.
    """
    if shutil.which("ffmpeg") is None:
        raise SalunError("--mp4: needs the program ffmpeg, which is not on the path; the GIF needs nothing")


def write_mp4(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write pictures as a film, through the program ffmpeg.

    Args:
        path: ends in `.mp4`.
        frames: RGB, of equal size, at least one.

    Raises:
        SalunError: the file cannot be written.
    """
    first = next(frames)
    width, height = (side - side % 2 for side in first.size)
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        str(1000 / _MILLISECONDS),
        "-i",
        "-",
    ]
    target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    with replacing(path) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        content = b"".join(frame.crop((0, 0, width, height)).tobytes() for frame in [first, *frames])
        command = ["ffmpeg", "-loglevel", "error", "-y", *source, *target, str(temporary)]
        done = subprocess.run(command, input=content, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise SalunError(f"{path}: ffmpeg failed: {reason}")
