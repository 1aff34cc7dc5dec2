"""`hillstart.train` within the kernel of a notebook: its lines, its progress bar and the run that it returns."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

BAR = """
import time
from hillstart.system import console
console.PATIENCE_SECONDS = 0
bar = console.ProgressBar("training", 10)
bar.update(3)
time.sleep(0.3)
bar.update(5, "training, <b>")
"""
TRAIN = """
import hillstart
hillstart.train("report=false", "data.train=60", "data.test=20", hidden=[4], starts=2, max_epochs=2)
"""


def test_a_run_within_a_kernel(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (BAR, TRAIN)])
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    bar, training = (cell.outputs for cell in notebook.cells)
    assert bar[0].data["text/html"] == "<progress value=5 max=10></progress> training, &lt;b&gt;"
    said = "".join(output.get("text", "") for output in training)
    assert "chosen by val cost" in said and "Traceback" not in said
    assert "2 starts, best seed" in training[-1].data["text/html"]
    assert all(output.get("name") != "stderr" for output in training), training
