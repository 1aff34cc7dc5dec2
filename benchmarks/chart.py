"""The chart of docs/speed.svg, from the file that `scripts/bench.py --only speed --json FILE` has written:
`python -m benchmarks.chart FILE > docs/speed.svg`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hillstart.report.charts import INK, LINE, OTHER, SOFT, alone, figure

NAMES = {
    "hillstart": "hillstart",
    "torch-vmap-compiled": "torch.compile of vmap",
    "jax-vmap": "JAX, vmap and scan",
    "torch-vmap": "torch.func.vmap",
    "scikit-learn": "scikit-learn, one start",
    "torch-autograd": "PyTorch autograd, one start",
    "lightning": "Lightning, one start",
}
"""The contestants that are shown, hillstart first."""


def chart(bench: dict[str, Any]) -> Figure:
    """A bar for each contestant and mini-batch size, labelled with how many times faster hillstart is.

    A bar is a median; a line on it leads from the slowest repeat to the fastest.

    Args:
        bench: the content of the file; its first network is shown.
    """
    sizes = bench["rows"][0]["sizes"]
    rates = {(row["batch"], row["contestant"]): row for row in bench["rows"] if row["sizes"] == sizes}
    batches = list(dict.fromkeys(batch for batch, _ in rates))
    made, panels = figure(9, 3, len(batches))
    for axes, batch in zip(panels, batches, strict=True):
        rows = [rates[batch, name] for name in NAMES]
        widths = [row["net_samples_per_second"] for row in rows]
        axes.barh(list(NAMES.values()), widths, color=[OTHER, *[LINE] * (len(widths) - 1)])
        axes.hlines(range(len(rows)), [row["low"] for row in rows], [row["high"] for row in rows], color=SOFT, lw=1)
        widest = max(row["high"] for row in rows)
        for y, (row, width) in enumerate(zip(rows, widths, strict=True)):
            times = widths[0] / width
            text = f"{times:.{0 if times >= 10 else 1}f} x" if y else f"{width / 1e6:.2f} million"
            axes.text(row["high"] + widest / 40, y, text, va="center", color=SOFT if y else INK)
        axes.set_title(f"mini-batches of {batch}", loc="left", color=SOFT)
        axes.set(xlim=(0, 1.5 * widest), xticks=[])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelcolor=INK, labelleft=axes is panels[0])
        axes.invert_yaxis()
    about = f"{sizes}; {bench['machine']}, torch {bench['versions']['torch']}"
    told = "starts x pictures a second, median and range, and how many times as fast hillstart is"
    made.supxlabel(f"{told}; {about}", color=SOFT, size=9)
    return made


if __name__ == "__main__":
    print(alone(chart(json.loads(Path(sys.argv[1]).read_text()))), end="")
