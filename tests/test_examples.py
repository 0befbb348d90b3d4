"""The notebooks run from top to bottom, in an empty folder, and show what they promise."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
SHOWN = {
    "own_model": ["avg_gap %", "Images(", "<table>"],
    "salun_mask": ["avg_gap %", "image/png"],
    "comparing_methods": ["retrain", "gap %", "image/png", "<table>"],
}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells), "outputs are not kept in the repository"
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = str([cell.get("outputs") for cell in book.cells])
    assert [text for text in SHOWN[path.stem] if text not in outputs] == []
