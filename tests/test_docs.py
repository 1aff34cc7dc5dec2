"""What the documents say is so: their links, files, commands, numbers and examples."""

import json
import os
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

import hillstart
from forking import run_forked
from hillstart.cli import check_gradients, report
from hillstart.config.build import composed_options
from hillstart.config.conf import conf_folder
from hillstart.gradient_check import DIFFERENCE_TOLERANCE, TOLERANCE
from hillstart.network import ACTIVATIONS, COSTS, Network
from hillstart.system import interrupts
from launching import train_in
from made import rows

TOP = Path(__file__).parent.parent
DOCS = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
MATHEMATICS, EXTENDING, REFERENCE = (TOP / "docs" / f"{name}.md" for name in ("mathematics", "extending", "reference"))

FEW = ["data.train=200", "data.test=40", "trainer.max_epochs=3", "hydra.run.dir=run"]

NUMBER = r"-?\d+\.\d+"
every_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(TOP)))


def blocks(document: Path, *languages: str) -> list[str]:
    """The code blocks in these languages; "" is one without a name."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), flags=re.S | re.M)
    return [block for language, block in found if language in languages]


def section(document: Path, title: str) -> str:
    """The text below a heading, up to the next heading of its level."""
    return document.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def tables(text: str) -> list[list[list[str]]]:
    """Each table as rows of cells, without its heading."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in t.splitlines()[2:]] for t in found]


def names(rows: list[list[str]]) -> set[str]:
    """The words in backticks in the first column of a table."""
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


def files(document: Path) -> dict[str, str]:
    """Blocks that are a file: their first line says which."""
    found = blocks(document, "python", "yaml", "html")
    named = [re.match(r"(?:#|<!--) ([\w/]+\.(?:py|yaml|html))\b.*\n", block) for block in found]
    return {name[1]: name.string for name in named if name}


def is_rounded(text: str, value: float) -> bool:
    """Whether a number as it is written is this one, rounded to as many digits."""
    return f"{value:.{len(text.partition('.')[2])}f}" == text


# ---------------------------------------------------------------- links, files, commands


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()) if "://" not in link]

    def leads(link: str) -> bool:
        target, _, heading = link.partition("#")
        path = document.parent / target if target else document
        return path.exists() and (not heading or heading in headings(path))

    assert not [link for link in links if not leads(link)], f"{document.name} links to what is not there"


