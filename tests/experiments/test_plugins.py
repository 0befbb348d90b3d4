import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plugins import FILES, registered

from salun.data.dataset import Dataset, Subset
from salun.data.sources import class_count, load
from salun.errors import SalunError
from salun.experiments.plugins import known_model, load_plugins
from salun.experiments.schema import json_schema, validate
from salun.metrics import METRICS, check_metrics
from salun.registry import ADDED, load_installed
from salun.unlearning import METHODS, find_method

ROOT = Path(__file__).resolve().parents[2]
METHOD = "from salun.unlearning import Task, method\n\n\n@method()\ndef {name}(task: Task) -> None:\n    ...\n"
METRIC = (
    "from salun.metrics import Evaluation, metric\n\n\n@metric('{name}')\ndef run(run: Evaluation) -> float:\n    ...\n"
)
DATASET = (
    "from salun.data.sources import dataset\n\n\n@dataset('{name}', classes=2)\ndef read(folder, download):\n    ...\n"
)

Plug = Callable[[str, str], Path]


@pytest.fixture
def plug(tmp_path: Path) -> Plug:
    """Write a file and load it as a plugin."""

    def call(name: str, code: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
        load_plugins([path])
        return path

    return call


def test_a_timm_name_may_be_spelled_as_the_hub_does() -> None:
    name = "resnet18.a1_in1k"
    assert {known_model(prefix + name) for prefix in ("", "timm/", "hf_hub:timm/", "hf-hub:timm/")} == {name}


@pytest.mark.parametrize("name", FILES)
def test_an_example_takes_no_more_than_forty_lines(name: str) -> None:
    assert len(FILES[name].splitlines()) <= 40


def test_one_file_may_hold_all_three_and_is_not_compiled(plug: Plug, tmp_path: Path) -> None:
    path = plug("three.py", METHOD.format(name="mine") + METRIC.format(name="own") + DATASET.format(name="few"))
    assert find_method("mine").home == METRICS["own"].home == "salun_plugin_three"
    assert check_metrics(("own",)) == ("own",)
    assert class_count("few") == 2
    assert ADDED["plugin three.py"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.rglob("*")] == ["three.py"]


def test_annotations_may_be_put_off(plug: Plug) -> None:
    plug("late.py", "from __future__ import annotations\n" + METHOD.format(name="mine") + METRIC.format(name="own"))
    assert {"mine"} <= METHODS.keys()
    assert check_metrics(("own",)) == ("own",)


def test_a_file_that_changed_takes_the_place_of_what_it_was(plug: Plug) -> None:
    plug("mine.py", METHOD.format(name="first"))
    before = ADDED["plugin mine.py"]
    plug("mine.py", METHOD.format(name="second"))
    assert "first" not in METHODS
    assert "second" in METHODS
    assert ADDED["plugin mine.py"] != before


UNTYPED = METHOD.format(name="mine").replace("task: Task", "task: Task, *, lr=0.1")
UNUSABLE = METHOD.format(name="mine").replace("task: Task", "task: Task, *, lr: Task = None")
WRONG = {
    "syntax": ("def broken(:\n", "plugin my.py: line 1: SyntaxError: "),
    "an error": ("import os\n\nos.nothing\n", "plugin my.py: line 3: AttributeError: module 'os' has no attribute"),
    "an import": ("import nowhere\n", "plugin my.py: line 1: ModuleNotFoundError: No module named 'nowhere'"),
    "an end": ("raise SystemExit(0)\n", "plugin my.py: line 1: SystemExit"),
    "two lines": ("raise ValueError('one\\ntwo')\n", "plugin my.py: line 1: ValueError: one"),
    "no text": (b"\xff\xfe\x00", "plugin my.py: "),
    "nothing": ("x = 1\n", "plugin my.py: registers nothing; it needs @method(), @metric(...), @dataset(...) or "),
    "no type": (UNTYPED, "plugin my.py: line 4: TypeError: mine: setting 'lr' must be keyword-only"),
    "no type of JSON": (UNUSABLE, "plugin my.py: line 4: TypeError: mine: Unable to generate"),
    "a method's name": (METHOD.format(name="ga"), f"method 'ga': {ROOT}/salun/unlearning/methods/ga.py and "),
    "an alias": (
        METHOD.format(name="mine").replace("method()", "method(alias='rl')"),
        f"method 'rl': {ROOT}/salun/unlearning/methods/rl.py and ",
    ),
    "a metric's name": (METRIC.format(name="UA"), f"metric 'UA': {ROOT}/salun/metrics/accuracy.py and "),
    "no subject": (METRIC.replace("run: Evaluation", "run"), "plugin my.py: line 4: TypeError: run: needs a name and"),
    "a data set's name": (DATASET.format(name="digits"), f"data set 'digits': {ROOT}/salun/data/builtin.py and "),
    "a reserved name": (DATASET.format(name="folder"), "plugin my.py: line 4: TypeError: data set 'folder' of 2"),
    "a name with options": (DATASET.format(name="a:b"), "plugin my.py: line 4: TypeError: data set 'a:b' of 2"),
    "the second of two": (METHOD.format(name="mine") + METRIC.format(name="UA"), "metric 'UA': "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_nothing_stays_of_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, words = WRONG[case]
    path = Path("my.py")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = registered()
    with pytest.raises(SalunError) as caught:
        load_plugins([path])
    assert str(caught.value).startswith(words)
    assert "my.py" in str(caught.value)
    assert registered() == before


@pytest.mark.parametrize(("name", "reason"), [("nope.py", "No such file or directory"), (".", "Is a directory")])
def test_what_is_no_file_is_refused(name: str, reason: str) -> None:
    with pytest.raises(SalunError, match=f"^plugin {re.escape(name)}: cannot be read: {reason}$"):
        load_plugins([Path(name)])


@pytest.mark.parametrize("code", [METHOD, METRIC, DATASET], ids=["method", "metric", "data set"])
def test_two_plugins_with_one_name_are_both_named(code: str, plug: Plug, tmp_path: Path) -> None:
    plug("one.py", code.format(name="mine"))
    with pytest.raises(SalunError, match=f"'mine': {tmp_path}/one.py and {tmp_path}/two.py both register it"):
        plug("two.py", code.format(name="mine"))


def test_two_files_of_one_name_are_refused(plug: Plug, tmp_path: Path) -> None:
    plug("a/mine.py", METHOD.format(name="first"))
    with pytest.raises(SalunError, match=f"records know plugins by name, and {tmp_path}/a/mine.py has the same"):
        plug("b/mine.py", METHOD.format(name="second"))
    assert "first" in METHODS


def test_a_setting_must_not_be_called_as_a_key_of_every_entry(plug: Plug) -> None:
    plug("mine.py", METHOD.format(name="mine").replace("task: Task", "task: Task, *, seed: float = 1.0"))
    with pytest.raises(SalunError, match="method 'mine': setting 'seed': every experiment has a key of that name"):
        json_schema()


def test_a_list_names_no_plugin(plug: Plug, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(name="mine"))
    entry = {"class_to_forget": 0, "model": "resnet_tiny", "dataset": "digits", "plugin": "mine.py", "method": "mine"}
    with pytest.raises(SalunError, match='method: "mine": unknown'):
        validate([entry], "list.json")
    with pytest.raises(SalunError, match="plugin: unknown key"):
        validate([entry | {"method": "ft"}], "list.json")


IMAGES = "Subset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))"
READ = "import torch\nfrom salun.data.dataset import Dataset, Subset\n" + DATASET.format(name="few")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("None", "gave a NoneType; it must return a salun.data.dataset.Dataset"),
        (f"Dataset('many', {IMAGES}, {IMAGES}, ('a', 'b'))", "gave 'many' of 2 classes; registered are 2"),
        (f"Dataset('few', {IMAGES}, {IMAGES}, ('a', 'b', 'c'))", "gave 'few' of 3 classes; registered are 2"),
        (
            f"Dataset('few', {IMAGES}, Subset(torch.zeros(4, 1, 8, 8), torch.zeros(4).long()), ('a', 'b'))",
            "float32 and",
        ),
        (f"Dataset('few', {IMAGES}, {IMAGES}, ('a',))", "its training part has labels from 0 to 1, not 0 to 0"),
    ],
)
def test_a_data_set_is_checked_when_it_is_read(plug: Plug, tmp_path: Path, given: str, words: str) -> None:
    plug("data.py", READ.replace("    ...", f"    return {given}"))
    with pytest.raises(SalunError, match=f"^data set '(few|many)': .*{re.escape(words)}"):
        load("few", tmp_path)


def test_a_data_set_is_told_where_data_lie_and_whether_to_download(plug: Plug, tmp_path: Path) -> None:
    code = "import json\n" + READ.replace("    ...", "    (folder / 'asked').write_text(json.dumps(download))\n    ...")
    plug("data.py", code.replace("    ...", f"    return Dataset('few', {IMAGES}, {IMAGES}, ('a', 'b'))"))
    found = load("few", tmp_path, download=False)
    assert isinstance(found, Dataset)
    assert isinstance(found.test, Subset)
    assert torch.equal(found.train.labels, torch.tensor([0, 1, 0, 1]))
    assert (tmp_path / "asked").read_text() == "false"


def install(folder: Path, package: str, groups: dict[str, str]) -> None:
    """Write what an installed package leaves: its entry points."""
    about = folder / f"{package}-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    lines = [f"[salun.{group}]\nmine = {module}\n" for group, module in groups.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))


def test_what_an_installed_package_adds_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group, code in (("methods", METHOD), ("metrics", METRIC), ("datasets", DATASET)):
        (tmp_path / f"added_{group}.py").write_text(code.format(name="added"))
    install(tmp_path, "extra", {group: f"added_{group}" for group in ("methods", "metrics", "datasets")})
    monkeypatch.syspath_prepend(tmp_path)
    load_installed.cache_clear()
    assert find_method("added").home == "added_methods"
    assert "added_datasets" not in sys.modules
    assert check_metrics(("added",)) == ("added",)
    assert class_count("added") == 2
    assert ADDED["plugin extra"] == "1.5"


def test_a_broken_installed_package_is_left_out_with_a_notice(tmp_path: Path) -> None:
    (tmp_path / "added_broken.py").write_text("import nowhere\n")
    (tmp_path / "added_good.py").write_text("print('good')\n")
    for package in ("broken", "good"):
        install(tmp_path, package, {"methods": f"added_{package}"})
    code = "from salun.registry import ADDED, load_installed as load\nload('salun.methods')\nload('salun.methods')\n"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", code + "print(ADDED)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "good\n{'plugin good': '1.5'}\n"
    place = "plugin 'mine' of package broken 1.5 (added_broken)"
    assert done.stderr == f"salun: {place} is left out: ModuleNotFoundError: No module named 'nowhere'\n"


def test_an_installed_package_takes_no_name_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "added_taken.py").write_text(METHOD.format(name="ga"))
    install(tmp_path, "taken", {"methods": "added_taken"})
    monkeypatch.syspath_prepend(tmp_path)
    load_installed.cache_clear()
    assert find_method("ga").home == "salun.unlearning.methods.ga"
    assert f"{ROOT}/salun/unlearning/methods/ga.py and {tmp_path}/added_taken.py both register it" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "kind", "name", "file", "least"),
    [
        ("package", "unlearning/methods/test_every_method.py", "flatten", "my_method.py", 10),
        ("plugin", "unlearning/methods/test_every_method.py", "flatten", "my_method.py", 4),
        ("plugin", "metrics/test_every_metric.py", "forget_confidence", "my_metric.py", 4),
        ("plugin", "data/test_every_source.py", "parity", "my_data.py", 4),
    ],
)
def test_one_file_in_the_package_or_as_a_plugin_is_held_to_the_tests_of_all(
    place: str, kind: str, name: str, file: str, least: int, tmp_path: Path
) -> None:
    root, flags = (ROOT, ["--plugin", str(tmp_path / file)]) if place == "plugin" else (tmp_path, [])
    if root == tmp_path:
        for folder in ("salun", "tests"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
    (tmp_path / (file if root == ROOT else "salun/unlearning/methods/flatten.py")).write_text(FILES[file])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", f"tests/{kind}", "-k", name, *flags]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") >= least
