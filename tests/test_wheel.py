"""The package as a user installs it: a wheel, built from the sources, in an environment that knows nothing of them."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
ALL = "import salun; print(salun.__file__); [getattr(salun, name) for name in salun.__all__]"


def run(*words: str | Path, **variables: str) -> str:
    """Run a program without this repository on its path, and give what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "salun", folder / "salun", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, "dist"], cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_the_wheel_alone_has_commands_and_lists(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", installed, wheel)
    assert {path.name for path in (installed / "bin").iterdir()} == set(COMMANDS)
    for command in COMMANDS:
        assert f"usage: {command}" in run(installed / "bin" / command, "--help", PYTHONPATH=str(installed))
    said = run(installed / "bin/salun-unlearn", "-L", "quickstart", "--dry-run", PYTHONPATH=str(installed))
    assert "retrain" in said
    lists = {path.name for path in (ROOT / "exp").glob("*.json")}
    assert {path.name for path in (installed / "salun/exp").iterdir()} == lists


@pytest.mark.slow
def test_it_installs_with_its_dependencies_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """With uv where there is one, which takes what it has downloaded before, else with pip: some minutes."""
    environment = tmp_path / "environment"
    programs = environment / "bin"
    run(sys.executable, "-m", "venv", environment)
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    pip = (
        [uv, "pip", "install", "--python", programs / "python"] if uv else [programs / "python", "-m", "pip", "install"]
    )
    run(*pip, "--quiet", wheel)
    assert run(programs / "python", "-c", ALL).startswith(str(environment))
    for command in COMMANDS:
        assert f"usage: {command}" in run(programs / command, "--help")
    assert "retrain" in run(programs / "salun-unlearn", "-L", "quickstart", "--dry-run")
    run(programs / "salun-train", "--dataset", "digits", "--epochs", "1", "-NL")
    assert Path("checkpoints/resnet_tiny_digits_base.pt").is_file()