def headings(document: Path) -> list[str]:
    """The anchors that GitHub gives to the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_index_names_every_document() -> None:
    index = TOP / "docs" / "README.md"
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", index.read_text())}
    there = {path.name for path in index.parent.iterdir() if path.suffix in (".md", ".ipynb", ".html")}
    assert linked == {*there - {index.name}, "../README.md"}


@every_document
def test_files_that_are_named_exist(document: Path) -> None:
    """By their path, or by its end where one such file is enough to find it."""
    folders = ("benchmarks", "conf", "docs", "scripts", "src", "tests")
    there = [*TOP.iterdir(), *(path for folder in folders for path in (TOP / folder).rglob("*"))]
    known = {f"/{path.relative_to(TOP).as_posix()}" for path in there} | {f"/{name}" for name in files(EXTENDING)}
    text = re.sub(r"\w+://[^\s)]+", "", document.read_text())
    named = set(re.findall(r"(?<![\w./-])[\w-][\w./-]*\.(?:py|yaml|js|md|toml)\b", text))
    below = rf"(?<![\w./-])(?:{'|'.join(folders)})/(?:[\w-]+/)*"
    named |= {folder.rstrip("/") for folder in re.findall(below, text)}
    named -= {"multirun.yaml"}  # Hydra's
    missing = [name for name in sorted(named) if not any(path.endswith(f"/{name}") for path in known)]
    assert not missing, f"{document.name} names what is not there"


def trainings() -> list[tuple[str, str]]:
    """(document, options) of each training in a code block of docs/; test_readme.py has those of the README."""
    command = re.compile(r"(?:python|torchrun .*|srun .* python) scripts/train\.py (.*)")
    return [(document, found[1]) for document, line in shown() if (found := command.match(line))]


def shown() -> Iterator[tuple[str, str]]:
    """(document, line) of each line to type in docs/."""
    for document in DOCS[1:]:
        for block in blocks(document, "", "sh", "text"):
            yield from ((document.name, line) for line in block.splitlines())


@pytest.mark.parametrize(("document", "command"), trainings(), ids=lambda value: value.partition("#")[0].strip())
def test_options_of_shown_trainings_are_accepted(document: str, command: str) -> None:
    options = []
    for word in shlex.split(command, comments=True):
        if word == "-m" or word.startswith(("hydra", "resume=", "start_from=")):
            continue
        override = OverridesParser.create().parse_override(word)
        if override.is_interval_sweep():
            word = f"{override.key_or_group}={override.value().start}"
        elif override.is_sweep_override():
            word = f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        options.append(word)
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed_options(hydra.compose("train", options))


OTHERS = [
    (document, *found.groups())
    for document, line in shown()
    if (found := re.search(r"python scripts/(?!train)(\w+)\.py\b(.*)", line))
]


@pytest.mark.parametrize(("document", "script", "words"), OTHERS)
def test_arguments_of_other_commands_are_accepted(document: str, script: str, words: str) -> None:
    import_module(f"hillstart.cli.{script}").parser().parse_intermixed_args(shlex.split(words, comments=True))


# ---------------------------------------------------------------- mathematics.md


def neuron() -> tuple[Network, torch.Tensor, torch.Tensor]:
    w = torch.tensor([2.0, 0.2, 1.0], dtype=torch.float64).view(1, 3, 1)
    x = torch.tensor([[0.5, 0.9, 0.1]], dtype=torch.float64)
    return Network([w], [torch.ones(1, 1, dtype=torch.float64)]), x, torch.ones(1, 1, dtype=torch.float64)


def state_of(net: Network, x: torch.Tensor, y: torch.Tensor) -> dict[str, list[float]]:
    return {
        "w": net.w[0].flatten().tolist(),
        "b": net.b[0].flatten().tolist(),
        "z": net.outputs(x).flatten().tolist(),
        "a": net.forward(x)[1].flatten().tolist(),
        "C": net.evaluate(x, y)[0].flatten().tolist(),
    }


def test_the_neuron_is_as_computed() -> None:
    net, x, y = neuron()
    text, before = section(MATHEMATICS, "One neuron"), state_of(net, x, y)
    (a,) = before["a"]
    nabla_w, nabla_b = net.gradient(x, y)
    first = {
        **{name: before[name] for name in "zaC"},
        "sum": [before["z"][0] - 1],
        "slope": [a * (1 - a)],
        "delta": nabla_b[0].flatten().tolist(),
        "dC/db": nabla_b[0].flatten().tolist(),
        "dC/dw": nabla_w[0].flatten().tolist(),
    }
    net.descend(x, y, eta=3.0)
    after = state_of(net, x, y)
    *single, (step) = tables(text)
    rows = [(row[0], row[-1], first[row[0]]) for table in single for row in table]
    rows += [
        (row[0], cell, state[row[0]]) for row in step for cell, state in zip(row[1:], (before, after), strict=True)
    ]
    assert {name for name, _, _ in rows} == {*first, *after}
    for name, cell, values in rows:
        written = re.findall(r"-?\d+(?:\.\d+)?", cell)
        assert len(written) == len(values), name
        for number, value in zip(written, values, strict=True):
            assert is_rounded(number, value), f"{name}: {number} is written, {value} was computed"
    known = [*x.flatten().tolist(), 3.0, *(v for found in (first, before, after) for of in found.values() for v in of)]
    wrong = [n for n in re.findall(NUMBER, text) if not any(is_rounded(n, value) for value in known)]
    assert not wrong, "numbers of the neuron that nothing computes"


def test_saturation_is_as_computed() -> None:
    text = section(MATHEMATICS, "Costs")
    _, rows = tables(text)
    y = torch.zeros(1, 1, 1, dtype=torch.float64)
    for row in rows:
        a = torch.sigmoid(torch.tensor(float(row[0]), dtype=torch.float64)).view(1, 1, 1)
        values = [a, *(COSTS[cost].delta(a, y) for cost in ("quadratic", "cross_entropy"))]
        for number, value in zip(row[1:], values, strict=True):
            assert is_rounded(number, value.item()), f"z = {row[0]}: {number}"
    times = round((values[2] / values[1]).item(), -3)
    assert re.findall(r"(\S+) times more slowly", text) == [f"{times:,.0f}"]


def test_the_four_equations_are_lines_of_the_theory() -> None:
    lines = [line.strip() for line in (TOP / "src/hillstart/network.py").read_text().splitlines()]
    (rows,) = tables(section(MATHEMATICS, "Backpropagation"))
    assert [row[0] for row in rows] == ["BP1", "BP2", "BP3", "BP4"]
    for name, _, code in rows:
        assert any(line.partition("  #")[0] == code.strip("`") and name in line for line in lines), f"{name}: {code}"


def test_the_gradient_check_prints_what_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check_gradients.py", "data.train=200", "data.test=2"])
    check_gradients.main()
    (shown,) = (block for block in blocks(MATHEMATICS, "text") if "autograd" in block)
    printed = capsys.readouterr().out.replace("│", " ")
    assert shown.splitlines()[0] in printed
    found, expected = (re.findall(r"^ *(\d) +([wb])" + r" +(\S+)" * 3 + " *$", t, flags=re.M) for t in (printed, shown))
    assert [row[:2] for row in expected] == [row[:2] for row in found]
    assert len(expected) == 4
    for row, of_few in zip(expected, found, strict=True):
        assert float(row[2]) == pytest.approx(float(of_few[2]), rel=0.5)  # here of fewer pictures
        # the rest is rounding, on the processor that it was measured on
        assert float(row[3]) < TOLERANCE
        assert float(row[4]) < DIFFERENCE_TOLERANCE


# ---------------------------------------------------------------- examples


def write_files(folder: Path) -> None:
    """Write the files of extending.md."""
    for name, content in files(EXTENDING).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.fixture
def example(tmp_path: Path, empty_folder: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with the files that extending.md tells to write; new names are forgotten after it."""
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    known = [(table, dict(table)) for table in (ACTIVATIONS, COSTS)]
    yield tmp_path
    for table, content in known:
        table.clear()
        table.update(content)
    for name in {path.stem for path in tmp_path.glob("*.py")} - before:
        sys.modules.pop(name, None)


