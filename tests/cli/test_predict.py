"""scripts/predict.py: any pictures in, one line each out; what cannot be used is named, and the rest is answered."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hillstart
from forking import ForkedPopen
from hillstart.cli import predict
from hillstart.inference import model_file
from hillstart.system import console
from inference.test_classifier import model, noise
from launching import BOUND, Ran, ran

TOP = Path(__file__).parents[2]
Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, on a model of four starts and three classes."""
    model_file.save(tmp_path / "network.safetensors", model(channels=3))

    def run(*arguments: Any, of: Path = tmp_path / "network.safetensors", stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return ran(predict.main, monkeypatch, capsys, of, *arguments)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder below, beside what is none."""
    for i, name in enumerate(("photos/a.png", "photos/b.jpg", "photos/below/c.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(i, 9, 12, 3)).save(tmp_path / name)
    (tmp_path / "photos/notes.txt").write_text("no picture")
    return tmp_path / "photos"


def paths(ran: Ran) -> list[str]:
    return [json.loads(line)["path"] for line in ran.out.splitlines()]


# ---------------------------------------------------------------- which pictures


def test_files_folders_patterns_and_names_on_standard_input(run: Run, photos: Path) -> None:
    a, b, c = (str(photos / name) for name in ("a.png", "b.jpg", "below/c.png"))
    assert paths(run(a, "--json")) == [a]
    below = run(photos, b, "--json")
    assert paths(below) == [a, b, c, b] and below.code == 0
    assert below.err.startswith(f"hillstart: {photos}: ") and "(.txt 1)" in below.err
    assert paths(run(f"{photos}/**/*.png", "--json")) == [a, c]
    assert paths(run(f"{photos}/be*", "--json")) == [c]
    assert paths(run("-", "--json", stdin=f"{b}\n{a}\r\n\n{photos / 'below'}".encode())) == [b, a, c]
    assert run("-", "--json") == Ran(0, "", "")
    odd = (photos / "a.png").rename(photos / "[ab]*.png")  # a name first, and a pattern only if there is no such file
    assert paths(run(odd, "--json")) == [str(odd)]


# ---------------------------------------------------------------- how answers look


def test_a_table(run: Run, photos: Path) -> None:
    answers = hillstart.load(photos.parent).predict([photos / "a.png", photos / "b.jpg"])
    head, *lines = run(photos / "a.png", photos / "b.jpg", "--unsure-below", 1).out.splitlines()
    assert head.split() == ["label", "prob.", "agree", "picture"]
    for line, answer in zip(lines, answers, strict=True):
        cells = line.split()
        assert cells[:3] == [answer.label, f"{answer.probability:.3f}", f"{round(4 * answer.agreement)}/4"]
        assert cells[-1] == answer.path and ("unsure" in cells) == (answer.agreement < 1)
    assert len({line.index("/4") for line in lines}) == 1


@pytest.mark.parametrize("recorded", ["brightness", "mean"])
def test_negatives_are_noticed_and_inverted(run: Run, tmp_path: Path, recorded: str) -> None:
    """White on black was learned; ink on paper is told once, and with --invert answered as white on black is."""
    of = replace(model(), trained_on={"brightness": 0.1})
    if recorded == "mean":
        of = replace(model(), preprocessing=replace(of.preprocessing, mean=(0.1,)))
    model_file.save(tmp_path / "dark.safetensors", of)
    chalk = noise(0, 6, 6) // 5
    for name, array in (("chalk.png", chalk), ("ink.png", 255 - chalk)):
        Image.fromarray(array).save(tmp_path / name)
    ask = partial(run, "--json", of=tmp_path / "dark.safetensors")
    right, wrong, mended = ask(tmp_path / "chalk.png"), ask(tmp_path / "ink.png"), ask(tmp_path / "ink.png", "--invert")
    assert "--invert" in wrong.err and "--invert" not in right.err + mended.err
    told = [json.loads(ran.out) for ran in (right, mended, wrong)]
    assert told[0]["probabilities"] == told[1]["probabilities"] != told[2]["probabilities"]
    assert "leave out --invert" in ask(tmp_path / "chalk.png", "--invert").err
    assert "--invert" not in ask(tmp_path / "chalk.png", tmp_path / "ink.png").err, "the half of them may be meant"
    for unknown in ({}, {"brightness": "x"}, {"brightness": None}):
        plain = replace(of.preprocessing, mean=(0.0,), std=(1.0,))
        model_file.save(tmp_path / "dark.safetensors", replace(of, preprocessing=plain, trained_on=unknown))
        assert "--invert" not in ask(tmp_path / "ink.png").err


def test_json_and_csv_tell_the_same(run: Run, photos: Path) -> None:
    by_json = [json.loads(line) for line in run(photos, "--json").out.splitlines()]
    assert list(by_json[0]) == ["path", "label", "probability", "probabilities", "agreement", "unsure"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in by_json)
    assert all(next(iter(row["probabilities"].items())) == (row["label"], row["probability"]) for row in by_json)
    by_csv = list(csv.DictReader(run(photos, "--csv").out.splitlines()))
    assert list(by_csv[0]) == ["path", "label", "probability", "agreement", "unsure"]
    for row, cells in zip(by_json, by_csv, strict=True):
        assert [row["path"], row["label"]] == [cells["path"], cells["label"]]
        assert (row["probability"], row["agreement"]) == (float(cells["probability"]), float(cells["agreement"]))
        assert cells["unsure"] == ("yes" if row["unsure"] else "no")


def test_what_is_not_calibrated_is_told_on_the_log_and_in_json(
    run: Run, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = photos.parent / "network.safetensors"
    model_file.save(path, replace(model_file.load(path), calibration=None))
    told = run(photos / "a.png", "--json")
    assert "not calibrated" in caplog.text
    assert json.loads(told.out)["calibrated"] is False


def test_the_most_likely_classes(run: Run, photos: Path) -> None:
    whole = json.loads(run(photos / "a.png", "--json").out)["probabilities"]
    for k in (1, 2, 3, 99):
        assert json.loads(run(photos / "a.png", "--json", "--top", k).out)["probabilities"] == dict(
            list(whole.items())[:k]
        )
    (row,) = csv.DictReader(run(photos / "a.png", "--csv", "--top", 2).out.splitlines())
    assert [row["label_2"], float(row["probability_2"])] == list(list(whole.items())[1])
    assert all(name in run(photos / "a.png", "--top", 3).out for name in whole)


def test_the_vote_and_one_start(run: Run, photos: Path) -> None:
    assert run(photos / "a.png", "--json", "--vote") == run(photos / "a.png", "--json")
    alone = hillstart.load(photos.parent).only(3).predict(photos / "a.png")
    found = json.loads(run(photos / "a.png", "--json", "--start", 3).out)
    assert (found["label"], found["probability"]) == (alone.label, round(alone.probability, 6))


def test_control_signs_in_a_name_are_written_out(run: Run, photos: Path) -> None:
    evil = photos / "\x1b[31mred\n.png"
    Image.fromarray(noise(0, 9, 9)).save(evil)
    assert "\x1b" not in run(evil).out and r"\x1b[31mred\n.png" in run(evil).out
    assert paths(run(evil, "--json")) == [str(evil)]
    bad = photos / "\x1b[31mbad.png"
    bad.write_bytes(b"x")
    assert "\x1b" not in run(bad).err and r"\x1b[31mbad.png: is not a picture" in run(bad).err
    assert console.visible("schön \udcff") == r"schön \xff"


# ---------------------------------------------------------------- what cannot be used


def cut(folder: Path) -> Path:
    Image.fromarray(noise(0, 64, 64, 3)).save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    return folder / "cut.jpg"


def png_of(width: int, height: int, folder: Path) -> Path:
    """A PNG of any size, with the data of its first row."""
    data = zlib.compress(bytes(1 + width // 8 + 1))
    chunks = [
        b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0]),
        b"IDAT" + data,
        b"IEND",
    ]
    body = b"".join((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks)
    path = folder / f"{width}x{height}.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def empty(folder: Path) -> Path:
    (folder / "empty.png").write_bytes(b"")
    return folder / "empty.png"


def hidden(folder: Path) -> Path:
    (folder / "none/.hidden").mkdir(parents=True)
    Image.fromarray(noise(0, 9, 9)).save(folder / "none/.hidden/a.png")
    return folder / "none"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (cut, "damaged"),
        (lambda folder: png_of(20_000, 20_000, folder), "too large"),
        (lambda folder: png_of(0, 0, folder), "not a picture"),
        (empty, "not a picture"),
        (lambda folder: folder / "missing.png", "no such file"),
        (lambda folder: folder / "miss*.png", "no file matches"),
        (hidden, "no pictures"),
    ],
)
def test_what_cannot_be_used_is_named_and_the_rest_is_answered(
    run: Run, photos: Path, make: Callable[[Path], Path], reason: str
) -> None:
    bad = make(photos)
    ran = run(photos / "a.png", bad, photos / "b.jpg", "--json")
    assert paths(ran) == [str(photos / "a.png"), str(photos / "b.jpg")]
    assert ran.err.startswith(f"hillstart: {bad}: ") and reason in ran.err and ran.err.count("\n") == 1
    assert ran.code == 1


def test_links_in_a_circle_archives_leftovers_and_other_kinds(run: Run, photos: Path) -> None:
    (photos / "below/up").symlink_to(photos)
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        (photos / name).mkdir()
        Image.fromarray(noise(0, 9, 9)).save(photos / name / "a.png")
    assert len(paths(run(photos, "--json"))) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be someone else for a moment")
def test_a_folder_that_may_not_be_read(run: Run, photos: Path) -> None:
    (photos / "below").chmod(0)
    parents = [parent for parent in photos.parents if parent.is_relative_to(Path(os.environ.get("TMPDIR", "/tmp")))]
    modes = {parent: parent.stat().st_mode for parent in parents}
    try:
        for parent in parents:
            parent.chmod(0o755)
        os.seteuid(65534)
        ran = run(photos, "--json")
    finally:
        os.seteuid(0)
        for parent, mode in modes.items():
            parent.chmod(mode)
    assert ran.code == 1 and f"{photos / 'below'}: cannot be read (Permission denied)" in ran.err


# ---------------------------------------------------------------- wrong use


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "FILE"),
        (["a.png", "--top", "0"], "--top: '0'"),
        (["a.png", "--top", "x"], "--top: 'x'"),
        (["a.png", "--unsure-below", "nan"], "--unsure-below: 'nan'"),
        (["a.png", "--json", "--csv"], "--csv: not allowed"),
        (["a.png", "--vote", "--start", "1"], "--start: not allowed"),
        (["a.png", "--start", "77"], "hillstart: start 77: "),
        (["a.png", "--device", "cuda:99"], "hillstart: device: cuda:99"),
    ],
)
def test_wrong_use_ends_with_2(run: Run, arguments: list[str], named: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2 and named in ran.err and ran.out == ""


def test_a_model_that_cannot_be_loaded_ends_with_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "picture.safetensors").write_bytes(b"no model at all")
    ran = run("a.png", of=tmp_path / "picture.safetensors")
    assert ran.code == 2 and ran.out == "" and ran.err.count("\n") == 1
    assert ran.err.startswith(f"hillstart: {tmp_path / 'picture.safetensors'}")


def test_weights_that_overflow_give_no_answer_but_a_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    damaged = model(channels=3, activation="relu")
    for w in damaged.network.w:
        w.fill_(3e38)
    model_file.save(tmp_path / "huge.safetensors", damaged)  # finite, as one flipped bit of an exponent leaves it
    ran = run(photos / "a.png", "--json", of=tmp_path / "huge.safetensors")
    assert (ran.code, ran.out) == (2, "") and "not a finite number" in ran.err


# ---------------------------------------------------------------- as a process


PREDICT = [sys.executable, TOP / "scripts/predict.py"]
PIPES: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    model_file.save(tmp_path / "network.safetensors", model(channels=3))
    (tmp_path / "many").mkdir()
    Image.fromarray(noise(0, 8, 8, 3)).save(tmp_path / "many/0.png")
    for i in range(1, 20_000):
        (tmp_path / f"many/{i}.png").hardlink_to(tmp_path / "many/0.png")
    return tmp_path / "many"


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("closed pipe", 141), ("Ctrl-C", 130)])
def test_it_ends_quietly(many: Path, end: str, code: int) -> None:
    running = ForkedPopen([*PREDICT, many.parent, many, "--csv"], **PIPES)
    assert running.stdout and running.stderr
    assert running.stdout.readline() == b"path,label,probability,agreement,unsure\n"
    if end == "Ctrl-C":
        running.send_signal(signal.SIGINT)
        running.stdout.read()
    running.stdout.close()
    with running.stderr as err:
        assert err.read() == b""
    assert running.wait(BOUND) == code


@pytest.mark.slow
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    model_file.save(tmp_path / "network.safetensors", model(channels=3))
    name = os.fsencode(tmp_path) + b"/\xff\xe9.png"
    Image.fromarray(noise(0, 8, 8, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(name))
    for form in ("--csv", "--json", "--vote"):
        for source in ([name], ["-"]):
            command, environment = [*PREDICT, tmp_path, *source, form], os.environ | {"LC_ALL": "C"}
            done = subprocess.run(command, input=name, env=environment, capture_output=True, timeout=BOUND, check=False)
            assert (done.stderr, done.returncode) == (b"", 0)
            line = done.stdout.splitlines()[-1]
            if form == "--csv":
                assert line.startswith(name + b",")
            elif form == "--json":
                assert os.fsencode(json.loads(line)["path"]) == name
            else:
                assert line.endswith(rb"\xff\xe9.png")


@pytest.mark.slow
def test_a_terminal_has_a_bar_below_the_answers_and_a_pipe_has_none(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.0)
    assert "━" not in "".join(run(photos)[1:])
    ours, theirs = os.openpty()
    code = (
        "from hillstart.cli import predict; from hillstart.system import console;"
        "console.PATIENCE_SECONDS = 0; predict.main()"
    )
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
    command = [sys.executable, "-c", code, photos.parent, photos]
    running = ForkedPopen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as screen:  # an error is how its end is told
        while part := screen.read(65536):
            shown += part
    assert running.wait(BOUND) == 0
    text = shown.decode()
    assert "3/3" in text and "━" in text
    assert all(str(photos / name) in text for name in ("a.png", "b.jpg", "below/c.png"))
