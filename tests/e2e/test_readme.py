"""The README is taken at its word: every command is run as it stands there, every option and name in it is one.

What the commands name lies in a folder made here, by the README's own names: PHOTOS holds pictures, outputs/DATE/TIME,
RUN_A and RUN_B are runs. Nothing is put in their place but what SMALLER says; what else keeps a training short stands
behind the README's options (`small`).
"""

import json
import math
import os
import pydoc
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from forking import ForkedPopen
from hillstart.config.build import composed_options
from hillstart.config.conf import conf_folder
from hillstart.data import lion_duck
from launching import BOUND, alone
from made import rows

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text()
FENCED = re.compile(r"^```(.*)\n((?s:.*?))^```$", re.MULTILINE)
BLOCKS = FENCED.findall(README)
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", README))]
SHOWN = "rank  seed"
"""How the one block begins that is no commands, but what `make train` prints."""
COMMANDS = [
    line
    for kind, block in BLOCKS
    if not kind and not block.startswith(SHOWN)
    for line in block.splitlines()
    if line.strip()
]
RUN = "outputs/DATE/TIME"
TINY = ["data.train=40", "data.test=20", "data.size=8"]
TINY_NETWORK = ["network.hidden=[3]", "data.augment=none"]
SMALLER = {"seed=range(0,1000)": "seed=range(0,10)"}
"""A thousand jobs and their folders take half a minute, twice."""
PROSE = {"source .venv/bin/activate"}
"""In backticks, but neither a command of ours, nor a file, nor a module."""
NEEDS = {
    "--to onnx": "onnxscript",
    "scripts/serve.py": "uvicorn",
}
"""Packages of the extras."""


class Done(NamedTuple):
    """A command that has ended, in a folder of its own."""

    words: list[str]
    folder: Path
    code: int
    out: str
    err: str

    @property
    def options(self) -> dict[str, str]:
        return options_of(self.words)


