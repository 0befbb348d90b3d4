import io
import json
import re
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from salun.cli.listing import print_methods, print_metrics
from salun.cli.unlearn import main
from salun.metrics import METRICS, load_metrics
from salun.unlearning import METHODS, load_methods

ROOT = Path(__file__).resolve().parents[2]
PAGES = ModuleType("reference_page")
SourceFileLoader("reference_page", str(ROOT / "scripts/reference_page")).exec_module(PAGES)


def line_of(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.startswith((f"{name}:", f"{name} (")))


def test_every_metric_is_listed_with_what_it_is_direction_ideal_cost_and_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_metrics()
    assert main(["--list-metrics"]) == 0
    out = capsys.readouterr().out
    for name, found in METRICS.items():
        line = line_of(out, name)
        assert line.startswith(f"{name}: {found.summary}")
        assert f"Good: {found.direction}; ideal: {found.ideal}. Cost: {found.cost}." in line
        assert found.source in line
    assert "Unit: %." in line_of(out, "UA")
    assert "In: default attacks all." in line_of(out, "MIA")
    assert "In: no set." in line_of(out, "ZRF_original")


def test_every_method_is_listed_with_settings_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    load_methods()
    assert main(["--list-methods"]) == 0
    out = capsys.readouterr().out
    for name, found in METHODS.items():
        line = line_of(out, name)
        assert found.summary in line
        assert all(f"{key}={json.dumps(default)}" in line for key, (_, default) in found.settings.items())
        assert ("whole classes" if found.classwise else "any images") in line
        assert f"({found.alias})" in line or not found.alias
        assert found.source in line
        assert found.source


def test_of_what_is_named_everything_is_told_and_no_line_is_wider_than_the_terminal() -> None:
    load_metrics()
    load_methods()
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None, highlight=False)
    print_methods(console, ["rl_split", "not"])
    print_metrics(console, ["UA"])
    print_methods(console)
    print_metrics(console)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    text = re.sub(r"\s+", " ", out.getvalue())
    for found in (METHODS["rl_split"], METHODS["negate"]):
        assert f"Equation: {found.equation}".replace("`", "") in text.replace("`", "")
        assert f"Deviations: {found.deviations}" in text
        for key, (_, default) in found.settings.items():
            assert f"{key}, {json.dumps(default)}: {found.meanings[key]}".replace("`", "") in text
    assert f"Formula: {METRICS['UA'].formula}" in text
    assert f"Cannot see: {METRICS['UA'].blind}" in text


@pytest.mark.parametrize(
    ("flag", "name", "said"),
    [
        ("--list-methods", "rl_splitt", "salun-unlearn: method 'rl_splitt': unknown; did you mean 'rl_split'?"),
        ("--list-metrics", "UAA", "salun-unlearn: --list-metrics: metric 'UAA': unknown; did you mean 'UA'?"),
    ],
)
def test_what_is_not_there_is_one_line(flag: str, name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag, name]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()) == ("", [said])


@pytest.mark.parametrize(("name", "page"), [("metrics", PAGES.metrics_page), ("methods", PAGES.methods_page)])
def test_the_pages_are_what_the_code_says(name: str, page: Callable[[], str]) -> None:
    written = (ROOT / f"docs/{name}.md").read_text().splitlines()
    assert set(written) <= set(page().splitlines()), f"run scripts/{name}_page"
    assert len(written) > 300


def test_the_page_tells_formula_direction_ideal_cost_source_and_what_each_cannot_see() -> None:
    page = PAGES.metrics_page()
    for found in METRICS.values():
        block = page[page.index(f"### {', '.join(found.family)}\n") :].split("\n### ")[0]
        for fact in ("Formula", "Good", "Cost", "Cannot see", "Source"):
            text = block.split(f"**{fact}**: ")[1].splitlines()[0]
            assert len(text) > 3, (found.name, fact)
        assert found.ideal in block.replace("\\", "")


def test_the_page_tells_equation_settings_mask_classes_deviations_and_source_of_each_method() -> None:
    page = PAGES.methods_page().replace("\\", "")
    overview = page[page.index("| method |") : page.index("\n## ")].splitlines()
    for name, found in METHODS.items():
        line = next(line for line in overview if line.split()[1] == name)
        assert ("whole classes" in line) == found.classwise
        assert f"({found.alias})" in line or not found.alias
        block = page[page.index(f"\n## {name}") :].split("\n## ")[1]
        assert found.summary in block
        assert f"**Equation**: {found.equation}" in block
        assert f"**Deviations**: {found.deviations}" in block
        assert f"**Source**: {found.source}" in block
        assert f"**Mask**: {'yes' if found.maskable else 'no'}" in block
        assert f"**Forgets**: {'whole classes' if found.classwise else 'any images'}" in block
        for key, (_, default) in found.settings.items():
            line = next(line for line in block.splitlines() if line.startswith(f"    - `{key}`"))
            meaning = line.removeprefix(f"    - `{key}`, {json.dumps(default)}: ")
            assert len(meaning) > 3, (name, key)
            assert meaning != line, (name, key)
