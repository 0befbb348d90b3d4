import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lists import CPU, RECORDS, SMALL, WEIGHTS, Seen, do, planned, results, runner

from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.cluster import RayRequest
from salun.experiments.executors.executor import RunFailure
from salun.experiments.plan import Job
from salun.experiments.plugins import load_plugins
from salun.experiments.runner import Runner
from salun.models.architecture import TINY

OWN = {"checkpoint": None, "model": TINY, "dataset": SMALL, "recipe": {"epochs": 1, "batch_size": 32}, "method": "ft"}
BARE = OWN | {"epochs": None}
PLUGIN = '''
import os
import signal
import time
from pathlib import Path

import torch.nn.functional as F

from salun.unlearning import Task, method

HERE = Path("{here}")


def place() -> str:
    """The machine of the cluster, where this is one."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def ascend(task: Task) -> None:
    ascent = lambda logits, batch: -F.cross_entropy(logits, batch.y)
    task.fit(lambda epoch: task.forget.batches(64, task.generator), epochs=1, lr=1e-3, loss=ascent)


@method()
def held(task: Task) -> None:
    """Forget, a little; on a machine that is to be lost without end, on others not before it begins there."""
    with (HERE / "begun").open("a") as file:
        print(task.generator.initial_seed(), place(), sorted(os.environ), file=file, flush=True)
    ascend(task)
    time.sleep(0.5)
    doomed = HERE / "doomed"
    while doomed.exists() and (doomed.read_text() == place() or doomed.read_text() not in (HERE / "begun").read_text()):
        time.sleep(0.05)


@method()
def raising(task: Task) -> None:
    """Raise, where this is a cluster."""
    if place():
        raise ValueError("will not")
    ascend(task)


@method()
def dying(task: Task) -> None:
    """End the process, where this is a cluster."""
    if place():
        os.kill(os.getpid(), signal.SIGKILL)
    ascend(task)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A file of methods that know whether they run on a cluster."""
    path = tmp_path / "elsewhere.py"
    path.write_text(PLUGIN.replace("{here}", str(tmp_path)))
    load_plugins([path])
    return path


def on_ray(address: str, plugins: tuple[Path, ...] = ()) -> Runner:
    """A runner of a cluster that keeps all weights."""
    cache = ModelCache(RunContext(CPU, plugins=plugins))
    return replace(runner("all"), cache=cache, ray=RayRequest(address, device="cpu"))


def done_again(jobs: Callable[[], list[Job]]) -> dict[str, tuple[Any, ...]]:
    """The same runs in turn, with nothing left of those before but what the user wrote."""
    shutil.rmtree(RECORDS.parent)
    shutil.rmtree(WEIGHTS)
    for path in Path("checkpoints").glob(f"{TINY}*"):
        path.unlink()
    do(jobs(), keep="all")
    return results()


@pytest.mark.slow
def test_runs_on_ray_give_what_they_give_in_turn(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of this machine alone, which is started and ended."""
    import ray

    monkeypatch.setenv("WANDB_API_KEY", "hidden")

    def jobs() -> list[Job]:
        return planned(BARE | {"method": "retrain"}, OWN, BARE | {"method": "held"})

    seen = Seen()
    assert len(list(on_ray("local", (plugin,)).run(jobs(), seen.callback))) == 3
    assert not ray.is_initialized()
    assert os.environ["WANDB_API_KEY"] == "hidden"
    (told,) = Path("begun").read_text().splitlines()
    assert "WANDB_API_KEY" not in told
    assert "RAY_" in told
    (job,) = [job for job in jobs() if job.experiment.method == "held"]
    assert all(step.images for step in seen.steps[job.id])
    assert seen.steps[job.id]
    found = results()
    assert len(found) == 3
    assert done_again(jobs) == found


@pytest.mark.slow
def test_a_machine_that_is_lost_in_mid_list_costs_no_run(plugin: Path, tmp_path: Path) -> None:
    """Two machines, of which one dies with a run under way there, and methods that fail and kill their worker: 50 s."""
    import ray
    from ray.cluster_utils import Cluster

    def jobs() -> list[Job]:
        held = [BARE | {"method": method} for method in ("held", "retrain")]
        return [*planned(*held, runs=3), *planned(BARE | {"method": "raising"}, BARE | {"method": "dying"})]

    small = {"num_cpus": 1, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    try:
        other = cluster.add_node(**small)
        doomed = tmp_path / "doomed"
        doomed.write_text(other.node_id)
        done: list[tuple[Job, Any]] = []
        with closing(on_ray(cluster.address, (plugin,)).run(jobs(), Seen().callback)) as runs:
            for ended in runs:
                done.append(ended)
                if doomed.exists():
                    assert other.node_id in Path("begun").read_text()
                    cluster.remove_node(other, allow_graceful=False)
                    doomed.unlink()
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    lost = {job.experiment.method: outcome.reason for job, outcome in done if isinstance(outcome, RunFailure)}
    assert len(done) == 8
    assert lost.keys() == {"raising", "dying"}
    assert lost["raising"].startswith("ValueError: will not (")
    assert lost["dying"] == "its worker was lost twice (WorkerCrashedError)"
    seeds = [line.split()[0] for line in Path("begun").read_text().splitlines()]
    assert sorted(map(seeds.count, set(seeds))) == [1, 1, 2]
    found = results()
    assert len(found) == 6
    again = done_again(jobs)
    assert {name: again[name] for name in found} == found
