from pathlib import Path

import pytest
import torch

from salun.device import settle_bits
from salun.models.architecture import TINY, Architecture
from salun.training import precision as speed
from salun.training.precision import bf16_gain, cache_folder, precision_for, step_seconds

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LARGE, SMALL = Architecture(TINY, 10, 3, 32), Architecture(TINY, 10, 1, 8)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Architecture, str]]:
    """A processor on which bf16 takes half the time, as far as is measured; gives what was measured."""
    asked: list[tuple[Architecture, str]] = []

    def measured(architecture: Architecture, precision: str) -> float:
        asked.append((architecture, precision))
        return 1.0 if precision == "bf16" else 2.0

    monkeypatch.setattr(speed, "step_seconds", measured)
    monkeypatch.setattr(speed, "multiplies_bf16", lambda: True)
    bf16_gain.cache_clear()
    return asked


@pytest.mark.parametrize(
    ("asked", "architecture", "device", "precision"),
    [
        ("auto", LARGE, CPU, "bf16"),
        ("auto", SMALL, CPU, "float32"),
        ("auto", SMALL, CUDA, "bf16"),
        ("auto", LARGE, torch.device("mps"), "float32"),
        ("float32", LARGE, CPU, "float32"),
        ("float32", LARGE, CUDA, "float32"),
        ("bf16", SMALL, CPU, "bf16"),
    ],
)
def test_precision_follows_request_device_and_size(
    fast: list[object], asked: str, architecture: Architecture, device: torch.device, precision: str
) -> None:
    assert precision_for(asked, architecture, device) == precision


def test_measured_once_a_machine_and_remembered_by_other_processes(fast: list[object]) -> None:
    assert precision_for("auto", LARGE, CPU) == precision_for("auto", LARGE, CPU) == "bf16"
    assert fast == 2 * [(LARGE, "float32"), (LARGE, "bf16")]
    bf16_gain.cache_clear()
    assert precision_for("auto", LARGE, CPU) == "bf16"
    assert len(fast) == 4
    torch.set_num_threads(2)
    assert precision_for("auto", LARGE, CPU) == "bf16"
    assert len(fast) == 8
    assert len(list(cache_folder().iterdir())) == 2


@pytest.mark.parametrize("content", ["", "fast", "[]", '{"ratio": 9}'])
def test_a_damaged_memory_is_measured_again(fast: list[object], content: str) -> None:
    bf16_gain(LARGE, 1)
    (kept,) = cache_folder().iterdir()
    kept.write_text(content)
    bf16_gain.cache_clear()
    assert bf16_gain(LARGE, 1) == 2
    assert len(fast) == 8


def test_processes_that_measure_at_the_same_time_go_by_the_first_figure(
    fast: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bf16_gain(LARGE, 1)
    (kept,) = cache_folder().iterdir()
    kept.unlink()
    bf16_gain.cache_clear()

    def overtaken(architecture: Architecture, precision: str) -> float:
        kept.write_text(str(first))
        return 1.0

    monkeypatch.setattr(speed, "step_seconds", overtaken)
    assert bf16_gain(LARGE, 1) == first == 2


def test_what_two_rounds_do_not_agree_on_is_not_kept(fast: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([2.0, 1.0, 8.0, 1.0])
    monkeypatch.setattr(speed, "step_seconds", lambda architecture, precision: next(seconds))
    assert bf16_gain(LARGE, 1) == 2
    assert not cache_folder().exists()


def test_a_folder_that_cannot_be_written_does_no_harm(
    fast: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert precision_for("auto", LARGE, CPU) == "bf16"


def test_where_it_does_not_pay_or_bits_count_it_is_float32(fast: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    settle_bits(CPU, True)
    assert precision_for("auto", LARGE, CPU) == "float32"
    settle_bits(CPU, False)
    assert precision_for("auto", LARGE, CPU) == "bf16"
    bf16_gain.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")
    monkeypatch.setattr(speed, "step_seconds", lambda architecture, precision: 1.0)
    assert precision_for("auto", LARGE, CPU) == "float32"
    monkeypatch.setattr(speed, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(speed, "step_seconds", lambda architecture, precision: pytest.fail("measured"))
    assert precision_for("auto", LARGE, CPU) == "float32"


def test_measuring_takes_time_and_no_random_numbers() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert step_seconds(SMALL, "float32") > 0
    assert step_seconds(SMALL, "bf16") > 0
    assert torch.equal(torch.get_rng_state(), state)
