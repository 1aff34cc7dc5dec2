"""Static charts: Matplotlib's figures as SVG within the page, in the page's own font and colours, light and dark."""

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib cannot know the colours of the page: it draws with these, which are replaced afterwards.
INK, SOFT, LINE, CARD = "#010203", "#010204", "#010205", "#010206"
CHOSEN, OTHER, PLUS, MINUS = "#010207", "#010208", "#010209", "#01020a"
# The colour that replaces each in the page, and in a file of its own, which is drawn on white.
COLOURS = {
    INK: ("--ink", "#24211b"),
    SOFT: ("--soft", "#655e4d"),
    LINE: ("--line", "#ddd6c7"),
    CARD: ("--card", "#ffffff"),
    CHOSEN: ("--ball", "#d9660b"),
    OTHER: ("--strong", "#0d6b64"),
    PLUS: ("--plus", "#b4540a"),
    MINUS: ("--minus", "#1f62ad"),
}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.color": LINE,
    "ytick.labelcolor": SOFT,
    "hatch.linewidth": 0.8,
}
LEGEND: Any = {"frameon": False, "labelcolor": INK, "fontsize": 9}


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure in the page's style, with axes side by side; width and height in inches."""
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        return made, list(made.subplots(1, columns, squeeze=False)[0])


def svg(made: Figure, label: str) -> Markup:
    """The figure as an element of the page; `label` says in words what it shows, for those who cannot see it."""
    drawn = _drawn(made, label)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    for drawn_with, (variable, _) in COLOURS.items():
        drawn = drawn.replace(drawn_with, f"var({variable})")
    drawn = re.sub(r"font:([^;\"]*)'?sans-serif'?", r"font:\1inherit", drawn)
    return Markup(drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def alone(made: Figure) -> str:
    """The figure as a file of its own."""
    made.patch.set_facecolor(CARD)
    drawn = _drawn(made, "alone")
    for drawn_with, (_, colour) in COLOURS.items():
        drawn = drawn.replace(drawn_with, colour)
    return drawn


def _drawn(made: Figure, salt: str) -> str:
    text = io.StringIO()
    # Names of parts within a drawing are made from the salt, which must differ between the drawings of a page.
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        made.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
