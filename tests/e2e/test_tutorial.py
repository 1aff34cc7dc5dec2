"""docs/tutorial.ipynb runs from beginning to end, and says what it computes."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_tutorial_runs_and_prints_what_its_text_says(tmp_path: Path) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    stored = printed(notebook)
    for cell in notebook.cells:
        cell.get("outputs", []).clear()
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = printed(notebook)
    for text in (stored, said):
        assert "sum of products 1.28, z 2.28, a 0.907" in text
        assert "first outputs: ['0.82', '0.98']" in text
        assert "quadratic - outputs after 300 steps: ['0.09', '0.20']" in text  # Nielsen ch. 3
    shown = [output.get("data", {}) for output in outputs(notebook)]
    assert sum("image/png" in data for data in shown) == 7
    tables = "".join(data.get("text/html", "") for data in shown)
    assert "starts agree" in tables and "val_accuracy" in tables
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links and all((TUTORIAL.parent / link).is_file() for link in links)
    assert TUTORIAL.stat().st_size < 300_000
