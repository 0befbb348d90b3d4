import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from salun.cli import entry, parsers
from salun.experiments.schema import json_schema, load_experiments, validate
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, load_methods

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
TEXT = PAGES["README.md"]
MAINS = {
    "salun-train": (entry.train, parsers.train_parser),
    "salun-unlearn": (entry.unlearn, parsers.unlearn_parser),
    "salun-tune": (entry.tune, parsers.tune_parser),
    "salun-audit": (entry.audit, parsers.audit_parser),
    "salun-extract": (entry.extract, parsers.extract_parser),
    "salun-viz": (entry.viz, parsers.viz_parser),
    "salun-import": (entry.import_weights, parsers.import_parser),
    "salun-data": (entry.data, parsers.data_parser),
    "salun-report": (entry.report, parsers.report_parser),
}
# The pages whose commands are run here, in this order, in one folder; and the tests that run those of the others.
JOURNEYS = {
    "start": ("README.md", "docs/getting_started.md", "docs/training.md", "docs/unlearning.md", "docs/lists.md",
              "docs/latent_space.md", "docs/audit.md", "docs/contributing.md"),
    "scenarios": ("docs/scenarios.md",),
    "tuning": ("docs/tuning.md",),
    "own images": ("docs/forget_sets.md",),
    "own model": ("docs/own_model.md",),
}  # fmt: skip
ELSEWHERE = {
    "docs/add_a_method.md": "tests/cli/test_plugin_flag.py",
    "docs/cluster.md": "tests/test_cluster_page.py",
    "docs/distributed.md": "tests/training/test_distributed.py",
    "docs/report.md": "tests/reports/page/test_page.py",
    "docs/reproduce.md": "tests/test_reproduce.py",
}
NOT_RUN = {"scripts/demo", "scripts/test", "salun-train"}  # test_the_scripts_set_themselves_up, test_without_flags_...
SHORT = {"recipe": {"epochs": 1, "batch_size": 64}}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands_of(page: str) -> list[str]:
    """The lines of a page's shell blocks, without comments; a script is left to its own test."""
    scripts = [block.replace("\\\n", " ") for block in blocks(page, "(?:bash|sh)")]
    lines = [line for block in scripts if not block.startswith("#!") for line in block.splitlines()]
    return [line for line in (line.partition(" #")[0].strip() for line in lines) if line and line[0] != "#"]


def shorten(path: Path, source: str, *chosen: int, **more: object) -> None:
    """Write some entries of a list that comes with the package, with a training of one epoch."""
    entries = json.loads((ROOT / f"exp/{source}.json").read_text())
    short = [entries[at] | SHORT | more for at in chosen]
    for one in short:
        one |= {"requests": one["requests"][:2]} if "requests" in one else {}
    path.write_text(json.dumps(short))


def prepare_start() -> None:
    shutil.copytree(ROOT / "exp", "exp")
    audited = {"epochs": 1, "dataset": "synthetic:n=500,size=8,classes=4"}
    shorten(Path("exp/audit.json"), "audit", -1, **audited)
    shorten(Path("quickstart"), "quickstart", 0, -1)
    assert entry.unlearn(["-L", "quickstart", "--nexp", "1", "-NL"]) == 0  # leaves what `scripts/demo` does


def prepare_scenarios() -> None:
    Path("exp").mkdir()
    shorten(Path("exp/quickstart.json"), "quickstart", 0, -1)
    for name in ("corrective_digits", "subclass_digits", "requests_digits"):
        shorten(Path(name), name, 0, 2)


def prepare_tuning() -> None:
    Path("exp").mkdir()
    shorten(Path("exp/quickstart.json"), "quickstart", -1)


def prepare_images() -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "cat/rejected", "dog", "n01629819"):
        Path("pets", name).mkdir(parents=True)
        for number in range(16):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("pets", name, f"{number:02}.png"))
    Path("checkpoints").mkdir()
    assert entry.train(shlex.split("--dataset folder:pets --model resnet_tiny --epochs 1 --batch-size 16 -NL")) == 0
    for path in Path("checkpoints").glob("*_base*"):
        path.rename(path.with_name(f"base{path.name.partition('_base')[2]}"))


