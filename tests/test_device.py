import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import refuses
from problems import same_weights

from salun import device
from salun.device import (
    autocast,
    clock,
    deterministic,
    device_name,
    forget_peak_memory,
    full_precision,
    layout,
    own_threads,
    peak_memory,
    pick_device,
    placed,
    precision_for,
    seed_globally,
    seeded,
    settle_threads,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine with two CUDA devices and no MPS, as far as torch tells."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    yield monkeypatch
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("bits_count", [False, True])
def test_cuda_is_fast_unless_bits_count(machine: pytest.MonkeyPatch, bits_count: bool) -> None:
    for _ in range(2):
        pick_device("auto", bits_count)
        assert deterministic() is bits_count
        assert torch.backends.cudnn.deterministic is bits_count
        assert torch.backends.cudnn.benchmark is not bits_count
        assert torch.backends.cudnn.allow_tf32 is not bits_count
        assert (torch.get_float32_matmul_precision() == "highest") is bits_count
    pick_device("auto", not bits_count)
    assert torch.backends.cudnn.deterministic is not bits_count
    pick_device("cpu", bits_count)
    assert deterministic() is bits_count


def test_full_precision_ends_with_its_block(machine: pytest.MonkeyPatch) -> None:
    pick_device("cuda")
    with full_precision(CUDA):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"
    with full_precision(CPU):
        assert torch.get_float32_matmul_precision() == "high"


def test_convolutions_of_pictures_are_laid_out_channels_last_and_nothing_else_changes() -> None:
    layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 4, 1), torch.nn.Conv2d(2, 8, 3), torch.nn.Conv3d(1, 2, 3)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 2))
    before, strides = deepcopy(model), [layer.weight.stride() for layer in model[3:]]
    assert placed(model, CPU) is model
    # Beyond doubt where one channel or place would allow both layouts.
    wanted = [(9, 1, 3, 1), (8, 1, 8, 8), (18, 1, 6, 2), *strides]
    assert [layer.weight.stride() for layer in model] == wanted
    assert same_weights(model, before)


def test_mps_lays_pictures_out_with_the_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = [layout(torch.device(name)) for name in ("cpu", "cuda:1", "mps")]
    assert layouts == [torch.channels_last, torch.channels_last, torch.contiguous_format]
    monkeypatch.setattr(device, "layout", lambda _: torch.contiguous_format)
    assert placed(torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), CPU).weight.is_contiguous()


def test_mps_may_fall_back_before_torch_is_imported() -> None:
    script = "import os, sys, salun.cli; print('torch' in sys.modules, os.environ['PYTORCH_ENABLE_MPS_FALLBACK'])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTORCH_ENABLE_MPS_FALLBACK"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]


def test_a_present_device_is_taken_and_auto_prefers_cuda_then_mps_then_cpu(machine: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "cpu:0", "cuda", "cuda:0", "cuda:1"):
        assert pick_device(name) == torch.device(name)
    assert pick_device().type == "cuda"
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "mps"
    assert pick_device("mps").type == "mps"


def test_absent_and_unknown_devices_are_refused(machine: pytest.MonkeyPatch) -> None:
    for name in ("cuda:2", "cuda:64", "mps", "mps:1", "cpu:1"):
        refuses(f"device '{name}': this machine has no such device", lambda: pick_device(name))  # noqa: B023
    for name in ("", "gpu", "0", "CPU", "cuda:-1", "cuda:x", "cuda:", "meta", "xpu", "vulkan:0"):
        refuses("unknown; accepted: auto, cpu, cuda, cuda:N, mps", lambda: pick_device(name))  # noqa: B023


@pytest.mark.parametrize(("bits_count", "shared"), [(False, [4, 2, 1, 1, 1]), (True, [1, 1, 1, 1, 1])])
def test_large_images_have_the_threads_that_runs_side_by_side_share_and_one_where_bits_count(
    monkeypatch: pytest.MonkeyPatch, bits_count: bool, shared: list[int]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(device, "own_threads", lambda: 4)
    pick_device("cpu", bits_count)
    found = []
    for runs in (1, 2, 3, 4, 9):
        settle_threads(17, runs)
        found.append(torch.get_num_threads())
        settle_threads(16, runs)
        assert torch.get_num_threads() == 1
    assert found == shared


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("", 8), (None, 8)]
)
def test_threads_are_no_more_than_the_system_grants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, cores: int
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: read(file if path.name == "cpu.max" else path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    own_threads.cache_clear()
    assert own_threads() == cores
    own_threads.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_users_number_of_threads_rules(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    for size in (8, 224, 16):
        settle_threads(size)
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("asked", "where", "size", "has", "settled"),
    [
        ("auto", CUDA, 8, "", "bf16"), ("auto", CPU, 32, "amx_bf16", "bf16"), ("auto", CPU, 32, "", "float32"),
        ("auto", CPU, 16, "avx512_bf16", "bf16"), ("auto", CPU, 15, "amx_bf16", "float32"),
        ("auto", CPU, 0, "amx_bf16", "float32"), ("float32", CUDA, 32, "amx_bf16", "float32"),
        ("auto", torch.device("mps"), 32, "amx_bf16", "float32"), ("float32", CPU, 32, "amx_bf16", "float32"),
        ("bf16", CPU, 8, "", "bf16"),
    ],
)  # fmt: skip
def test_precision_follows_request_device_and_size(
    monkeypatch: pytest.MonkeyPatch, asked: str, where: torch.device, size: int, has: str, settled: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True}, raising=False)
    assert precision_for(asked, where, size) == settled


def test_precision_is_float32_on_processors_where_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    pick_device("cpu", True)
    assert precision_for("auto", CPU, 32) == "float32"
    assert precision_for("bf16", CPU, 32) == "bf16"


@pytest.mark.parametrize(("precision", "kind"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_runs_in_that_precision_and_the_weights_do_not(precision: str, kind: torch.dtype) -> None:
    layer = torch.nn.Linear(3, 2)
    with autocast(precision, CPU):
        output = layer(torch.ones(1, 3))
    output.float().sum().backward()
    assert output.dtype == kind
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32


def test_a_generator_depends_on_its_seed_alone_and_leaves_the_global_one_as_it_is() -> None:
    seed_globally(0)
    first, expected = torch.rand(5, generator=seeded(3, CPU)), torch.rand(3)
    seed_globally(0)
    assert not torch.equal(first, torch.rand(5, generator=seeded(4, CPU)))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, torch.rand(5, generator=seeded(3, CPU)))


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**32, 2**63 - 1])
def test_global_seeding_repeats_torch_and_numpy(seed: int) -> None:
    seed_globally(seed)
    first = torch.nn.Linear(4, 4).weight, np.random.rand(3)
    seed_globally(seed)
    assert torch.equal(first[0], torch.nn.Linear(4, 4).weight)
    assert np.array_equal(first[1], np.random.rand(3))


def test_the_clock_goes_forward_and_peak_memory_holds_what_was_in_use() -> None:
    begun = clock(CPU)
    forget_peak_memory(CPU)
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert len(block) < peak_memory(CPU) < 2**40
    assert 0 <= clock(CPU) - begun < 5


def test_a_device_is_named_with_how_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert device_name(CUDA) == "cuda: NVIDIA H200"
    assert device_name(torch.device("mps")) == "mps"
    torch.set_num_threads(2)
    assert device_name(CPU) == "cpu: 2 threads"
    torch.set_num_threads(1)
    assert device_name(CPU, "bf16", True) == "cpu: 1 thread, bf16, compiled"
    pick_device("cpu", True)
    assert device_name(CPU, "float32") == "cpu: 1 thread, deterministic"
