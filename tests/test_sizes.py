"""How large the package may be, and what of it may be public: the bounds that keep it readable."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from test_layers import FACES, FILES, MODULES, PACKAGE

ROOT = PACKAGE.parent
MOST_LINES, MOST_LINES_OF_TESTS = 37_000, 30_500
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_CLASS = 500, 60, 200
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = [path for path in sorted((ROOT / "scripts").iterdir()) if path.read_bytes().startswith(b"#!")]
USERS = [*FILES, *sorted((ROOT / "benchmarks").rglob("*.py")), *SCRIPTS]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
REGISTERING = {"method", "metric", "dataset", "model"}
ENTRY_POINTS = {"main", "run"}  # of commands: `salun.cli.entry` finds "run" by the command's name


@cache
def parsed(path: Path) -> ast.Module:
    text = path.read_text()
    if text.startswith("#!") and "python" not in text.splitlines()[0]:  # a shell script that calls Python
        text = "\n".join(re.findall(r"from salun[\w.]* import \w+", text))
    return ast.parse(text)


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize(("files", "most"), [(FILES, MOST_LINES), (TESTS, MOST_LINES_OF_TESTS)], ids=["salun", "tests"])
def test_all_in_all(files: list[Path], most: int) -> None:
    assert sum(map(length, files)) <= most


def test_files_functions_and_classes_are_short() -> None:
    for path in FILES:
        assert length(path) <= LONGEST_FILE, path
        for node in (node for node in ast.walk(parsed(path)) if isinstance(node, DEFINITIONS)):
            most = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert (node.end_lineno or 0) - first < most, f"{path}: {node.name}"


def is_registered(node: ast.stmt) -> bool:
    """Whether a function registers itself, so that nobody need name it."""
    decorators = node.decorator_list if isinstance(node, DEFINITIONS) else []
    calls = [found.func if isinstance(found, ast.Call) else found for found in decorators]
    return any(isinstance(found, ast.Name) and found.id in REGISTERING for found in calls)


def public_names(path: Path) -> set[str]:
    """The functions, classes and constants that a module defines for others."""
    names: set[str] = set()
    for node in parsed(path).body:
        if isinstance(node, DEFINITIONS) and not is_registered(node):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {found.id for target in targets for found in ast.walk(target) if isinstance(found, ast.Name)}
    return {name for name in names if not name.startswith("_")} - ENTRY_POINTS


def imports_of(path: Path) -> tuple[set[tuple[str, str]], dict[str, str]]:
    """The names that a file imports from the package's modules, and its modules by the names that they have there."""
    names, modules = set(), {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "salun":
            for found in node.names:
                if f"{node.module}.{found.name}" in MODULES:
                    modules[found.asname or found.name] = f"{node.module}.{found.name}"
                else:
                    names.add((node.module, found.name))
        elif isinstance(node, ast.Import):
            modules |= {found.asname: found.name for found in node.names if found.asname and found.name in MODULES}
    return names, modules


@cache
def used_names(path: Path) -> frozenset[tuple[str, str]]:
    """What a file takes from the package's modules, as (module, name)."""
    names, modules = imports_of(path)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            names.add((modules[node.value.id], node.attr))
        elif isinstance(node, ast.Call) and [*map(type, node.args[:2])] == [ast.Name, ast.Constant]:  # as in setattr
            names |= {(modules[target.id], name.value) for target, name in [node.args[:2]] if target.id in modules}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("salun."):
            module, _, name = node.value.replace(":", ".").rpartition(".")
            names |= {(module, name)} if module in MODULES else set()
    return frozenset(names)


def test_public_names_are_used_elsewhere() -> None:
    for module, path in MODULES.items():
        used = {name for user in USERS if user != path for place, name in used_names(user) if place == module}
        exported = public_names(path) if module in FACES or module == "salun.api" else set()
        assert sorted(public_names(path) - used - exported) == [], module


def test_tests_hold_behaviour() -> None:
    for path in TESTS:
        private = {f"{module}.{name}" for module, name in used_names(path) if is_private(module) or is_private(name)}
        _, modules = imports_of(path)
        assert sorted(private | {module for module in modules.values() if is_private(module)}) == [], path


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
