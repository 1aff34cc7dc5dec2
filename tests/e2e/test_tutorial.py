"""docs/tutorial.ipynb runs from beginning to end within a kernel, and says what it computes."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"
FEWER = """
from hillstart.data import lion_duck
drawn = lion_duck._drawn
lion_duck._drawn = lambda pairs, *of: drawn(min(pairs, 250), *of)
"""
"""Pictures, which the tutorial draws again for each training."""
SMALLER = {"starts=16, max_epochs=10": "starts=16, max_epochs=2", "starts=256, max_epochs=5": "starts=8, max_epochs=1"}
BAR = """
import time
from hillstart.system import console
console.PATIENCE_SECONDS = 0
bar = console.ProgressBar("training", 10)
bar.update(3)
time.sleep(0.3)
bar.update(5, "training, <b>")
run
"""


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_tutorial_runs_and_prints_what_its_text_says(tmp_path: Path) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    stored, trainings = outputs(notebook), []
    for cell in notebook.cells:
        cell.get("outputs", []).clear()
        for options, smaller in SMALLER.items():
            if options in cell.source:
                cell.source = cell.source.replace(options, smaller)
                trainings.append(cell)
    first, last = (nbformat.v4.new_code_cell(code) for code in (FEWER, BAR))
    notebook.cells = [first, *notebook.cells, last]
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for shown in (stored, outputs(notebook)):
        text = "".join(output.get("text", "") for output in shown)
        assert "sum of products 1.28, z 2.28, a 0.907" in text
        assert "first outputs: ['0.82', '0.98']" in text
        assert "quadratic - outputs after 300 steps: ['0.09', '0.20']" in text  # Nielsen ch. 3
        assert text.count("chosen by val cost") == 2
        data = [output.get("data", {}) for output in shown]
        assert sum("image/png" in of for of in data) == 7
        tables = "".join(of.get("text/html", "") for of in data)
        assert "starts agree" in tables and "val_accuracy" in tables
    assert len(trainings) == len(SMALLER)
    assert all(output.get("name") != "stderr" for cell in trainings for output in cell.outputs)
    bar, run = last.outputs
    assert "16 starts, best seed" in run.data["text/html"]
    assert bar.data["text/html"] == "<progress value=5 max=10></progress> training, &lt;b&gt;"


def test_its_links_lead_to_files_and_it_is_small() -> None:
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    text = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links and all((TUTORIAL.parent / link).is_file() for link in links)
    assert TUTORIAL.stat().st_size < 300_000
