"""What is imported when; in processes of their own, as these tests have long imported everything."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

import salun

REAL = "torch._dynamo.eval_frame"  # comes with the compiler itself, not with what stands in for it


def run(script: str, *arguments: str) -> Any:
    """Run a script, and read what it prints last."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SCRIPTS = tomllib.loads((Path(salun.__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
LIBRARIES = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "rich", "pydantic", "wandb", "timm", "numba"}
PARSE = """
import json, sys
from {module} import {name}

try:
    {name}([sys.argv[1]])
except SystemExit as ended:
    assert ended.code == int(sys.argv[2])
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("command", "flag", "status"),
    [*((command, "--help", "0") for command in SCRIPTS), ("salun-unlearn", "--no-such-flag", "2")],
)
def test_parsing_is_instant_and_needs_no_library(command: str, flag: str, status: str) -> None:
    module, _, name = SCRIPTS[command].partition(":")
    took = 9.0
    for _ in range(3):
        begun = time.perf_counter()
        imported = run(PARSE.format(module=module, name=name), flag, status)
        took = min(took, time.perf_counter() - begun)
        assert "salun.cli.parsers" in imported
        assert not LIBRARIES & set(imported)
        if took < 0.3:
            break
    assert took < 0.3


FIRST_STEP = """
import json, os, sys
from salun.cli import entry

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "salun.training.loop":
            sys.meta_path.remove(self)
            from torch.optim.optimizer import register_optimizer_step_post_hook
            register_optimizer_step_post_hook(stop)

def stop(*step):
    print("\\n" + json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

sys.meta_path.insert(0, Watch())
getattr(entry, sys.argv[1])(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", ["--dataset", "digits", "--no-log"]),
        ("unlearn", ["--model", "resnet_tiny", "--dataset", "digits", "-CF", "0", "--nexp", "1", "--no-log"]),
    ],
)
def test_first_step_waits_for_nothing_that_it_does_not_need(command: str, arguments: list[str]) -> None:
    imported = run(FIRST_STEP, command, *arguments)
    needless = {REAL, "torch._inductor", "sympy", "wandb", "matplotlib", "sklearn", "scipy.stats", "timm"}
    assert not needless & set(imported)


def test_first_step_of_a_model_from_a_file_does_without_timm() -> None:
    own = Path(__file__).parents[2] / "examples" / "small_cnn.py"
    imported = run(FIRST_STEP, "train", "--dataset", "digits", "--model", f"{own}:SmallCNN", "--no-log")
    assert "timm" not in imported


ASLEEP = """
import copy, inspect, pickle, sys
import salun.cli
import torch, torchvision, timm
from torch.utils.checkpoint import checkpoint
from salun.models.architecture import Architecture
from salun.models.build import build

model = build(Architecture("resnet_tiny", 3, 1, 8))
model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
optimizer = torch.optim.Adam(model.parameters())
torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
model(torch.ones(2, 1, 8, 8)).sum().backward()
optimizer.step()
optimizer.zero_grad()
inspect.getmodule(inspect.currentframe())
assert torch._dynamo is sys.modules["torch._dynamo"]
assert torch._dynamo.__file__.endswith("__init__.py") and not hasattr(torch._dynamo, "__wrapped__")
torch._dynamo.graph_break()
asleep = sorted(sys.modules)
import wandb
stand_in = torch._dynamo
try:
    import torch._dynamo.no_such_module
except ModuleNotFoundError as error:
    print(error)
import torch._dynamo.config
assert torch._dynamo is not stand_in and stand_in.reset is torch._dynamo.reset
assert "reset" in dir(stand_in) and not hasattr(stand_in, "no_such_name")
assert torch._dynamo.config is sys.modules["torch._dynamo.config"] is sys.modules["torch._dynamo.eval_frame"].config
assert torch._dynamo.config.__spec__.loader.get_filename() == torch._dynamo.config.__file__
checkpoint(model, torch.ones(2, 1, 8, 8), use_reentrant=False).sum().backward()
stand_in.added = 3
assert torch._dynamo.added == 3
assert "torch._dynamo" in asleep and not {"torch._dynamo.eval_frame", "sympy", "wandb"} & set(asleep)
assert hasattr(wandb, "init")
"""
COMPILED = """
import json, sys
import torch
from torch import nn
from torch.func import grad, vmap
from torchvision import tv_tensors
from torchvision.ops import roi_align

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
graphs = []

def backend(graph, inputs):
    graphs.append(len(graph.graph.nodes))
    return graph.forward

def step():
    optimizer.zero_grad()
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()

def crop(x):
    return roi_align(x, [torch.tensor([[0.0, 0.0, 3.0, 3.0]])], (2, 2))

def mark(x):
    return tv_tensors.wrap(x.sin(), like=tv_tensors.Image(x)).cos()

step()
compiled = torch.compile(step, backend=backend)
compiled(), compiled()
torch.compile(optimizer.step, backend=backend)()
results = [torch.compile(mark, backend=backend)(torch.ones(3, 2, 2)), *model.parameters()]
results += [torch.compile(crop, backend=backend, fullgraph=True)(torch.arange(16.0).view(1, 1, 4, 4))]
results += [vmap(grad(lambda x: (x.sin() * x).sum()))(torch.ones(2, 3))]
from torch._dynamo.utils import counters
counted = {kind: sorted(counters[kind].items()) for kind in ("stats", "frames")}
counted["breaks"] = sorted(counters["graph_break"].values())
modules = sorted(name for name in sys.modules if name.startswith("torch._dynamo"))
sums = [float(x.detach().sum()) for x in results]
import salun.cli
waited = any(type(finder).__module__ == "salun.cli.startup" for finder in sys.meta_path)
print(json.dumps([waited, [graphs, sums, counted, modules]]))
"""


@pytest.mark.slow
def test_compiler_sleeps_until_it_is_asked_for_and_then_does_the_same() -> None:
    waited, ours = run(ASLEEP + COMPILED)
    never, plain = run(COMPILED)
    assert waited
    assert not never
    assert ours == plain


@pytest.mark.parametrize(("version", "waits"), [("2.15.0+cpu", True), ("9.0.0", False)])
def test_only_versions_that_were_tried_have_it_wait(tmp_path: Path, version: str, waits: bool) -> None:
    package = tmp_path / "torch" / "_dynamo"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (package / "__init__.py").write_text("from torch._dynamo import config\n\nprint('real')\n")
    (package / "config.py").write_text("")
    script = "import json, sys, salun.cli; sys.path.insert(0, {!r}); import torch._dynamo; print(json.dumps({}))"
    assert run(script.format(str(tmp_path), "'torch._dynamo.config' not in sys.modules")) is waits
