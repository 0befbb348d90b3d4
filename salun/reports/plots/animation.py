"""Figures that move, as files."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.figure import Figure

from salun.errors import SalunError
from salun.io.files import replacing

_FRAMES_A_SECOND = 11
_DPI = 80


def check_ffmpeg() -> None:
    """Refuse to write MP4 files without ffmpeg."""
    if not FFMpegWriter.isAvailable():
        raise SalunError("--mp4: needs the program ffmpeg, which is not on the path; the GIF needs nothing")


def write_animation(path: Path, frames: Iterator[Figure]) -> None:
    """Write the states of a figure as an endless GIF, or through ffmpeg as an MP4.

    Args:
        path: ends in `.gif` or `.mp4`.
        frames: the same figure each time, in the state to be written; at least one.

    Raises:
        SalunError: the file cannot be written.
    """
    figure = next(frames)
    extra = ["-movflags", "+faststart"]
    writer = (
        PillowWriter(_FRAMES_A_SECOND) if path.suffix == ".gif" else FFMpegWriter(_FRAMES_A_SECOND, extra_args=extra)
    )
    with replacing(path) as temporary, TemporaryDirectory() as folder:
        # Both writers choose the format by the ending, which a temporary name lacks.
        file = Path(folder, path.name)
        try:
            with writer.saving(figure, str(file), _DPI):
                writer.grab_frame()
                for _ in frames:
                    writer.grab_frame()
        except subprocess.CalledProcessError as error:
            reason = str(error.stderr or error).strip().rpartition("\n")[2]
            raise SalunError(f"{path}: ffmpeg failed: {reason}") from error
        shutil.copyfile(file, temporary)
