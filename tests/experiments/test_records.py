import errno
import json
import math
import multiprocessing
import os
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import ODD_TEXT, make

from salun.errors import SalunError
from salun.experiments.records import Log, append, read
from salun.metrics import METRICS, load_metrics
from salun.training.progress import Epoch


def lines_in(path: Path) -> list[Any]:
    """The lines, in which no number may be none."""
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


# Appending and reading


@pytest.mark.parametrize("tag", [None, "", *ODD_TEXT, "line separator \u2028 carriage \r return"])
def test_a_record_is_read_as_it_was_appended(tmp_path: Path, tag: str | None) -> None:
    path = tmp_path / "runs" / "list" / "records.jsonl"
    assert read(path) == ({}, [])
    written = [make(seed=0, tag=tag), make(seed=1, tag=tag)]
    for record in written:
        append(path, record)
    assert read(path) == ({record.id: record for record in written}, [])
    assert len(path.read_bytes().splitlines()) == 2


def test_the_last_record_of_a_run_counts(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for revision in ("one", "two", "three"):
        append(path, make(revision=revision))
        append(path, make(seed=1))
    found, notices = read(path)
    assert [record.revision for record in found.values() if record.seed == 0] == ["three"]
    assert len(found) == 2
    assert notices == []


def append_many(path: Path, writer: int, count: int) -> None:
    for number in range(count):
        append(path, make(base=f"{writer}", seed=number, tag="x" * (writer * 3000)))


def test_several_writers_at_once_lose_nothing_and_a_reader_sees_whole_lines(tmp_path: Path) -> None:
    path, writers, count = tmp_path / "records.jsonl", 4, 40
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=append_many, args=(path, writer, count)) for writer in range(writers)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert read(path)[1] == []
    for process in processes:
        process.join()
    found, notices = read(path)
    assert notices == []
    assert set(found) == {f"rl-{writer}-F-{seed}" for writer in range(writers) for seed in range(count)}
    assert len(lines_in(path)) == writers * count


@pytest.mark.parametrize(("before", "left"), [(1, 1), (1, 10), (1, 500), (1, -2), (0, 10)])
def test_a_torn_last_line_is_passed_over_and_the_next_append_is_whole(tmp_path: Path, before: int, left: int) -> None:
    path = tmp_path / "records.jsonl"
    for seed in range(before):
        append(path, make(seed=seed))
    whole = path.read_bytes() if before else b""
    append(path, make(seed=1))
    torn = path.read_bytes()[len(whole) :][:left]
    path.write_bytes(whole + torn)
    found, notices = read(path)
    assert [record.seed for record in found.values()] == [0] * before
    assert notices == [f"{path}: its last line is torn and is passed over; the next run sets it aside"]
    append(path, make(seed=2))
    found, notices = read(path)
    assert [record.seed for record in found.values()] == [0] * before + [2]
    assert notices == []
    assert (tmp_path / "records.torn").read_bytes() == torn + b"\n"
    assert len(lines_in(path)) == before + 1


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, make(seed=0))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    append(path, make(seed=1))
    found, notices = read(path)
    assert [record.seed for record in found.values()] == [0, 1]
    assert notices == []


