"""scripts/explain.py: the arithmetic of a node in lines that a calculator confirms, and names that are refused."""

import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hillstart.cli import explain as command
from hillstart.data.images import read_picture
from hillstart.inference import explain, model_file
from hillstart.inference.arithmetic import (
    activated,
    activation_line,
    softmax,
    softmax_lines,
    sum_lines,
    text,
    thousandths,
)
from hillstart.inference.loading import load
from inference.test_classifier import model, noise

Run = Callable[..., tuple[int, str, str]]


def number(shown: str) -> float:
    return float(shown.strip("()").replace("−", "-"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, on a model of four starts and three classes, and on a picture."""
    model_file.save(tmp_path / "network.safetensors", model())
    Image.fromarray(noise(0, 9, 12, 3)).save(tmp_path / "a.png")

    def run(*arguments: Any, image: Path = tmp_path / "a.png", of: Path = tmp_path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["explain.py", str(of), str(image), *map(str, arguments)])
        code = 0
        try:
            command.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


# ---------------------------------------------------------------- arithmetic


def test_the_known_neuron() -> None:
    inputs, weights = [500, 900, 100], [2000, 200, 1000]
    assert sum_lines(inputs, weights, bias=1000, z=2280) == [
        "0.5 × 2 + 0.9 × 0.2 + 0.1 × 1 = 1.28",
        "1.28 + 1 = 2.28",
    ]
    assert activation_line("sigmoid", 2280) == "σ(2.28) = 0.907"
    assert activation_line("tanh", -500) == "tanh(−0.5) = −0.462"
    assert activation_line("relu", -500) == "max(0, −0.5) = 0"


def test_numbers_are_rounded_and_written_as_on_paper() -> None:
    assert [text(thousandths(x)) for x in (0.0005, -0.0005, -0.0004, 12.3456, -1, 10, 0.05)] == [
        *("0.001", "0", "0", "12.346", "−1", "10", "0.05")
    ]
    assert [activated("sigmoid", z) for z in (0, -(10**7), 10**7)] == [500, 0, 1000]


@pytest.mark.parametrize("count", [1, 4, 6, 7, 800])
def test_every_line_adds_up_in_the_digits_shown(count: int) -> None:
    g = random.Random(count)
    a, w = ([g.gauss(0, scale) for _ in range(count)] for scale in (1.0, 0.3))
    bias = g.gauss(0, 1)
    z = sum(x * y for x, y in zip(a, w, strict=True)) + bias
    first, second = sum_lines(*([thousandths(x) for x in xs] for xs in (a, w)), thousandths(bias), thousandths(z))
    left, total = first.split(" = ")
    terms = left.split(" + ")
    found = [number(x) * number(y) for x, y in (term.split(" × ") for term in terms if " × " in term)]
    rest = [number(re.search(r"−?\d+\.?\d*(?=\)? of)|(?<=together )\S+", term)[0]) for term in terms if "×" not in term]
    assert len(found) == (count if count <= 6 else 5)
    if count > 6:
        assert f"{count - 5} smaller ones, together" in terms[-1]
        assert [abs(x) for x in found] == sorted((abs(x) for x in found), reverse=True)
    else:
        assert all(0.0005 <= abs(x) <= 0.0005 * (count + 2) for x in rest)
    assert sum(found) + sum(rest) == pytest.approx(number(total), abs=0.0005 + 1e-9)
    before, sign, added, _, after = second.split(" ")
    assert before == total and after == text(thousandths(z))
    assert round(1000 * (number(before) + (1 if sign == "+" else -1) * number(added))) == thousandths(z)


def test_a_softmax_shares_one_whatever_its_size() -> None:
    assert softmax_lines([1000, 0, -1000], 0) == ["e^1 = 2.718", "2.718 / (2.718 + 1 + 0.368) = 0.665"]
    assert softmax_lines([1000, 0, -1000, 0, 0, 0], 1)[1:] == [
        "7.086 is the sum of e^z over all 6 classes",
        "1 / 7.086 = 0.141",
    ]
    for z in ([900_000, 899_000], [-900_000, -901_000]):
        away, powers, shares = softmax(z)
        assert (away, powers, shares) == (z[0], [1000, 368], [731, 269])
        assert softmax_lines(z, 1)[0].startswith(f"{text(z[1])} {'−' if away > 0 else '+'} {text(abs(away))} = −1, as ")
    assert sum(softmax([thousandths(random.Random(k).gauss(0, 2)) for k in range(10)])[2]) == pytest.approx(1000, abs=5)


# ---------------------------------------------------------------- the command


def test_what_is_not_calibrated_is_no_more_than_an_outputs_share(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "network.safetensors"
    model_file.save(path, replace(model_file.load(path), calibration=None))
    assert "how sure (not calibrated): " in run()[1]
    assert "not calibrated" in caplog.text


def test_layers_classes_and_how_to_ask_for_a_node(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--start", 2)
    classifier = load(tmp_path).only(2)
    answer = classifier.predict(tmp_path / "a.png")
    first, hidden, output, sure, how = out.splitlines()
    assert (code, err) == (0, "")
    assert first == f"{tmp_path / 'a.png'}, seen by start 2, a network of 36 – 5 – 3 nodes"
    assert hidden.startswith("hidden1") and "5 nodes, all: hidden1." in hidden
    assert output.startswith("output") and f"nodes, all: output.{answer.label} " in output
    assert sure == "how sure: " + "  ".join(f"{name} {100 * p:.1f} %" for name, p in answer.probabilities.items())
    node = how.removeprefix("the arithmetic of a node: ")
    assert run("--start", 2, *node.split())[0] == 0
    by_name, by_number = run("--node", "output.<b>owl</b>"), run("--node", "output.3")
    assert by_name == by_number and by_name[1].startswith("output.<b>owl</b>, for ")


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("cost", ["cross_entropy", "log_likelihood"])
def test_the_arithmetic_ends_at_the_activations_of_the_network(tmp_path: Path, activation: str, cost: str) -> None:
    way = explain.ForwardPass(
        model(1, channels=3, activation=activation, cost=cost),
        read_picture(noise(1, 6, 6, 3), model(1, channels=3).preprocessing),
    )
    for l, size in enumerate([5, 3]):
        for j in range(size):
            lines = way.lines_of(l, j)
            shown = number(lines[-1].split(" = ")[-1])
            assert shown == pytest.approx(float(way.exact[l + 1][j]), abs=0.0021)
            assert 1000 * shown == pytest.approx(way.a[l + 1][j])
            assert lines[1].endswith(f" = {text(way.z[l][j])}")
    if cost == "cross_entropy":
        assert math.isclose(way.z[1][0] / 1000, float(way.exact[2][0].logit()), abs_tol=0.0006)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--node", "hidden1.6"], "node hidden1.6: "),
        (["--node", "hidden1.0"], "node hidden1.0: "),
        (["--node", "hidden1"], "node hidden1: "),
        (["--node", "hidden2.1"], "node hidden2.1: "),
        (["--node", "output.cow"], "node output.cow: "),
        (["--start", "9"], "start 9: "),
    ],
)
def test_a_wrong_name_is_answered_by_one_sentence(run: Run, arguments: list[str], named: str) -> None:
    code, printed, told = run(*arguments)
    assert (code, printed) == (2, "") and told.startswith(f"hillstart: {named}") and told.count("\n") == 1


def test_files_that_are_none(run: Run, tmp_path: Path) -> None:
    none = tmp_path / "none.png"
    for code, files in ((1, {"image": none}), (2, {"of": none})):
        found = run(**files)
        assert found[:2] == (code, "") and found[2].startswith(f"hillstart: {none}: ") and found[2].count("\n") == 1
    (tmp_path / "text\x1b.png").write_text("no picture")
    code, out, err = run(image=tmp_path / "text\x1b.png")
    assert (code, out) == (1, "") and "\x1b" not in err and "\\x1b" in err
