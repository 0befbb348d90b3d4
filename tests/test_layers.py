import ast
from pathlib import Path

import pytest

import salun

PACKAGE = Path(salun.__file__).parent
FLOORS = [
    ["errors", "imports"],
    ["claims"],
    ["files", "device", "docstrings", "markup", "registry"],
    ["bounds", "source"],
    ["arrays"],
    ["data"],
    ["models"],
    ["layers"],
    ["passes", "graphs", "speed", "resume", "norms"],
    ["distributed"],
    ["training"],
    ["saliency", "gradients", "losses", "attacks", "freezing", "memorization"],
    ["dampening"],
    ["unlearning", "pruning"],
    ["attraction"],
    ["methods"],
    ["metrics"],
    ["plugins", "statistics"],
    ["outputs", "gap"],
    ["base_model"],
    ["experiment"],
    ["run"],
    ["records", "rows", "parallel"],
    ["summaries", "cluster"],
    ["schedule"],
    ["comparison"],
    ["edits"],
    ["roc"],
    ["audit"],
    ["verdicts"],
    ["series"],
    ["tracking"],
    ["latent"],
    ["plots"],
    ["cli"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
INSIDE = {
    "data": [
        "pixel_file",
        "pixel_share",
        "parts",
        "images",
        "augment",
        "folder",
        "pickles",
        "matlab",
        "sources",
        "split",
        "sets",
    ],
    "latent": [
        "features",
        "extraction",
        "embedding",
        "tensor_tsne",
        "tsne",
        "umap",
        "wasserstein",
        "confusion",
        "triples",
        "subset",
        "cka",
        "comparator",
    ],
    "plots": ["style", "scatter", "film", "heatmap", "runs", "roc"],
    "cli": [
        "arguments",
        "steps",
        "progress",
        "console",
        "table",
        "listing",
        "train",
        "unlearn",
        "extract",
        "viz",
        "audit",
    ],
    "cli.viz": [
        "album",
        "inputs",
        "matrices",
        "wasserstein",
        "confusion",
        "models",
        "cka",
        "comparator",
        "embeddings",
        "tsne",
        "umap",
        "runs",
    ],
}
SEPARATE = ("methods", "metrics")
SHARED = {"methods": (), "metrics": ("subjects", "scores", "matching", "svc", "fqs", "hsic", "tow")}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "salun":
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "salun"}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


def room_of(own: list[str]) -> str:
    return ".".join(own[:-1])


def rooms(module: str) -> list[str]:
    return [part for part in module.split(".")[1:] if part]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_only_what_stands_above(path: Path) -> None:
    own = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if own == ["__init__"]:
        assert imported(path) == {"salun.imports.postpone"}
        return
    assert own[0] in FLOOR_OF, f"{path}: give it a floor in this test and in the map"
    for module in imported(path):
        parts = rooms(module)
        if not parts or parts[0] not in FLOOR_OF:
            continue
        if parts[0] != own[0]:
            assert FLOOR_OF[parts[0]] < FLOOR_OF[own[0]], f"{path} imports {module}"
        elif (room := room_of(own)) in INSIDE and own[-1] != "__init__":
            depth, order = room.count(".") + 1, INSIDE[room]
            if ".".join(parts[:depth]) == room:
                assert order.index(parts[depth]) < order.index(own[depth]), f"{path} imports {module}"
            else:
                parent = INSIDE[own[0]]
                assert parent.index(parts[1]) < parent.index(own[1]), f"{path} imports {module}"
        elif own[0] in SEPARATE and own[1] != "__init__":
            siblings = {file.stem for file in (PACKAGE / own[0]).glob("*.py")} - set(SHARED[own[0]])
            assert len(parts) < 2 or parts[1] not in siblings, f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_names_are_of_subjects(path: Path) -> None:
    assert path.stem not in {"utils", "util", "misc", "common", "base", "helpers"}


def test_every_file_of_a_parted_room_has_its_place() -> None:
    for room, order in INSIDE.items():
        folder = PACKAGE.joinpath(*room.split("."))
        packages = {path.parent.name for path in folder.glob("*/__init__.py")}
        assert ({path.stem for path in folder.glob("*.py")} | packages) - {"__init__"} == set(order)
