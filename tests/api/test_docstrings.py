"""The public names: documented, with examples that run, and pages that work offline."""

import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag

import numpy
import pytest
from PIL import Image

import hillstart
from hillstart.data import lion_duck

TOP = Path(__file__).parents[2]


def test_public_names_are_typed_and_documented() -> None:
    for name in hillstart.__all__:
        found = getattr(hillstart, name)
        members = (
            [m for key, m in vars(found).items() if not key.startswith("_")] if inspect.isclass(found) else [found]
        )
        for member in members:
            member = getattr(member, "__func__", getattr(member, "func", getattr(member, "fget", member)))
            if inspect.isfunction(member) and member.__module__.startswith("hillstart"):
                assert member.__doc__, f"{name}: {member.__qualname__}"
                hints = member.__annotations__
                missing = set(inspect.signature(member).parameters) - {"self", "cls"} - set(hints)
                assert "return" in hints and not missing, f"{name}: {member.__qualname__}"
        assert ">>>" in (found.__doc__ or ""), f"{name} has no example"


def test_examples_print_what_is_shown(train: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = lion_duck._drawn  # all 6,000 drawings would take most of the time
    monkeypatch.setattr(lion_duck, "_drawn", lambda pairs, *of: drawn(min(pairs, 250), *of))
    folder = "outputs/2026-11-27/10-00-00"
    train(
        f"hydra.run.dir={folder}", "starts=4", "data.train=200", "data.test=40", "trainer.max_epochs=2", "report=false"
    )
    Image.fromarray(numpy.full((40, 30), 200, numpy.uint8)).save("lion.jpg")
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    globs = {name: getattr(hillstart, name) for name in hillstart.__all__}
    globs |= {"hillstart": hillstart, "numpy": numpy} | {name: __import__(name) for name in ("dataclasses", "torch")}
    wrong = list[str]()
    for name in hillstart.__all__:
        for example in finder.find(getattr(hillstart, name), name, globs=globs):
            runner.run(example, out=wrong.append)
    assert not wrong, "".join(wrong)
    assert runner.tries > 20


class Links(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.links, self.loaded, self.anchors = list[str](), list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {key: value or "" for key, value in attrs}
        self.anchors |= {of[key] for key in ("id", "name") if key in of}
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        elif "src" in of or tag == "link":
            self.loaded.append(of.get("src") or of.get("href", ""))


@pytest.mark.slow
def test_the_pages_are_whole_and_work_offline(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(TOP / "scripts/docs.py"), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "hillstart.html" in built.stdout and not built.stderr
    pages = {page.name: Links(page.read_text()) for page in tmp_path.glob("*.html")}
    for name, page in pages.items():
        assert all(re.match("data:|[^:]*$", source) for source in page.loaded), page.loaded
        for link in page.links:
            target, anchor = urldefrag(link)
            if "://" not in target:
                target = target.removeprefix("./") or name
                assert target in pages, link
                assert not anchor or anchor in pages[target].anchors, link
    text = (tmp_path / "hillstart.html").read_text()
    assert all(f'id="{name}"' in text for name in hillstart.__all__)
