"""Typed options are brought into the form that Hydra reads, or refused with that form."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hillstart.cli.help import page
from hillstart.cli.words import MEANT, quoted, readable
from hillstart.config.conf import groups, known_keys
from hillstart.system.errors import InputError

NAMES = ["Löwen", "日本", "photos (1)", "a=b", "photos[1]", "a{b}", "it's", "a#b", "2024", "true", "1e5", "\udcff"]


def value(override: str) -> object:
    read = OverridesParser.create().parse_override(override).value()
    return getattr(read, "text", read)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_needs_no_quotes(name: str) -> None:
    (option,) = readable([f"data.root={name}"])
    assert value(option) == name
    assert readable([option]) == [option]
    (classes,) = readable([f"data.classes=[{name},b]"]) if name != "photos[1]" else ("data.classes=['photos[1]',b]",)
    assert [str(getattr(v, "text", v)) for v in value(classes)] == [name, "b"]  # type: ignore[attr-defined]
    several = readable(["-m", f"data.root={name},b"])[1]
    assert [str(getattr(v, "text", v)) for v in value(several).list] == [name, "b"]  # type: ignore[attr-defined]


def test_what_hydra_reads_stays() -> None:
    typed = [
        "network.hidden=[30,10]",
        "seed=range(0,3)",
        "data.root=null",
        "descent.eta=0.1",
        "data.seed=${seed}",
        "~stop",
    ]
    assert readable(["-m", *typed]) == ["-m", *typed]
    assert readable(["data.root='2024'", "data.classes=null"]) == ["data.root='2024'", "data.classes=null"]


def test_a_folder_that_there_is_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x,y").mkdir()
    assert readable(["data.root=x,y"]) == ["data.root='x,y'"]
    assert readable(["data.root=y,z"]) == ["data.root=y,z"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert readable(["hydra.run.dir=~/x"]) == [f"hydra.run.dir={tmp_path}/x"]


@pytest.mark.parametrize("text", ["", "\\", "a\\", "a\\'b", "'", "\\\\'", "$x", "{[("])
def test_quotes_keep_a_text(text: str) -> None:
    assert value(f"x={quoted(text)}") == text


def test_options_of_hydra_may_stand_anywhere() -> None:
    assert readable(["seed=0,1", "-m", "starts=2"]) == ["-m", "seed=0,1", "starts=2"]
    assert readable(["seed=0", "--cfg", "job", "starts=2"]) == ["--cfg", "job", "seed=0", "starts=2"]
    assert readable(["-i", "defaults-tree", "seed=3"]) == ["-i", "defaults-tree", "seed=3"]


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("starts 3", "starts=3"),
        ("--start 3", "starts=3"),
        ("--lr=0.1", "descent.eta=0.1"),
        ("--max-epochs 5", "trainer.max_epochs=5"),
        ("lr 3", "descent.eta=3"),
    ],
)
def test_other_forms_are_answered_with_the_right_one(typed: str, form: str) -> None:
    with pytest.raises(InputError) as refused:
        readable(typed.split())
    assert str(refused.value).startswith(typed.split()[0].partition("=")[0]) and form in str(refused.value)


@pytest.mark.parametrize("option", ["=3", "network=null", "data=", "descent=[adam]", "logger={a:1}", "+=4", "Löwe=3"])
def test_what_names_nothing_is_refused(option: str) -> None:
    with pytest.raises(InputError, match=r"is not a choice|has no key|no such key"):
        readable(["starts=3", option])


def test_words_of_other_frameworks_mean_keys_that_there_are() -> None:
    assert {key for key in MEANT.values() if not key.startswith("hydra.")} <= set(known_keys())
    assert not set(MEANT) & set(known_keys())


def test_help_explains_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = page(["data=folder", "descent=adam"])
    for key in ("seed=0", "data.root=null", "descent.eta=0.001", "trainer.max_time=null", "network.hidden=[30]"):
        (line,) = (line for line in text.splitlines() if line.startswith(f"  {key} "))
        assert line.split(None, 1)[1].strip()
    assert groups() <= {line.partition("=")[0] for line in text.splitlines()}
    assert max(map(len, text.split("The keys")[1].partition("\n")[2].splitlines())) <= 80
