"""The rooms of the package, in the order in which they may import each other."""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import salun

PACKAGE = Path(salun.__file__).parent
ROOMS = [
    ["errors"], ["device", "registry"], ["io"], ["data", "models"], ["training"], ["unlearning", "metrics"],
    ["experiments"], ["latent", "reports"], ["api"], ["cli"],
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ROOMS, 1) for room in rooms}
PAGE = (PACKAGE.parent / "docs/architecture.md").read_text()
FACES = ("salun", "salun.cli", "salun.cli.viz", "salun.unlearning", "salun.metrics")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(("salun", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


@cache
def imported(path: Path, lazily: bool = True) -> frozenset[str]:
    """The modules of the package that a file imports, those within functions too or not."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree)) if lazily else tree.body
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), f"{path}: relative import"
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "salun":
            names = [f"{node.module}.{name.name}" for name in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "salun"}
    return frozenset(found)


def test_the_page_names_every_room_and_what_exists() -> None:
    assert set(LEVEL) == {*map(room_of, MODULES)} - {""}
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", PAGE, re.MULTILINE)
    named = {name: int(level) for level, rooms in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", rooms)}
    assert named == LEVEL
    paths = re.findall(r"`((?:salun|exp|tests)/[\w./]+)`", PAGE)
    assert [path for path in paths if not (PACKAGE.parent / path).exists()] == []


def test_a_room_imports_only_what_stands_above_it_and_no_module_itself_by_way_of_others() -> None:
    needed = {name: imported(path, lazily=False) - {name, "salun"} for name, path in MODULES.items()}
    TopologicalSorter(needed).prepare()  # raises CycleError
    for name, path in MODULES.items():
        own = room_of(name)
        for module in imported(path):
            other = room_of(module)
            if own and other and other != own:
                assert LEVEL[other] < LEVEL[own], f"{path} imports {module}"


@pytest.mark.parametrize("room", ["unlearning/methods", "metrics"])
def test_methods_and_metrics_stand_alone(room: str) -> None:
    shared = {"evaluation", "registry", "scores", "matching", "epsilons", "fqs", "hsic", "tow", "_svc", "__init__"}
    for path in PACKAGE.joinpath(room).glob("*.py"):
        prefix = f"salun.{room.replace('/', '.')}."
        siblings = {module.removeprefix(prefix).split(".")[0] for module in imported(path) if module.startswith(prefix)}
        assert path.stem == "__init__" or siblings <= (shared if room == "metrics" else set()), path


def test_names_are_of_subjects_and_importing_the_package_changes_nothing() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "misc", "common", "base", "helpers"}
    assert imported(PACKAGE / "__init__.py", lazily=False) == frozenset()