@every_document
def test_python_runs_and_prints_what_is_said(document: Path, example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks in docs/ follow one upon the other; a comment behind `print(...)` is what it prints."""
    if document.parent == TOP or document.name == "deployment.md":
        pytest.skip("begins with a run or an exported file of the reader's; e2e/ and inference/test_export.py run it")
    namespace: dict[str, object] = {"__name__": document.stem}
    for block in blocks(document, "python"):
        if block not in files(document).values():
            exec(compile(block, document.name, "exec"), namespace)
            expected = re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.M)
            assert capsys.readouterr().out.splitlines() == expected


def test_the_new_gradients_are_autograds(example: Path) -> None:
    runpy.run_path("check_mine.py", run_name="__main__")


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ("lambda e, a: e", "Check"),
        ("lambda a, y: (a - y).sign()", "Check"),
        ("lambda a: (1 - a.abs()).square()", "not close"),
    ],
)
def test_the_check_of_new_gradients_notices_a_wrong_one(right: str, said: str, example: Path) -> None:
    mine = Path("mine.py").read_text()
    assert mine.count(right) == 1
    Path("mine.py").write_text(mine.replace(right, f"{right} * 1.001"))
    with pytest.raises(AssertionError, match=said):
        runpy.run_path("check_mine.py", run_name="__main__")


def lines_to_type(word: str) -> list[list[str]]:
    """Commands of extending.md that hold this word, without the environment that they set."""
    lines = [line for block in blocks(EXTENDING, "sh") for line in block.splitlines() if word in line]
    assert lines
    return [[part for part in shlex.split(line) if part != "PYTHONPATH=."] for line in lines]


def test_new_names_are_trained_stored_and_loaded(
    example: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (command,) = lines_to_type("train_mine.py")

    def run(words: list[str]) -> None:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [*words, *FEW])
        runpy.run_path(words[0], run_name="__main__")

    with pytest.raises(SystemExit, match="1"):
        run([part for part in command[1:] if part != "report=false"])
    assert "network.activation=softsign: the page can show sigmoid, tanh, relu only" in capfd.readouterr().err
    assert not Path("run/starts.csv").exists()
    run(command[1:])
    del ACTIVATIONS["softsign"], COSTS["absolute"]
    with pytest.raises(hillstart.InputError, match="activation is not one of sigmoid, tanh, relu"):
        hillstart.load("run")
    runpy.run_path("mine.py")
    network = hillstart.load("run").network
    assert (network.activation, network.cost, network.starts) == ("softsign", "absolute", 4)


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(example: Path) -> Train:
    """Trains in this process, and returns the summary of the folder `run`."""

    def train(*options: str) -> dict[str, Any]:
        GlobalHydra.instance().clear()
        train_in(example, *options)
        summary: dict[str, Any] = json.loads(Path("run/summary.json").read_text())
        return summary

    return train


def test_a_new_step_is_checked_trained_with_and_named_again(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    runpy.run_path("check_clipped.py", run_name="__main__")
    command, resumed, page = ([*line[2:]] for line in lines_to_type("clipped.ClippedDescent"))
    command.append("descent.schedule=constant")  # a linear one would end later in a longer training
    command += [*FEW, "report=false"]
    summary = train(*command)
    assert (summary["finished"], summary["epochs"]) == (4, 3)
    resumed, page = ([part.replace("RUN", "run") for part in of] for of in (resumed, page))
    with pytest.raises(SystemExit, match=r"which conf does not know.*descent\._target_=clipped\.ClippedDescent"):
        train(*[part for part in resumed if "clipped" not in part])
    train(*command, "trainer.max_epochs=4", "hydra.run.dir=whole")
    assert train(*resumed)["epochs"] == 4
    assert Path("run/starts.csv").read_text() == Path("whole/starts.csv").read_text()
    check_report_needs(page, monkeypatch)
    seed = hillstart.open_run("run").summary["best_seed"]
    with pytest.raises(hillstart.InputError, match=r"clipped\.ClippedDescent', which conf does not know"):
        hillstart.open_run("run").initial(seed)
    assert hillstart.open_run("run", page[1]).initial(seed).starts == 1


def check_report_needs(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is written by the command if it names the run's own code, and only then."""
    path = Path(words[0], "report.html")
    path.unlink(missing_ok=True)
    key, _, target = words[1].partition("=")
    for wrong, said in (
        ([], rf"{re.escape(key)} is {target!r}, which conf does not know"),
        ([f"{key}=os.system"], f"used {target}; name"),
        (["trainer.max_epochs=3"], "a finished run keeps its options"),
    ):
        monkeypatch.setattr(sys, "argv", ["report.py", words[0], *wrong])
        with pytest.raises(SystemExit, match=said):
            report.main()
    assert not path.exists()
    monkeypatch.setattr(sys, "argv", ["report.py", "--patience", "0", *words])
    report.main()
    assert path.is_file()


def test_a_new_schedule_is_followed(train: Train) -> None:
    (command,) = lines_to_type("final.FinalDrop")
    train(*command[2:], *FEW)
    assert "eta final drop, last=0.5" in Path("run/report.html").read_text()
    with pytest.raises(SystemExit, match=r"descent\.last is 2"):
        train(*command[2:], *FEW, "descent.last=2", "hydra.run.dir=refused")
    train("starts=4", *FEW, "descent.schedule=constant", "report=false", "hydra.run.dir=constant")
    tables = [Path(name, "history.csv").read_text().splitlines() for name in ("run", "constant")]
    assert tables[0][:5] == tables[1][:5] and tables[0] != tables[1]


def test_a_new_stop_rule_ends_starts_and_its_option_is_checked(train: Train) -> None:
    (command,) = lines_to_type("target.TargetReached")
    summary = train(*command[2:], *FEW, "report=false")
    again = train("resume=run", "stop._target_=target.TargetReached", "trainer.max_epochs=4", "report=false")
    run = hillstart.open_run("run")
    reached = run.history.groupby("seed")["val_accuracy"].max() >= 0.6
    assert (run.starts.set_index("seed")["status"] == "stopped").sort_index().equals(reached.sort_index())
    assert sum(reached) == again["stopped"]
    assert summary["stopped"] + summary["finished"] == 4 and summary["stopped"] > 0
    with pytest.raises(SystemExit, match=r"stop\.accuracy is 2"):
        train(*command[2:], *FEW, "report=false", "stop.accuracy=2", "hydra.run.dir=refused")


def test_a_callback_is_called_after_each_epoch(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = lines_to_type("telling.Tell")
    train(*command[2:], *FEW, "report=false")
    assert len(re.findall(r"^median val cost \d\.\d\d$", capsys.readouterr().out, re.M)) == 3


def test_a_new_data_set_is_trained_on(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, sweep = ([*command[2:]] for command in lines_to_type("data=bars"))
    summary = train(*run, "report=false", "hydra.run.dir=run")
    assert summary["classes"] == ["upright", "lying"]
    assert sum(summary["pictures"].values()) == 2000
    assert summary["val_accuracy_of_starts"]["median"] > 0.7
    check_report_needs(["run", "data._target_=bars.load"], monkeypatch)
    (path,) = [option for option in run if option.startswith("hydra.searchpath")]
    assert train(path, "resume=run", "trainer.max_epochs=4", "report=false")["epochs"] == 4
    capsys.readouterr()
    train(*sweep, "trainer.max_epochs=2", "hydra.sweep.dir=sweep")
    assert json.loads(Path("sweep/summary.json").read_text())["starts"] == 4
    assert "the page is left out: " in "".join(capsys.readouterr())


# ---------------------------------------------------------------- reference.md


def test_the_reference_lists_what_a_run_leaves(train: Train) -> None:
    grid = [f"descent.{key}=[0.1,0.2]" for key in ("eta", "momentum", "lmbda")]
    summary = train(*FEW, *grid, "starts=2", "test=all", "report=false")
    found, starts, history, keys = map(names, tables(section(REFERENCE, "Files of a run")))
    assert_files(Path("run"), found - {"report.html"})
    assert set(rows(Path("run/starts.csv"))[0]) == starts
    assert set(rows(Path("run/history.csv"))[0]) == history
    assert {*summary, "start_from"} == keys
    train("-m", *FEW[:-1], "seed=0,1", "test=all", "report=false", "hydra.sweep.dir=sweep")
    _, of_root = map(names, tables(section(REFERENCE, "Files of a multirun")))
    assert set(json.loads(Path("sweep/summary.json").read_text())) == of_root
    assert Path("sweep/starts.csv").read_text().startswith("job,")
    assert_files(Path("sweep/0"), {name for name in found if "checkpoints" not in name} - {"report.html"})


def assert_files(folder: Path, patterns: set[str]) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not {name for name in there if not any(fnmatch(name, pattern) for pattern in patterns)}
    assert not {pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in there)}


def test_the_reference_lists_every_command() -> None:
    installed = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    (commands, _) = tables(section(REFERENCE, "Commands and exit codes"))
    assert names(commands) == {path.name for path in (TOP / "scripts").glob("*.py")}
    assert {row[1].strip("`") for row in commands} == {*installed, ""}


def test_the_reference_lists_every_public_name() -> None:
    (known,) = tables(section(REFERENCE, "Python interface"))
    assert names(known) == {*hillstart.__all__}
    for name, _, offers in known:
        kind = getattr(hillstart, name.strip("`"))
        assert set(re.findall(r"`(\w+)`", offers)) <= {*dir(kind), *getattr(kind, "__annotations__", ())}, name


def test_the_reference_lists_every_environment_variable() -> None:
    lines = [line for path in (TOP / "src").rglob("*.py") for line in path.read_text().splitlines()]
    read = {name for line in lines if "os.environ" in line for name in re.findall(r'"([A-Z_]{3,})"', line)}
    (known,) = tables(section(REFERENCE, "Environment variables"))
    assert names(known) == read | {*interrupts.RANKS}


# ---------------------------------------------------------------- changes to hillstart


def apply(diff: str, top: Path) -> None:
    """Apply a diff without line numbers: each hunk must fit in exactly one place."""
    header, _, body = diff.partition("\n")
    path = top / header.removeprefix("--- ")
    text = path.read_text()
    for hunk in re.split(r"^@@\n", body, flags=re.M):
        old, new = ("".join(re.findall(rf"^[ {sign}](.*\n)", hunk, flags=re.M)) for sign in "-+")
        assert text.count(old.removesuffix("\n")) == 1, f"{header}: this change does not fit: {hunk}"
        text = text.replace(old.removesuffix("\n"), new.removesuffix("\n"))
    path.write_text(text)


@pytest.mark.slow
def test_a_hyperparameter_a_column_and_a_section_are_added_to_a_copy(tmp_path: Path) -> None:
    for name in ("src", "conf", "scripts"):
        shutil.copytree(TOP / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_files(tmp_path)
    for diff in blocks(EXTENDING, "diff"):
        apply(diff, tmp_path)
    (command,) = lines_to_type("decay.DecayDescent")
    path = f"{tmp_path / 'src'}:{tmp_path}"
    run = [sys.executable, *command[1:], *FEW]
    done = run_forked(run, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    starts = rows(tmp_path / "run/starts.csv")
    assert sorted(row["decay"] for row in starts) == ["0.0"] * 4 + ["0.01"] * 4
    assert len({row["train_cost"] for row in starts}) == 8
    of_best = [row for row in rows(tmp_path / "run/history.csv") if row["start"] == starts[0]["start"]]
    assert of_best[0]["val_accuracy"] == starts[0]["first_accuracy"]
    assert '<section id="ends"' in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("title", re.findall(r"^## (.*)$", EXTENDING.read_text(), flags=re.M))
def test_each_recipe_touches_at_most_three_files(title: str) -> None:
    text = section(EXTENDING, title)
    written = [name for name, content in files(EXTENDING).items() if content in text]
    assert len({*written, *re.findall(r"^--- (\S+)$", text, flags=re.M)}) <= 3


def test_all_who_ask_for_a_name_are_listed() -> None:
    source = TOP / "src" / "hillstart"
    asking = re.compile(r"""["'](tanh|log_likelihood)["']|\b(tanh|log_likelihood): """)
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.suffix in (".py", ".js", ".html") and asking.search(path.read_text())
    }
    (rows,) = tables(section(EXTENDING, "A cost"))
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert {Path(name).name for name in listed} == {Path(name).name for name in found - {"network.py"}}, (
        "docs/extending.md does not list all who ask for a name"
    )
