"""Rules of all commands at their terminal: readers that go away, closed streams, encodings, file names, backends."""

import csv
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from forking import ForkedPopen, run_forked
from hillstart.inference import model_file
from hillstart.runs.summary import figure
from hillstart.system import console
from hillstart.system.console import ProgressBar, print_table
from inference.test_classifier import model, noise
from launching import alone

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ["data.train=100", "data.test=40", "network.hidden=[4]", "starts=2", "trainer.max_epochs=1"]


def command(name: str, *arguments: Any) -> list[str]:
    return [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]


def into_nothing(folder: Path, *command: str, stream: str = "stdout", **more: str) -> tuple[int, str]:
    """The exit code of a command one of whose streams has no reader, and its output on the other."""
    reading, writing = os.pipe()
    os.close(reading)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
    start: Any = subprocess.Popen if more else ForkedPopen  # the variables act when an interpreter starts
    run = start(command, cwd=folder, env=alone() | more, text=True, **streams)
    os.close(writing)
    out, err = run.communicate()
    return run.returncode, out or err or ""


def in_shell(folder: Path, redirection: str, *command: str, **more: str) -> tuple[int, str, str]:
    run = ["bash", "-c", f'"$@" {redirection}', "bash", *command]
    done = subprocess.run(run, cwd=folder, env=alone() | more, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    model_file.save(tmp_path / "network.safetensors", model(channels=3))
    (tmp_path / "photos/lion").mkdir(parents=True)
    (tmp_path / "photos/duck").mkdir()
    for i, name in enumerate(("lion/a.png", "duck/b.png", "duck/c.png")):
        Image.fromarray(noise(i, 8, 8, 3)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


# ---------------------------------------------------------------- no reader


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "predict"])  # with Hydra and without
def test_help_without_a_reader(name: str, tmp_path: Path) -> None:
    assert into_nothing(tmp_path, *command(name, "--help")) == (141, "")


@pytest.mark.slow
def test_output_without_a_reader(photos: Path) -> None:
    folder, before = photos.parent, sorted(photos.parent.iterdir())
    for words in (
        ("train", "--cfg", "job"),
        ("audit", "photos"),
        ("explain", "network.safetensors", "photos/lion/a.png"),
    ):
        assert into_nothing(folder, *command(*words)) == (141, ""), words
    assert into_nothing(folder, *command("audit", "none"), stream="stderr") == (141, "")
    assert into_nothing(folder, *command("predict", "network.safetensors", "none"), stream="stderr")[0] == 141
    assert sorted(folder.iterdir()) == before
    assert into_nothing(folder, *command("export", "network.safetensors", "--to", "csv")) == (141, "")


@pytest.mark.slow
def test_closed_streams_leave_the_exit_code(photos: Path) -> None:
    code = run_forked(command("audit", "photos"), cwd=photos.parent, capture_output=True).returncode
    for redirection in (">&-", "<&- >&- 2>&-"):
        assert in_shell(photos.parent, redirection, *command("audit", "photos")) == (code, "", "")


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(photos: Path) -> None:
    code, _, said = in_shell(photos.parent, "> /dev/full", *command("audit", "photos"))
    assert code == os.EX_IOERR
    assert len(said.splitlines()) == 1 and "standard output" in said


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["gone", "gone, unbuffered", "2>&1 >&-", "> /dev/full"])
def test_a_run_outlives_its_terminal(redirection: str, tmp_path: Path) -> None:
    train = command("train", *SMALL, "hydra.run.dir=run")
    if "gone" in redirection:
        more = {"PYTHONUNBUFFERED": "1"} if "unbuffered" in redirection else {}
        code, said = into_nothing(tmp_path, *train, **more)
    else:
        code, _, said = in_shell(tmp_path, redirection, *train)
    assert (code, len(said.splitlines())) == (0, 1 if "full" in redirection else 0), said
    log = (tmp_path / "run/train.log").read_text()
    assert "chosen by val cost" in log and "report.html" in log
    assert (tmp_path / "run/report.html").is_file()


