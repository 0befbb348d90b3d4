import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from salun.device import (
    autocast,
    clock,
    device_name,
    forget_peak_memory,
    peak_memory,
    pick_device,
    seed_globally,
    seeded,
    settle_precision,
    settle_threads,
)
from salun.errors import SalunError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine with two CUDA devices and no MPS, as far as torch tells."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    return monkeypatch


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_always_there(name: str) -> None:
    assert pick_device(name).type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_a_present_device_is_taken(machine: pytest.MonkeyPatch, name: str) -> None:
    assert pick_device(name) == torch.device(name)


def test_convolutions_on_cuda_repeat_bit_for_bit(machine: pytest.MonkeyPatch) -> None:
    pick_device("cpu")
    assert torch.backends.cudnn.deterministic is False
    pick_device("auto")
    assert torch.backends.cudnn.deterministic is True


def test_auto_prefers_cuda_then_mps_then_cpu(machine: pytest.MonkeyPatch) -> None:
    assert pick_device().type == "cuda"
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "mps"
    assert pick_device("mps").type == "mps"


@pytest.mark.parametrize("name", ["cuda:2", "cuda:64", "mps", "mps:1", "cpu:1"])
def test_an_absent_device_is_refused(machine: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SalunError, match=f"--device {name}: this machine has no such device"):
        pick_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "0", "CPU", "cuda:-1", "cuda:x", "cuda:", "meta", "xpu", "vulkan:0"])
def test_an_unknown_device_is_refused_with_what_is_accepted(machine: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SalunError, match="unknown; accepted: auto, cpu, cuda, cuda:N, mps") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


def test_small_images_get_one_thread_and_larger_ones_all_of_them_again() -> None:
    code = """
import torch
from salun.device import settle_threads
found = [torch.get_num_threads()]
for size in (8, 32, 16, 17):
    settle_threads(size)
    found.append(torch.get_num_threads())
print(*found)
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    start, *found = map(int, out.stdout.split())
    assert found == [1, start, 1, start]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_users_number_of_threads_rules(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    for size in (8, 224, 16):
        settle_threads(size)
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("asked", "device", "settled"),
    [
        ("auto", CUDA, "bf16"),
        ("auto", CPU, "float32"),
        ("auto", torch.device("mps"), "float32"),
        ("float32", CUDA, "float32"),
        ("bf16", CPU, "bf16"),
    ],
)
def test_precision_is_resolved_by_device(asked: str, device: torch.device, settled: str) -> None:
    assert settle_precision(asked, device) == settled


@pytest.mark.parametrize(("precision", "kind"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_runs_in_that_precision_and_the_weights_do_not(precision: str, kind: torch.dtype) -> None:
    layer = torch.nn.Linear(3, 2)
    with autocast(precision, CPU):
        output = layer(torch.ones(1, 3))
    output.float().sum().backward()
    assert output.dtype == kind
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32


def test_a_generator_depends_on_its_seed_and_nothing_else() -> None:
    first = torch.rand(5, generator=seeded(3, CPU))
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(first, torch.rand(5, generator=seeded(3, CPU)))
    assert not torch.equal(first, torch.rand(5, generator=seeded(4, CPU)))


def test_drawing_from_a_generator_leaves_the_global_one_alone() -> None:
    seed_globally(0)
    expected = torch.rand(3)
    seed_globally(0)
    torch.rand(100, generator=seeded(0, CPU))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**32, 2**63 - 1])
def test_global_seeding_repeats_torch_and_numpy(seed: int) -> None:
    seed_globally(seed)
    first = torch.nn.Linear(4, 4).weight, np.random.rand(3)
    seed_globally(seed)
    assert torch.equal(first[0], torch.nn.Linear(4, 4).weight)
    assert np.array_equal(first[1], np.random.rand(3))


def test_the_clock_goes_forward() -> None:
    begun = clock(CPU)
    assert 0 <= clock(CPU) - begun < 5


def test_peak_memory_holds_what_was_in_use() -> None:
    forget_peak_memory(CPU)
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert len(block) < peak_memory(CPU) < 2**40


def test_the_cpu_is_named_with_its_threads() -> None:
    assert device_name(CPU) == "cpu: 1 thread"
    torch.set_num_threads(2)
    assert device_name(CPU) == "cpu: 2 threads"
    torch.set_num_threads(1)


def test_a_cuda_device_is_named_by_its_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert device_name(CUDA) == "cuda: NVIDIA H200"
    assert device_name(torch.device("mps")) == "mps"
