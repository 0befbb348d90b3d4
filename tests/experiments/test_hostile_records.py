import json
from pathlib import Path
from typing import Any

from hostile import damaged, examples, refused
from hypothesis import given
from hypothesis import strategies as st
from records import runs, write_runs

from salun.experiments import records

FILE = Path("records.jsonl")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def content() -> bytes:
    Path("whole.jsonl").unlink(missing_ok=True)
    return write_runs(Path("whole.jsonl"), runs(3)).read_bytes()


def test_damaged_records_are_passed_over_with_a_notice() -> None:
    whole = content()

    @examples(60)
    @given(damaged(whole))
    def each(changed: bytes) -> None:
        FILE.write_bytes(changed)
        read: list[Any] = []
        refused(lambda: read.append(records.read(FILE)))
        assert len(read) == 1
        found, notices = read[0]
        assert len(found) + len(notices) <= changed.count(b"\n") + 1
        assert all(line.startswith("records.jsonl") for line in notices)

    each()


@examples(60)
@given(st.lists(VALUES | st.dictionaries(st.sampled_from(["id", "curve", "settings"]), VALUES), max_size=3))
def test_lines_of_other_content_are_passed_over(lines: list[Any]) -> None:
    whole = content()
    FILE.write_bytes(whole + "".join(json.dumps(line) + "\n" for line in lines).encode())
    found, notices = records.read(FILE)
    assert len(found) == 3
    assert len(notices) == len(lines)


def test_a_line_that_is_nested_without_end_is_passed_over() -> None:
    FILE.write_bytes(content() + b"[" * 100_000 + b"\n" + b'{"curve":' * 5_000 + b"\n")
    found, notices = records.read(FILE)
    assert (len(found), len(notices)) == (3, 2)
