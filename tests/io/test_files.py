import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hostile import refuses

from salun.errors import SalunError
from salun.io.files import each_once, find_place, mirrored, mirrored_apart, name_part, read_json, replacing, write_text


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.rglob("*")}


def test_a_file_is_made_with_its_folders_and_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    write_text(path, "öne\n")
    with path.open(encoding="utf-8") as reader:
        with replacing(path) as temporary:
            temporary.write_text("after")
            assert path.read_text(encoding="utf-8") == "öne\n"
        assert reader.read() == "öne\n"
    assert path.read_text() == "after"
    assert names(tmp_path) == {"a", "b", "x.txt"}


def fail_half_way(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, SalunError])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(error):
        fail_half_way(path, error)
    assert path.read_text() == "before"
    assert names(tmp_path) == {"x.txt"}


def test_a_file_whose_name_is_no_text_has_a_name_and_a_place() -> None:
    assert all(name_part(text).isascii() for text in ("folder:/x/\udcff", "\ud800"))
    first, second = mirrored_apart([Path("\udcff/x.pt"), Path("\udcfe/x.pt")], Path("checkpoints"))
    assert first != second


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("before")
    code = f"""
import os, signal
from pathlib import Path
from salun.io.files import replacing
with replacing(Path({str(path)!r})) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "before"
    write_text(path, "after")
    assert path.read_text() == "after"


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files may not grow beyond 100 kB, as on a disk that is nearly full."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_a_plain_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_text("before")
    with pytest.raises(SalunError, match=r"x\.pt: cannot be written: "), replacing(path) as temporary:
        torch.save(torch.zeros(10**6), temporary)
    refuses(r"x\.pt: cannot be written: ", lambda: write_text(path, "x" * 10**6))
    assert path.read_text() == "before"
    assert names(tmp_path) == {"x.pt"}


@pytest.mark.parametrize("place", ["file/x.txt", "file/deeper/x.txt", "folder", "n" * 300, "/proc/none/x.txt"])
def test_a_place_that_cannot_be_written_is_a_plain_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    (tmp_path / "folder").mkdir()
    refuses(f"{re.escape(str(tmp_path / place))}.*cannot be written", lambda: write_text(tmp_path / place, "text"))
    assert names(tmp_path) == {"file", "folder"}


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not write to, even where root runs the tests."""
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)


def test_a_forbidden_folder_is_a_plain_error(forbidden: Path) -> None:
    refuses("cannot be written: Permission denied", lambda: write_text(forbidden / "x.txt", "text"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("value", [[], {}, [1, "ü", None, True, 0.1, {"a": [1e-300]}], "text", 10**20])
def test_json_is_read_as_written(tmp_path: Path, value: object, encoding: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding=encoding)
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not valid JSON: Expecting value at line 1, column 1"), (b"[1,\n2,]", "not valid JSON"),
        (b"{'a': 1}", "line 1, column 2"), (b"[1] [2]", "not valid JSON"),
        (b'{"a": {"b": 1, "b": 2}}', "key 'b' stands twice"), (b"\xff\xfe[\x001\x00]\x00", "not a text file"),
        (b"[" * 200_000, "nested too deeply"), (b"[" + b"1" * 5000 + b"]", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_plain_error_that_names_the_file(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert told in refuses(re.escape(str(path)), lambda: read_json(path))


@pytest.mark.parametrize("name", ["absent.json", ".", "nul\0.json", "n" * 300])
def test_what_is_no_file_is_a_plain_error(tmp_path: Path, name: str) -> None:
    refuses("cannot be read", lambda: read_json(tmp_path / name))


def test_plain_names_stay_and_long_and_foreign_ones_do_not_meet() -> None:
    for name in ("digits", "resnet18", "base-split3", "vit_tiny_patch16_224.augreg_in21k"):
        assert name_part(name) == name
    long = ("a" * 200 + "b" * 200, "a" * 200 + "c" + "b" * 200)
    for first, second in (("folder:猫", "folder:犬"), ("é", "è"), long):
        assert name_part(first) != name_part(second)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("checkpoints/reduced/base/m_0.pt", "reduced/base/m_0"), ("reduced/base/m_0.5.pt", "reduced/base/m_0.5"),
        ("./checkpoints/../checkpoints/m.pt", "m"), ("a b/ä.pt", None),
        ("/elsewhere/deep/er/m.pt", "er/m"),
    ],
)  # fmt: skip
def test_results_mirror_where_a_file_lies(path: str, place: str | None) -> None:
    found = mirrored(Path(path), Path("checkpoints"))
    assert not found.is_absolute()
    assert ".." not in found.parts
    if place is not None:
        assert found == Path(place)


def test_no_two_files_share_a_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("other")
    names = ("run1/seed0/m.pt", "run2/seed0/m.pt", "run2/m.pt", "run2/m.pth", "run2/a b.pt")
    paths = [elsewhere / name for name in names]
    paths += [Path("checkpoints/run1/seed0/m.pt"), Path("checkpoints/a-b.pt"), Path("checkpoints/a b.pt"), Path("m.pt")]
    places = mirrored_apart(paths, Path("checkpoints"))
    assert len(set(places)) == len(paths)
    assert places[0] == Path(elsewhere.name, "run1/seed0/m")
    assert (places[5], places[8]) == (Path("run1/seed0/m"), Path("m"))
    assert mirrored_apart(paths, Path("checkpoints")) == places


def test_a_path_is_looked_for_as_given_then_where_such_files_are_kept(tmp_path: Path) -> None:
    for name in ("both", "kept/both", "kept/inner"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_place(Path("both"), Path("kept")) == Path("both")
    assert find_place(Path("inner"), Path("kept")) == Path("kept/inner")
    assert find_place(Path("nowhere"), Path("kept")) is None
    assert find_place(Path("x" * 5000), Path("kept")) is None


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "link").symlink_to("a")
    named = [Path("b"), Path("a"), tmp_path / "a", Path("link"), Path("./b")]
    assert each_once(named) == [Path("b"), Path("a")]
