"""Sections as one HTML file of text, pictures and scripts; it needs no connection and runs no script but its own.

Names that users gave, of classes and files, reach the page as text alone: the templates escape them, the data of the
scripts is JSON in which no tag can begin, and the page's policy lets no other script run than the one whose hash it
names, and workers that this script makes of its own functions.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from torch import Tensor

PARTS = Path(__file__).parent / "page"
THEME = Path(__file__).parent.parent / "theme.css"
CAMERA = Path(__file__).parent.parent / "camera.js"
MATHEMATICS = ("forward", "descent")
"""Scripts that compute, in the page and in its workers alike, in the order they are to run in."""
SHARED = ("arithmetic", "curve", "picture", "box", "diagram")
"""Other scripts that more than one section uses, in their order."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: its id, and in the folder `page` the name of its template, its script and its style (if it has these).
        title: the heading.
        look: one sentence that says what to look at.
        values: for the template, by their names.
        data: plain data for the script, without nan.
        story: for a reader who meets the subject here for the first time; stands before `look`. Empty in a report.
    """

    name: str
    title: str
    look: str
    values: Mapping[str, Any]
    data: Any = None
    story: str = ""


def floats(values: Tensor | np.ndarray) -> str:
    """Numbers for a script: base64 of float32, little end first; `hillstart.floats` reads them back."""
    return _encoded(values, "<f4")


def data_bytes(values: Tensor | np.ndarray) -> str:
    """Numbers from 0 to 255 for a script: base64; `hillstart.bytes` reads them back."""
    return _encoded(values, "u1")


def data_uri(content: bytes, kind: str) -> str:
    """A file within the page, to be shown as a picture: `kind` as in image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def render(sections: Sequence[Section], title: str, about: str = "", noun: str = "picture") -> str:
    """The whole page.

    Args:
        title: its heading.
        about: one line below it.
        noun: what the networks classify, for the templates: "picture" or "row".
    """
    templates = Environment(
        loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.globals["noun"] = noun
    names = [section.name for section in sections]
    mathematics = "\n".join(_isolated(_part(f"{name}.js")) for name in MATHEMATICS)
    scripts = [
        _part("page.js"),
        f"hillstart.mathematics = (hillstart) => {{\n{mathematics}\n}};\nhillstart.mathematics(hillstart);",
        f"hillstart.camera = (() => {{\n{CAMERA.read_text(encoding='utf-8')}\nreturn camera;\n}})();",
        *(_isolated(_part(f"{name}.js")) for name in (*SHARED, *names)),
        "hillstart.begin();",
    ]
    styles = [THEME.read_text(encoding="utf-8"), _part("page.css"), *(_part(f"{name}.css") for name in names)]
    script = "\n".join(scripts)
    return templates.get_template("page.html").render(
        title=title,
        about=about,
        sections=[
            (section, Markup(templates.get_template(f"{section.name}.html").render(section.values)))
            for section in sections
        ],
        data={
            section.name: htmlsafe_json_dumps(section.data, allow_nan=False, separators=(",", ":"))
            for section in sections
            if section.data is not None
        },
        style=Markup("\n".join(styles)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _encoded(values: Tensor | np.ndarray, kind: str) -> str:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def _part(name: str) -> str:
    path = PARTS / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _isolated(script: str) -> str:
    """Wrap a script in a function, so that its names are its own."""
    return f"(() => {{\n{script}\n}})();" if script else ""