def prepare_model() -> None:
    (code,) = (block for block in blocks("docs/own_model.md", "python") if "MyNet" in block)
    Path("my_net.py").write_text(code)
    write_tiny_cifar(Path("data/cifar-10-batches-py"))
    torch.save(build(Architecture("resnet18", 10, 3, 32)).state_dict(), "weights.pth")


PREPARE = dict(
    zip(JOURNEYS, (prepare_start, prepare_scenarios, prepare_tuning, prepare_images, prepare_model), strict=True)
)
# What makes a command cheap when it is put behind it: the command itself is as it is printed.
CHEAP = {
    "salun-train --dataset folder": "--model resnet_tiny --epochs 1",
    "salun-train": "--epochs 1 --force",  # the README has trained a base model of ten epochs
    "salun-unlearn -c checkpoints/base": "-E 1 --nexp 1",
    "salun-unlearn -c": "-E 1 --nexp 1",
    "salun-unlearn --dataset digits --model my_net": "-E 1 --nexp 1",
    "salun-unlearn --model": "-E 1 --nexp 1",
    "salun-unlearn -L": "--nexp 1",
    "salun-tune": "--trials 1 --cells 1 --finalists 1 --repeats 1",
    "salun-extract": "-S 100",
    "salun-viz cka": "-S 40 --dpi 20",
    "salun-viz comparator": "",
    "salun-viz": "--dpi 20",
}


@pytest.mark.slow
@pytest.mark.parametrize("journey", JOURNEYS)
@pytest.mark.parametrize("flags", [CHEAP, {}], ids=["cheaply", "as printed"])
def test_the_commands_run_in_order(journey: str, capsys: pytest.CaptureFixture[str], flags: dict[str, str]) -> None:
    PREPARE[journey]()
    capsys.readouterr()
    commands = [command for page in JOURNEYS[journey] for command in commands_of(page) if command not in NOT_RUN]
    assert commands
    for command in commands:
        if not command.startswith("salun-"):
            subprocess.run(command, shell=True, check=True)
            continue
        cheap = next((more for start, more in flags.items() if command.startswith(start)), "")
        program, *arguments = shlex.split(f"{command} {cheap}")
        status = MAINS[program][0](arguments)
        out, err = capsys.readouterr()
        assert status == 0, f"{command}: {err}"
        assert out, command
        assert "Traceback" not in err, command
    if journey == "start":
        left_out, again = (
            json.loads(Path(f"checkpoints/resnet_tiny_digits_{name}_forget.json").read_text())
            for name in ("RF", "RF-again")
        )
        assert left_out == again


def test_every_command_has_a_test_that_runs_it() -> None:
    run_here = {page for pages in JOURNEYS.values() for page in pages}
    assert {page for page in PAGES if commands_of(page)} == run_here | ELSEWHERE.keys()
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


@pytest.mark.parametrize("page", [page for page in PAGES if "salun-" in "".join(commands_of(page))])
def test_every_flag_that_a_page_prints_exists(page: str) -> None:
    for command in commands_of(page):
        program, _, arguments = re.sub(r".*which (salun-train)\)\"?", r"\1", command).partition(" ")
        if program in MAINS:
            words = [word for word in shlex.split(arguments.replace("$", "")) if word != "..."]
            MAINS[program][1]().parse_args(words)  # exits with status 2 where it does not take them


def anchors_of(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_links_of_the_readme_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) > 20
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in anchors_of(path), link


def test_the_readme_is_short_and_counts_what_there_is() -> None:
    assert len(TEXT.splitlines()) <= 180
    assert f"[{len(documented_methods())} methods]" in TEXT
    assert f"[{len(rows_after('docs/metrics.md', '| metric | what it is |'))} metrics]" in TEXT


def test_every_list_of_the_package_is_described() -> None:
    described = {
        name for row in rows_after("docs/lists.md", "| list | content |") for name in re.findall(r"\w+", row[0])
    }
    assert described == {path.stem for path in (ROOT / "exp").glob("*.json")}
    assert all(load_experiments(path) for path in (ROOT / "exp").glob("*.json") if "search" not in path.stem)