def test_a_record_that_finds_no_room_is_not_half_there(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, make(seed=0))
    whole = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
    try:
        with pytest.raises(SalunError, match=r"records\.jsonl: cannot be written: File too large"):
            append(path, make(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole
    append(path, make(seed=1))
    assert len(lines_in(path)) == 2


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for seed in range(2):
        append(tmp_path / "records.jsonl", make(seed=seed))
    assert len(read(tmp_path / "records.jsonl")[0]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_log_reads_what_others_add(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    log = Log(path)
    log.refresh()
    assert log.found == {}
    for seed in range(3):
        append(path, make(seed=seed))
        log.refresh()
        assert [record.seed for record in log.found.values()] == list(range(seed + 1))
    whole = path.read_bytes()
    append(path, make(seed=3))
    last = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + last[:40])
    log.refresh()
    assert len(log.found) == 3
    path.write_bytes(whole + last)
    log.refresh()
    assert len(log.found) == 4
    path.unlink()
    append(path, make(seed=7))
    log.refresh()
    assert [record.seed for record in log.found.values()] == [7]
    assert log.notices == []


@pytest.mark.parametrize("line", ["{}", "[]", "5", "null", '"text"', '{"curve": [], "id": "x"}', '{"curve": 1}', "\0"])
def test_what_is_no_record_is_passed_over_with_its_line_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    append(path, make())
    with path.open("ab") as file:
        file.write(b"\n \n" + line.encode() + b"\n\xff\xfe\n")
    found, notices = read(path)
    assert list(found) == [make().id]
    assert [re.findall(r"line (\d+)", notice) for notice in notices] == [["4"], ["5"]]


@pytest.mark.parametrize(
    "wrong",
    [{"tag": 5}, {"split": 5}, {"metrics": 5}, {"base_metrics": None}, {"diverged": "x"}, {"seed": [1]}, {"id": [1]}],
    ids=str,
)
def test_a_field_of_another_type_is_no_record(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "records.jsonl"
    append(path, make())
    (line,) = lines_in(path)
    with path.open("a") as file:
        file.write(json.dumps(line | {"id": "other"} | wrong) + "\n")
    found, notices = read(path)
    assert list(found) == [make().id]
    assert len(notices) == 1


def test_keys_of_other_versions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, make())
    (line,) = lines_in(path)
    for place in (line, line["split"], line["seconds"], line["curve"][1]):
        place["energy"] = 5.5
    line |= {"unknown": {"x": [1, {"y": None}]}, "curve_of": []}
    del line["digest"]
    path.write_text(json.dumps(line) + "\n")
    found, notices = read(path)
    assert notices == []
    record = found[make().id]
    assert record.curve == make().curve
    append(path, replace(record, metrics=record.metrics | {"UA": 0.25}))
    written = lines_in(path)[-1]
    assert written.pop("digest")
    assert written == line | {"metrics": line["metrics"] | {"UA": 0.25}}
    assert read(path)[0][record.id] == replace(record, metrics=record.metrics | {"UA": 0.25})


@pytest.mark.parametrize("change", [{"energy": 2}, {"seed": 5}, {"split": {}}, {"curve": []}, {"metrics": {"UA": 0.5}}])
def test_a_changed_line_is_known_by_its_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "records.jsonl"
    append(path, replace(make(), unknown={"energy": 1}))
    (line,) = lines_in(path)
    assert not read(path)[0][make().id].edited
    path.write_text(json.dumps(line | change) + "\n")
    (record,) = read(path)[0].values()
    assert record.edited
    append(path, record)
    assert read(path)[0][record.id].edited


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_written(tmp_path: Path, number: float) -> None:
    path = tmp_path / "records.jsonl"
    curve = [Epoch(1, number, 0.1, number, 0.1, 1.0)]
    append(path, make(curve=curve, metrics={"UA": number}, base_metrics={"UA": number}, diverged=True))
    (line,) = lines_in(path)
    assert line["metrics"] == line["base_metrics"] == {"UA": None}
    (record,) = read(path)[0].values()
    assert math.isnan(record.curve[0].loss)
    assert record.curve[0].validation is None
    assert record.metrics == {"UA": None}


@pytest.mark.parametrize("place", ["file/records.jsonl", "folder"])
def test_records_that_cannot_be_written_or_read_are_a_plain_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SalunError, match="cannot be written"):
        append(tmp_path / place, make())
    with pytest.raises(SalunError, match="cannot be read"):
        read(tmp_path / "folder")


# Metrics that were defined anew


def revise(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    load_metrics()
    monkeypatch.setitem(METRICS, name, replace(METRICS[name], revised=version))


def test_values_of_an_earlier_definition_are_left_out_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    for seed in range(2):
        append(path, make(seed=seed, details={"prediction_matrix": [[1.0]]}))
    revise(monkeypatch, "MIA", "9.1")
    revise(monkeypatch, "prediction_matrix", "9.2")
    found, notices = read(path)
    for record in found.values():
        assert "MIA" not in record.metrics | record.base_metrics
        assert record.metrics["UA"] == 0.1
        assert record.details == {}
    assert notices == [
        f"{path}: MIA was defined anew in version 9.1; earlier values left out, to be computed again: 2",
        f"{path}: prediction_matrix was defined anew in version 9.2; earlier values left out, to be computed again: 2",
    ]


def test_values_of_the_present_definition_are_kept_until_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    append(path, make())
    revise(monkeypatch, "MIA", "9.1")
    again = replace(next(iter(read(path)[0].values())), metrics=make().metrics)
    append(path, again)
    found, notices = read(path)
    assert found[again.id].metrics == again.metrics
    assert found[again.id].versions == again.versions | {"metric MIA": "9.1"}
    assert notices == []
    revise(monkeypatch, "MIA", "9.2")
    assert "MIA" not in read(path)[0][again.id].metrics


def test_a_metric_that_is_not_at_hand_keeps_its_values(tmp_path: Path) -> None:
    path, record = tmp_path / "records.jsonl", make(metrics={"of_a_plugin": 0.5})
    append(path, record)
    assert read(path) == ({record.id: record}, [])