@pytest.mark.slow
def test_a_sweep_outlives_its_terminal(tmp_path: Path) -> None:
    words = ["-m", "seed=0,1", *SMALL[:3], *SMALL[4:], "report=false", "hydra.sweep.dir=sweep"]
    assert into_nothing(tmp_path, *command("train", *words)) == (0, "")
    assert (tmp_path / "sweep/summary.json").is_file()
    assert all("chosen by val cost" in (tmp_path / f"sweep/{job}/train.log").read_text() for job in (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["none", "disabled"])
def test_a_run_without_logs(choice: str, tmp_path: Path) -> None:
    words = ["report=false", "hydra.run.dir=run", f"hydra/job_logging={choice}", f"hydra/hydra_logging={choice}"]
    done = run_forked(command("train", *SMALL, *words), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run/summary.json").is_file() and not (tmp_path / "run/train.log").exists()


# ---------------------------------------------------------------- names and encodings


NAMES = [
    b"line\nbreak",
    b"return\rhere",
    b"both\r\nof them",
    b'"quoted"',
    b"a, b",
    b"\xff\xe9",
    b"tab\there",
    b" blank ",
]


@pytest.mark.slow
def test_csv_gives_every_name_back(photos: Path) -> None:
    folder = photos.parent
    for name in NAMES:
        Image.fromarray(noise(0, 8, 8, 3)).save(folder / "a.png")
        (folder / "a.png").rename(folder / os.fsdecode(name))
    names = [os.fsdecode(name) for name in NAMES]
    done = run_forked(command("predict", "network.safetensors", *names, "--csv"), cwd=folder, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    text = io.StringIO(done.stdout.decode(errors="surrogateescape"), newline="")
    assert [row["path"] for row in csv.DictReader(text)] == names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "words"),
    [("ascii", ("audit", "photos")), ("latin-1", ("explain", "network.safetensors", "photos/lion/ł.png"))],
)
def test_a_narrow_encoding(encoding: str, words: tuple[str, ...], photos: Path) -> None:
    (photos / "lion/a.png").rename(photos / "lion/ł.png")
    (photos / "duck/b.png").write_bytes(b"no picture")
    (photos / "duck/b.png").rename(photos / "duck/ł.png")
    code, out, said = in_shell(photos.parent, "", *command(*words), PYTHONIOENCODING=encoding)
    assert (code, said) == (int(words[0] == "audit"), "")
    assert r"\u0142.png" in out


# ---------------------------------------------------------------- notebooks


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://no_such_module.backend", "none"])  # refused when used, when imported
def test_a_backend_of_a_notebook_is_not_taken_over(backend: str, tmp_path: Path) -> None:
    words = command("train", *SMALL, "hydra.run.dir=run")
    assert in_shell(tmp_path, "> /dev/null", *words, MPLBACKEND=backend) == (0, "", "")
    assert (tmp_path / "run/report.html").is_file()


@pytest.mark.slow
def test_the_library_leaves_the_backend_alone() -> None:
    code = "import os, hillstart.report.write, matplotlib; print(os.environ['MPLBACKEND'], matplotlib.get_backend())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=alone() | {"MPLBACKEND": "svg"}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["svg", "svg"], done.stderr


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_log_is_written_into_a_file_alone(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hillstart.runs.logs import LogFile

    path, elsewhere = tmp_path / "train.log", tmp_path / "elsewhere"
    elsewhere.write_text("before")
    {"link": lambda: path.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    log = LogFile(str(path))
    for words in ("one", "two"):
        log.handle(logging.LogRecord("name", logging.INFO, "", 0, words, None, None))
    log.close()
    assert elsewhere.read_text() == "before"
    assert capsys.readouterr().err.count("the log is not whole: ") == 1


# ---------------------------------------------------------------- narrow terminals

HEADS = ("rank", "seed", "status", "train cost", "val accuracy")
ROWS = [("1", "12345", "finished", "0.1518", "0.9688"), ("2", "7", "[b]", "12.35", "1.000")]


@pytest.mark.parametrize(("columns", "missing"), [(80, []), (38, ["train cost"]), (30, ["status", "train cost"])])
def test_a_narrow_table_has_fewer_columns(
    columns: int, missing: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(HEADS, ROWS, spare=("train cost", "status"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    kept = [k for k, head in enumerate(HEADS) if head not in missing]
    rows = [line.split() for line in lines if line.split()[:1] in (["1"], ["2"])]
    assert rows == [[row[k] for k in kept] for row in ROWS]
    said = " ".join(line.strip() for line in lines).partition("too narrow for: ")[2]
    assert said.split(", ") == (missing or [""])


def test_a_table_into_a_pipe_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", io.StringIO())
    print_table([f"heading {k}" for k in range(60)], [[f"cell {k}" for k in range(60)]])
    line = capsys.readouterr().out.splitlines()[-1]
    assert len(line) > 480 and "cell 59" in line and "…" not in line


def test_figures_have_four_significant_digits() -> None:
    assert [figure(x) for x in (0.96, 1.0, 12.3456, 0.00012345)] == ["0.9600", "1.000", "12.35", "0.0001234"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("columns", "shown"), [(40, "epoch 12/30"), (60, "epoch 12/30"), (80, "epoch 12/30, best start")]
)
def test_the_progress_line_loses_whole_parts(columns: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PATIENCE_SECONDS", -1.0)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    bar = ProgressBar("training", 30, streams=[terminal])
    bar.update(11, "epoch 12/30, best start 0.880 on validation")
    bar.stop()
    assert shown in terminal.getvalue() and "…" not in terminal.getvalue()
    assert ("on validation" in terminal.getvalue()) == ("best" in shown)
