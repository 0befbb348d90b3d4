import json
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from salun.cli.unlearn import main
from salun.metrics import METRICS, load_metrics
from salun.unlearning import METHODS, load_methods

ROOT = Path(__file__).resolve().parents[2]
PAGES = ModuleType("reference_page")
SourceFileLoader("reference_page", str(ROOT / "scripts/reference_page")).exec_module(PAGES)


def words_of(out: str, name: str) -> list[str]:
    return next(line for line in out.splitlines() if line.split()[:1] == [name]).split()


def test_every_metric_is_listed_with_direction_ideal_cost_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    load_metrics()
    assert main(["--list-metrics"]) == 0
    out = capsys.readouterr().out
    for name, found in METRICS.items():
        line = " ".join(words_of(out, name))
        assert found.direction in line
        assert found.ideal in line
        assert found.cost in line
        assert " ".join(found.source.split()[:3]) in line
    assert words_of(out, "UA")[1] == "%"
    assert "default attacks all" in " ".join(words_of(out, "MIA"))
    assert not {"default", "attacks", "all"} & set(words_of(out, "ZRF_original")[:8])


def test_every_method_is_listed_with_settings_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    load_methods()
    assert main(["--list-methods"]) == 0
    out = capsys.readouterr().out
    for name, found in METHODS.items():
        line = " ".join(words_of(out, name))
        assert found.summary in line
        assert all(f"{key}={json.dumps(default)}" in line for key, (_, default) in found.settings.items())
        assert ("whole classes" if found.classwise else "any images") in line
        assert f"({found.alias})" in line or not found.alias
        assert " ".join(found.source.split()[:3]) in line
        assert found.source


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
