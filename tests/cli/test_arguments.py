import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from salun import __version__
from salun.cli import entry, parsers
from salun.cli.status import check_folder, guarded
from salun.errors import SalunError, SalunErrors

PARSERS = {
    "salun-train": entry.train, "salun-unlearn": entry.unlearn, "salun-audit": entry.audit, "salun-tune": entry.tune,
    "salun-extract": entry.extract, "salun-viz": entry.viz, "salun-import": entry.import_weights,
    "salun-data": entry.data,
}  # fmt: skip


def told(command: str, *flags: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a flag prints that ends a command."""
    with pytest.raises(SystemExit) as ended:
        PARSERS[command](flags)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", PARSERS)
def test_each_command_tells_its_version_and_shows_examples_that_it_understands(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(command, "--version", capsys=capsys) == f"{command} {__version__}\n"
    text = told(command, "--help", capsys=capsys).partition("\nexamples:\n")[2]
    examples = [shlex.split(line, comments=True) for line in text.splitlines()]
    assert examples
    declare = getattr(parsers, f"{command.removeprefix('salun-')}_parser")
    for program, *flags in examples:
        assert program == command
        declare().parse_args(flags)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_complete_flags_and_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told("salun-viz", "--print-completion", shell, capsys=capsys)
    assert all(word in text for word in ("wasserstein", "perplexity", "sliced", "version"))


def test_a_completion_is_a_script_that_bash_reads(capsys: pytest.CaptureFixture[str]) -> None:
    script = told("salun-unlearn", "--print-completion", "bash", capsys=capsys)
    done = subprocess.run(["bash", "-c", f"{script}\ncomplete -p salun-unlearn"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("complete ")


def fail(error: BaseException) -> int:
    """Raise."""
    raise error


OUT_OF_MEMORY = "salun-x: out of memory: a smaller batch size, model or data set, or another --device, needs less\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SalunError("a.json: no\ngood"), "salun-x: a.json: no good\n"),
        *((error, OUT_OF_MEMORY) for error in (MemoryError(), torch.OutOfMemoryError("of 80 GiB\nall"))),
        (SalunErrors(["one", "two\r\nmore", "three"]), "salun-x: one\nsalun-x: two more\nsalun-x: three\n"),
    ],
)
def test_each_of_a_users_mistakes_and_too_little_memory_is_a_line_and_the_status_2(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("salun-x", lambda: fail(error)) == 2
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_an_interruption(blow: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(blow)

    def command() -> int:
        signal.raise_signal(blow)
        return 0

    assert guarded("salun-x", command) == 130
    assert capsys.readouterr().err == "salun-x: interrupted\n"
    assert signal.getsignal(blow) == before


def test_what_a_command_was_told_to_ignore_does_not_end_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert guarded("salun-x", lambda: signal.raise_signal(signal.SIGHUP) or 0) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded("salun-x", lambda: fail(ZeroDivisionError()))


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    code = "import sys; from salun.cli.status import guarded\n"
    code += "sys.exit(guarded('x', lambda: max(print(9) or 0 for _ in iter(int, 1))))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == b"9\n"
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 141


def test_folders_need_not_exist_and_are_not_made(tmp_path: Path) -> None:
    check_folder("--out", tmp_path)
    check_folder("--out", tmp_path / "a" / "b")
    check_folder("--out", Path("relative/folder"))
    check_folder("--out", Path())
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below/it", "dangling/below"):
        with pytest.raises(SalunError, match=rf"--out: .*{name}: .* is not a folder"):
            check_folder("--out", tmp_path / name)