def options_of(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def small(words: list[str]) -> list[str]:
    """Options that shorten a training and leave alone what its command says."""
    given = options_of(words)
    if "resume" in given:
        return ["trainer.max_epochs=3"]
    added = [f"trainer.max_epochs={int(given.get('stop.patience', 0)) + 2}"]
    if "experiment" not in given:
        added += TINY
        added += [option for option in TINY_NETWORK if option.split("=")[0] not in given]
    if "stop.patience" in given:
        added += ["descent.eta=3"]  # so that some costs rise
    return added if "-m" in words else [*added, "report=false"]


def run(words: list[str], folder: Path, *more: list[str]) -> Done:
    """A command as typed into a shell with .venv activated, and others beside it, of which only the errors count."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    where: Any = {"cwd": folder, "env": alone() | {"PATH": path, "PWD": str(folder)}, "text": True}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    started = [
        ForkedPopen([sys.executable, *rest], **where, **pipes)
        if program == "python"
        else subprocess.Popen([program, *rest], **where, **pipes)
        for program, *rest in (words, *more)
    ]
    try:
        said = "" if "scripts/serve.py" not in words else asked(started[0], folder / "my.jpg")
        ended = [process.communicate(timeout=BOUND) for process in started]
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    code = next((process.returncode for process in started if process.returncode), 0)
    return Done(words, folder, code, said + ended[0][0], "".join(err for _, err in ended))


def asked(server: subprocess.Popen[str] | ForkedPopen, picture: Path) -> str:
    """What a server, once it listens, answers to a picture, and that it has a page; then Ctrl-C."""
    assert server.stdout
    line = server.stdout.readline()
    address = re.match(r"http://127\.0\.0\.1:(\d+) ", line)
    if not address:
        return line
    client = HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
    client.request("POST", "/predict", picture.read_bytes())
    answer = client.getresponse().read().decode()
    client.request("GET", "/")
    page = client.getresponse().read().decode()
    client.close()
    server.send_signal(signal.SIGINT)
    return f"{answer}\n{page}"


def run_line(line: str, folder: Path) -> Done:
    words = [SMALLER.get(word, word) for word in shlex.split(line, comments=True)]
    if "scripts/train.py" in words:
        words += small(words)
    if "scripts/serve.py" in words:
        words += ["--port", "0"]
    return run(words, folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "scripts").symlink_to(TOP / "scripts")
    drawn = lion_duck.load(train=80, test=6)
    for i, (x, y) in enumerate(zip(drawn.train.x, drawn.train.y, strict=True)):
        save(x, folder / f"PHOTOS/{drawn.classes[y]}/{i}.jpg")
    names = ["my.jpg", "lion.jpg", "duck.png", "photos/1.jpg", "x/2.jpg", "x/y/3.jpg"]
    for x, name in zip(drawn.test.x, names, strict=True):
        save(x, folder / name)
    train = ["python", "scripts/train.py", *TINY, *TINY_NETWORK, "trainer.accelerator=cpu", "trainer.max_epochs=2"]
    one = [*train, "descent.schedule=constant", f"hydra.run.dir={RUN}"]  # constant: can be resumed for more epochs
    ran = run(one, folder, [*train, "seed=50", "hydra.run.dir=RUN_B", "report=false"])
    assert ran.code == 0, ran.err
    (folder / "said").write_text(ran.out)
    shutil.copytree(folder / RUN, folder / "RUN_A")
    return folder


def save(picture: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture[0].numpy()).resize((48, 40)).save(path)


@pytest.fixture(scope="module")
def done(
    place: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Done]]:
    """The end of each command that this session tests; two run at a time, each in its own copy of `place`."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    lines = [item.callspec.params["line"] for item in items if item.function is test_a_command]

    def copied(line: str) -> Done:
        folder = tmp_path_factory.mktemp("copy") / "here"
        return run_line(line, shutil.copytree(place, folder, symlinks=True))

    with ThreadPoolExecutor(2) as pool:
        ends = {line: pool.submit(copied, line) for line in lines if runs(line)}
        yield lambda line: ends[line].result()
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------- what each command must leave behind


def new_run(done: Done) -> Path:
    """The folder of the run that a command says it has left."""
    (said,) = re.findall(r"results(?: of all jobs)? in (\S+)$", done.out, re.MULTILINE)
    return done.folder / said


def trained(done: Done) -> None:
    options, run = done.options, new_run(done)
    summary, starts, history = (
        json.loads((run / "summary.json").read_text()),
        rows(run / "starts.csv"),
        rows(run / "history.csv"),
    )
    if "resume" in options:
        assert run == done.folder / options["resume"]
        assert Counter(row["epoch"] for row in history) == {"1": 16, "2": 16, "3": 16}
        return
    assert re.fullmatch(r"outputs/[\d-]+/[\d-]+", str(run.relative_to(done.folder)))
    grid = [options.get(f"descent.{key}", "1") for key in ("eta", "momentum", "lmbda")]
    number = int(options.get("starts", 16)) * math.prod(len(yaml.safe_load(v)) for v in grid if v.startswith("["))
    assert len(starts) == summary["starts"] == number
    assert min(int(row["seed"]) for row in starts) == int(options.get("seed", 0))
    if "stop.patience" in options:
        assert 0 < summary["stopped"] < number


def swept(done: Done) -> None:
    """Each job has its folder and the root a table and a page."""
    root, starts = new_run(done), int(done.options.get("starts", 1))
    swept = OverridesParser.create().parse_overrides([word for word in done.words if "=" in word])
    number = math.prod(len([*o.sweep_iterator()]) for o in swept if o.is_sweep_override())
    assert number > 1
    assert len([*root.glob("*/summary.json")]) == len([*root.glob("*/train.log")]) == number
    assert len(rows(root / "starts.csv")) == number * starts
    assert (root / "report.html").is_file()


def compared(done: Done) -> None:
    assert "B: RUN_B" in done.out
    assert "95% interval" in done.out


def audited(done: Done) -> None:
    assert done.out.startswith("PHOTOS: 64 pictures, duck 32, lion 32")
    assert "All is well." in done.out


def predicted(done: Done) -> None:
    lines = [line.split() for line in done.out.splitlines()[1:]]
    assert [line[-1] for line in lines] == ["photos/1.jpg", "x/2.jpg", "x/y/3.jpg"]
    assert {line[0] for line in lines} <= {"lion", "duck"}


def exported(done: Done) -> None:
    name = {"onnx": "network.onnx", "torch": "network.pt2", "csv": "network-csv"}[done.words[-1]]
    assert (done.folder / RUN / name).exists()
    assert "checked: " in done.out


def served(done: Done) -> None:
    answer, _, page = done.out.partition("\n")
    assert json.loads(answer)["label"] in ("lion", "duck")
    assert page.startswith("<!doctype html>")


def reported(done: Done) -> None:
    page = (done.folder / RUN / "report.html").read_text()
    assert "my.jpg" in page
    assert "my.jpg" not in (done.folder / "RUN_A/report.html").read_text()


def explained(done: Done) -> None:
    assert done.out.startswith("hidden1.3, for my.jpg:\n")
    assert "σ(" in done.out


CHECKS: dict[str, Callable[[Done], None]] = {
    "train.py": trained,
    "compare.py": compared,
    "audit.py": audited,
    "predict.py": predicted,
    "export.py": exported,
    "serve.py": served,
    "report.py": reported,
    "explain.py": explained,
}


def script_of(line: str) -> str | None:
    """The name of the script that a command runs, if it is one that these tests know how to run."""
    found = re.match(r"python scripts/(\w+\.py)(?: |$)", line)
    return found[1] if found and found[1] in CHECKS else None


def runs(line: str) -> bool:
    missing = [needed for word, needed in NEEDS.items() if word in line and not present(needed)]
    return script_of(line) is not None and not missing


def present(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def alternatives(line: str) -> list[str]:
    """The commands that a line stands for: `--to onnx   # or torch, or csv` for three."""
    command, _, comment = line.partition(" # ")
    if script_of(line) != "export.py":
        return [line]
    head, _, value = command.strip().rpartition(" ")
    return [f"{head} {each}" for each in (value, *re.findall(r"\bor (\w+)", comment))]


def short(line: str) -> str:
    return " ".join(line.partition(" # ")[0].split())


@pytest.mark.parametrize(
    "line", [each for line in COMMANDS if line.split()[0] != "make" for each in alternatives(line)], ids=short
)
def test_a_command(line: str, done: Callable[[str], Done]) -> None:
    script = script_of(line)
    assert script, f"README.md has a command that no test runs; say in CHECKS what it must leave behind:\n{line}"
    if not runs(line):
        pytest.skip("an extra that this command names is not installed")
    end = done(line)
    assert end.code == (130 if script == "serve.py" else 0), end.out + end.err
    assert end.err == ""
    return swept(end) if "-m" in end.words else CHECKS[script](end)


@pytest.mark.parametrize("line", [line for line in COMMANDS if "# --" in line], ids=short)
def test_options_beside_a_command_are_in_its_help(line: str, place: Path) -> None:
    command, comment = line.split(" # ")
    shown = run([*command.split()[:2], "--help"], place)
    assert shown.code == 0, shown.err
    for option in re.findall(r"--[\w-]+", comment):
        assert re.search(rf"{option}\b", shown.out), option


def test_the_library_block(place: Path) -> None:
    (block,) = (block for kind, block in BLOCKS if kind == "python")
    end = run(["python", "-c", block], place)
    assert end.code == 0, end.err
    lion, duck, rest = end.out.split("\n", 2)
    assert re.match(r"lion\.jpg (lion|duck) [01]\.\d", lion)
    assert re.match(r"duck\.png (lion|duck) [01]\.\d", duck)
    trained, _, rest = rest.partition("tensor(")
    assert "chosen by val cost" in trained and re.search(r"^count +64\.0+$", trained, flags=re.M)
    tensor, _, table = rest.partition("seed")
    says = torch.tensor([float(number) for number in re.findall(r"\d\.[\de.+-]+", tensor)]).reshape(16, 4)
    assert (says.round() == torch.tensor([0.0, 1, 1, 0])).all(1).any()
    assert "[16 rows x " in table or len(table.splitlines()) == 17


def test_what_make_train_shows(place: Path) -> None:
    """Each line of the README, its numbers aside, is one that a run prints."""
    (block,) = (block for kind, block in BLOCKS if block.startswith(SHOWN))

    def forms(text: str) -> list[str]:
        text = re.sub(r"\bthreads? \(\w+\)", "threads (#)", text)
        return [" ".join(line.split()) for line in re.sub(r"\d+(\.\d+)?", "#", text).splitlines()]

    printed = forms((place / "said").read_text())
    for form, line in zip(forms(block), block.splitlines(), strict=True):
        assert form in (*printed, "..."), line


# ---------------------------------------------------------------- what else is in backticks


@pytest.mark.parametrize(
    "target", sorted({found for text in (*SPANS, *COMMANDS) for found in re.findall(r"^make ([\w-]+)", text)})
)
def test_a_target_of_make(target: str) -> None:
    """What it would run, with .venv there, exists."""
    by_itself = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", "-o", ".venv/ready", target]
    told = subprocess.run(command, cwd=TOP, env=by_itself, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    exact = {"train": ".venv/bin/python scripts/train.py\n"}
    assert told.stdout == exact.get(target, told.stdout)
    assert all((TOP / name).is_file() for name in re.findall(r"\S+\.py", told.stdout))


def told_options() -> Iterator[str]:
    """A table headed by `... key=` has a value in each row."""
    for key, table in re.findall(r"^\| `[^`]* (\w+)=` \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE):
        yield from (f"{key}={value}" for value in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))


@pytest.mark.parametrize("option", [*told_options()])
def test_an_option_is_one(option: str) -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed_options(compose("train", [option]))


def test_what_is_named_is_there(place: Path) -> None:
    """Files of a run, recipes, commands, modules: whatever is in backticks."""
    run = place / RUN
    known = {path.name for base in (run, TOP, conf_folder() / "experiment") for path in base.glob("*")} | PROSE

    def is_known(span: str) -> bool:
        words = span.split()
        if words[0] == "python":
            return (TOP / words[1]).is_file()
        if {span, f"{span}.yaml"} & known or words[0] == "make" or [*place.glob(span)]:
            return True
        return "." in span and pydoc.locate(span) is not None

    assert not [span for span in SPANS if not is_known(span)], (
        "no such thing is known; if it is none, PROSE may name it"
    )


# ---------------------------------------------------------------- the file itself


def test_every_block_is_known() -> None:
    assert {kind for kind, _ in BLOCKS} == {"", "python", "text"}, "blocks of other kinds are not run"
    assert len(BLOCKS) == README.count("```") / 2 > 5


def test_the_layout_names_every_package() -> None:
    (block,) = (text for kind, text in BLOCKS if kind == "text")
    package = TOP / "src/hillstart"
    named = {name.rstrip("/") for name in re.findall(r"[\w/]+/(?=\s|$)|\w+\.py", block)}
    assert {path.name for path in package.iterdir() if (path / "__init__.py").is_file()} <= named
    assert all((TOP / name).exists() or (package / name).exists() for name in named)