def write_tiny_cifar(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        content = {"data": random.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [str(label) for label in range(10)]}, protocol=2)
    )


@pytest.mark.slow
def test_without_flags_it_trains_resnet18_on_cifar10(tmp_path: Path) -> None:
    write_tiny_cifar(tmp_path / "data/cifar-10-batches-py")
    assert entry.train([]) == 0
    config = torch.load(tmp_path / "checkpoints/resnet18_cifar10_base.pt", weights_only=True)["config"]
    assert (config["model"], config["dataset"], config["recipe"]) == ("resnet18", "cifar10", Recipe().model_dump())


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["scripts/demo", "--nexp", "1"], ["scripts/test", "--collect-only"]])
def test_the_scripts_set_themselves_up(tmp_path: Path, arguments: list[str]) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | {"PYTHON": sys.executable}
    done = subprocess.run(arguments, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv/bin/salun-train").exists()


def rows_after(page: str, heading: str) -> list[list[str]]:
    table = PAGES[page][PAGES[page].index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def documented_methods() -> set[str]:
    page = (ROOT / "docs/methods.md").read_text().replace("\\", "")
    return set(re.findall(r"^## (\w+)", page, re.MULTILINE))


def test_the_keys_table_is_complete_and_its_defaults_true() -> None:
    rows = rows_after("docs/lists.md", "| key | flag | meaning | default |")
    single = PAGES["docs/lists.md"].split("Settings of single methods: ")[1].split(". ")[0]
    named = {key for text in [single, *(row[0] for row in rows)] for key in re.findall(r"`(\w+)`", text)}
    load_methods()
    settings = {setting for name in documented_methods() for setting in METHODS[name].settings}
    entries = [shape["properties"] for shape in json_schema()["$defs"].values() if "method" in shape["properties"]]
    shared = set.intersection(*map(set, entries))
    assert named == shared | settings
    for row in rows:
        keys = re.findall(r"`(\w+)`", row[0])
        if len(keys) == 1 and keys[0] in (
            "use_mask",
            "mask_thr",
            "mask_score",
            "seed",
            "split_seed",
            "forget_seed",
            "method",
        ):
            default = next(entry for entry in entries if entry["method"]["default"] == "rl")[keys[0]].get("default")
            assert row[3].strip("`") == (json.dumps(default) if not isinstance(default, str) else default), keys[0]


def test_the_flags_of_the_keys_table_exist() -> None:
    flags = parsers.unlearn_parser().format_help()
    for row in rows_after("docs/lists.md", "| key | flag | meaning | default |"):
        for flag in re.findall(r"`(-[\w-]+)`", row[1]):
            assert re.search(rf"^ +(-\w+, )?{flag}\b", flags, re.MULTILINE), flag


def test_the_tables_of_extract_and_viz_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_after("docs/latent_space.md", "| command | what it draws | flags |")
    named = [row[0].strip("`") for row in rows]
    assert named == re.findall(r"^    (\w+)", parsers.viz_parser().format_help(), re.MULTILINE)
    for row in rows:
        with pytest.raises(SystemExit):
            entry.viz([row[0].strip("`"), "--help"])
        known = capsys.readouterr().out
        for flag in re.findall(r"`(--[\w-]+)", row[2]):
            assert flag in known, flag
    known = parsers.extract_parser().format_help()
    for row in rows_after("docs/latent_space.md", "| flag of `salun-extract` | meaning |"):
        for flag in re.findall(r"`(--?[\w-]+)", row[0]):
            assert flag in known, flag


def test_the_pictures_are_there() -> None:
    pictures = {name for text in PAGES.values() for name in re.findall(r"!\[[^\]]+\]\((?:docs/)?([^)]+)\)", text)}
    assert len(pictures) >= 8
    for name in pictures:
        assert (ROOT / "docs" / name).read_bytes()[:4] in (b"\x89PNG", b"GIF8", b"<?xm"), name
        assert (ROOT / "docs" / name).stat().st_size < 2**21, name


def test_the_example_list_is_valid() -> None:
    (code,) = blocks("docs/lists.md", "json")
    assert [entry.method for entry in validate(json.loads(code), "lists.md")] == ["retrain", "rl_split", "rl_split"]
