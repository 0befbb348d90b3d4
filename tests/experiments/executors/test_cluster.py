from typing import Any

import pytest

from salun.errors import SalunError
from salun.experiments.executors.cluster import RayRequest, connect, device_of, gpus_of, is_secret, rooms


def node(cpus: float, gpus: float = 0.0, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": f"{cpus:g}-{gpus:g}", "Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus, "memory": 1e9}}


def test_machines_have_room_by_cpus_and_shares_of_gpus() -> None:
    found = [node(4), node(8, 2), node(2, 4), node(16, 1, alive=False)]
    assert rooms(found, 0) == {"4-0": 4, "8-2": 8, "2-4": 2}
    assert rooms(found, 1) == {"8-2": 2, "2-4": 2}
    assert rooms(found, 0.25) == {"8-2": 8, "2-4": 2}
    assert rooms([node(64, 4)], 1 / 3) == {"64-4": 12}
    assert rooms([node(64, 4)], 0.4) == {"64-4": 8}
    assert rooms([node(0, 4)], 0) == {}


@pytest.mark.parametrize(
    ("asked", "share", "there", "given"),
    [
        ("auto", None, 0, (0, "cpu")),
        ("auto", None, 2, (1, "cuda")),
        ("auto", 0.25, 2, (0.25, "cuda")),
        ("auto", 0.0, 2, (0, "cpu")),
        ("cpu", None, 2, (0, "cpu")),
        ("cuda:1", None, 2, (1, "cuda")),
        ("mps", None, 0, (0, "mps")),
    ],
)
def test_runs_have_a_gpu_where_there_is_one(
    asked: str, share: float | None, there: int, given: tuple[float, str]
) -> None:
    gpus = gpus_of(RayRequest(gpus=share, device=asked), [node(4), node(8, there)])
    assert (gpus, device_of(asked, gpus)) == given


@pytest.mark.parametrize(
    ("asked", "share", "there", "reason"),
    [
        ("cpu", 0.5, 2, "--gpus-per-run 0.5: does not go with --device cpu"),
        ("cuda", 0.0, 2, "--gpus-per-run 0: does not go with --device cuda"),
        ("auto", 1.0, 0, "no machine of the cluster has a GPU"),
        ("cuda", None, 0, "no machine of the cluster has a GPU"),
    ],
)
def test_devices_that_cannot_be_are_refused(asked: str, share: float | None, there: int, reason: str) -> None:
    with pytest.raises(SalunError, match=reason):
        gpus_of(RayRequest(gpus=share, device=asked), [node(8, there)])


def test_keys_and_tokens_are_no_business_of_workers() -> None:
    kept = ["WANDB_API_KEY", "WANDB_SECRET", "HF_TOKEN", "my_password", "RAY_AUTH_TOKEN", "PATH", "KEYBOARD", "HOME"]
    assert [name for name in kept if is_secret(name)] == kept[:4]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    with pytest.raises(SalunError, match=f"^--ray {address}: no Ray cluster [^\n]*$"):
        connect(address)
