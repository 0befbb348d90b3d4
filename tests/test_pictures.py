"""Pictures and tables of README and docs go with one set of numbers, and what does not is named."""

import hashlib
import json
import shutil
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from records import runs, written

from salun.reports.labels import rows_of_records

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ModuleType("pictures")
vars(PICTURES)["__file__"] = str(ROOT / "scripts/pictures")
SourceFileLoader("pictures", str(ROOT / "scripts/pictures")).exec_module(PICTURES)
FOLDER = Path("docs/pictures")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A README with a table and a picture of the same records, as the command leaves them."""
    texts = written(
        rows_of_records([*runs(method="retrain"), *runs(method="rl_split", keep=0.2), *runs(1, method="ga")])
    )
    (tmp_path / FOLDER).mkdir(parents=True)
    numbers, picture = tmp_path / FOLDER / "quickstart.csv", tmp_path / FOLDER / "plane.png"
    numbers.write_text(texts["csv"])
    picture.write_bytes(b"picture")
    made = {"list": "quickstart", "numbers": PICTURES._digest(numbers), "picture": PICTURES._digest(picture)}
    (tmp_path / FOLDER / "made_from.json").write_text(json.dumps({"plane.png": made}))
    table = PICTURES._BLOCK.format("quickstart", f"\n{texts['md']}\n")
    (tmp_path / "README.md").write_text(f"# R\n\n{table}\n\n![P](docs/pictures/plane.png)\n")
    return tmp_path


def test_what_was_made_together_agrees(site: Path) -> None:
    assert PICTURES.disagreements(site) == []


def test_a_changed_cell_picture_or_number_is_named(site: Path) -> None:
    page, picture, numbers = site / "README.md", site / FOLDER / "plane.png", site / FOLDER / "quickstart.csv"
    text, csv = page.read_text(), numbers.read_text()
    (cell,) = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ga")]
    page.write_text(text.replace(f"| ga | {cell} |", "| ga | 1.56 |"))
    shown = cell.split(" ")[0]
    assert PICTURES.disagreements(site) == [f"README.md: ga, UA: 1.56 in the table, {shown} in quickstart.csv"]
    page.write_text(text)
    numbers.write_text(csv.replace("retrained", "others"))
    assert PICTURES.disagreements(site) == ["plane.png: was made of other numbers than those of quickstart.csv"]
    numbers.write_text(csv)
    picture.write_bytes(b"another")
    assert PICTURES.disagreements(site) == ["plane.png: is another picture than the one that was made"]
    shutil.copyfile(picture, picture.with_name("new.png"))
    page.write_text("![N](docs/pictures/new.png)")
    assert PICTURES.disagreements(site) == ["new.png: is not known to be made of any list's numbers"]


def test_a_table_of_some_metrics_is_that_of_the_numbers(site: Path) -> None:
    numbers, page = site / FOLDER / "quickstart.csv", site / "docs/some.md"
    table = PICTURES._table(numbers, ["UA", "gap"])
    assert table.splitlines()[3:5] == ["|  | UA % | gap % |", "| --- | ---: | ---: |"]
    page.write_text(PICTURES._COLUMNS.format("quickstart", "UA gap", table))
    assert PICTURES.disagreements(site) == []
    page.write_text(page.read_text().replace("| retrain |", "| retrained |"))
    assert PICTURES.disagreements(site) == ["some.md: its columns of quickstart are not those of quickstart.csv"]


def test_a_sample_output_is_what_its_command_printed(site: Path) -> None:
    command, page = "salun-unlearn --version", site / "docs/some.md"
    page.write_text(f"```bash\n{command}\n```\n\n```text\nsalun 0.0\n```\n")
    wrong = [f"some.md: is not known to be what is printed by {command}"]
    assert PICTURES.disagreements(site) == wrong
    printed = PICTURES._output_of(command, "")
    assert printed == f"salun-unlearn {version('salun')}\n"
    (site / PICTURES._OUTPUTS).write_text(json.dumps({command: hashlib.sha256(printed.encode()).hexdigest()}))
    assert PICTURES.disagreements(site) == wrong
    page.write_text(page.read_text().replace("salun 0.0\n", printed))
    assert PICTURES.disagreements(site) == []


def test_the_pictures_and_tables_of_readme_and_docs_agree() -> None:
    assert PICTURES.disagreements(ROOT) == [], "scripts/pictures makes them anew"
