"""Exported programs and tables give hillstart's own answers, tell what they need, and are whole or not there."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from forking import run_forked
from hillstart.cli.export import main, parser
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import export as exporting
from hillstart.inference import model_file, spreadsheet
from hillstart.inference.classifier import Classifier
from hillstart.inference.loading import load
from hillstart.inference.voting import Calibration
from hillstart.network import Network
from hillstart.system.errors import InputError

DOCUMENT = Path(__file__).parents[2] / "docs/deployment.md"
NAMES = ("Löwe", "a, b", 'the "c"', "d", "e")


@dataclass(frozen=True)
class Case:
    """Networks to export; between them the cases hold every cost and activation, and 0, 1 and 2 hidden layers."""

    cost: str = "quadratic"
    activation: str = "sigmoid"
    starts: int = 1
    hidden: tuple[int, ...] = (5,)
    size: int = 4
    mean: tuple[float, ...] = (0.4,)
    std: tuple[float, ...] = (0.3,)
    temperature: float | None = None
    classes: tuple[str, ...] = NAMES

    def saved(self, folder: Path, weights: float = 1.0) -> Path:
        channels = len(self.mean)
        sizes = [channels * self.size**2, *self.hidden, len(self.classes)]
        seeds = range(7, 7 + self.starts)
        network = Network.start(sizes, seeds, self.activation, self.cost, "scaled_normal")
        for w in network.w:
            w *= weights
        T = self.temperature
        model = Classifier(
            network,
            tuple(Start(seed, Hyperparameters(0.1)) for seed in seeds),
            self.classes,
            Preprocessing(self.size, channels, 90, self.mean, self.std),
            T and Calibration(T, tuple(T + s + 1 for s in range(self.starts))),
        )
        path = folder / "network.safetensors"
        model_file.save(path, model)
        return path


COLOUR = {"mean": (0.2, 0.5, 0.7), "std": (0.2, 0.3, 0.5)}
ONE, THREE = Case(), Case("cross_entropy", "tanh", 3, (6, 4), temperature=0.4, **COLOUR)
WIDE = Case("log_likelihood", "relu", 4, (64,), 32, temperature=2.5, **COLOUR)
BARE = Case("log_likelihood", hidden=(), temperature=0.6, classes=("a", "b"))
CASES = {"one": ONE, "three": THREE, "wide": WIDE, "bare": BARE}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def export(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    main()


def refused(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit, match=r"^1$"):
        export(monkeypatch, *words)
    sentence = said.getvalue().removesuffix("\n")
    assert sentence.startswith("hillstart: ") and sentence.endswith(".") and "\n" not in sentence
    return sentence


def pictures(classifier: Classifier, N: int, seed: int = 5) -> Tensor:
    p = classifier.preprocessing
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (N, p.channels, p.size, p.size), generator=g, dtype=torch.uint8)


def answers(classifier: Classifier, pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    found = list(classifier.answer(pixels))
    table = [[answer.probabilities[name] for name in classifier.classes] for answer in found]
    return np.array(table, np.float32), np.array([answer.agreement for answer in found], np.float32)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- programs

KEYS = {"classes", "preprocessing", "seeds", "calibrated", "hillstart", "input", "outputs"}

Program = Callable[[Tensor], Sequence[Any]]


def onnx_program(path: Path, case: Case) -> tuple[Program, dict[str, str]]:
    """An ONNX file as a function, and its metadata."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    session, proto = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), onnx.load(path)
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type) == ("pixels", "tensor(uint8)")
    assert pixels.shape == ["N", len(case.mean), "H", "W"]
    assert [out.name for out in session.get_outputs()] == ["probabilities", "agreement"]
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return lambda x: session.run(None, {"pixels": x.numpy()}), metadata


def torch_program(path: Path, case: Case) -> tuple[Program, dict[str, str]]:
    """A torch program as a function, and its metadata."""
    metadata = dict.fromkeys(KEYS, "")
    with path.open("rb") as file:
        program = torch.export.load(file, extra_files=metadata).module()
    return lambda x: [t.numpy() for t in program(x)], metadata


PROGRAMS = {"onnx": (".onnx", onnx_program), "torch": (".pt2", torch_program)}
FORMS = [pytest.param("onnx", marks=pytest.mark.slow), "torch"]  # the exporter and runtime of ONNX take their time


@pytest.mark.parametrize("form", FORMS)
@each_case
def test_a_program_gives_hillstarts_answers(
    form: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    suffix, loaded = PROGRAMS[form]
    classifier, path = load(case.saved(tmp_path)), tmp_path / f"network{suffix}"
    export(monkeypatch, tmp_path, "--to", form)
    assert re.search(rf"network{suffix}: .*\nchecked: ", capsys.readouterr().out)
    assert files(tmp_path) == sorted([path.name, "network.safetensors"])  # no external data, nothing half written
    assert path.stat().st_size < 1.2 * sum(4 * t.numel() for t in classifier.network.parameters) + 1e6
    assert os.fsencode(Path(exporting.__file__).parents[3]) not in path.read_bytes()
    program, metadata = loaded(path, case)
    for N in (1, 7):
        x = pictures(classifier, N)
        for found, expected in zip(program(x), answers(classifier, x), strict=True):
            assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-5
    assert set(metadata) == KEYS and all(metadata.values())
    assert json.loads(metadata["calibrated"]) is classifier.calibrated
    assert json.loads(metadata["classes"]) == list(case.classes)
    assert json.loads(metadata["seeds"]) == list(classifier.seeds)
    assert Preprocessing.from_dict(json.loads(metadata["preprocessing"])) == classifier.preprocessing
    assert "already decoded" in metadata["input"] and f"{case.size} x {case.size}" in metadata["input"]


GREY, COLOURED = replace(ONE, size=8), replace(THREE, size=8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", [GREY, COLOURED], ids=["grey", "colour"])
def test_a_program_answers_as_predict_for_pictures_of_any_size(
    form: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    suffix, loaded = PROGRAMS[form]
    classifier = load(case.saved(tmp_path, weights=3))
    export(monkeypatch, tmp_path, "--to", form)
    program, _ = loaded(tmp_path / f"network{suffix}", case)
    random, seen = np.random.default_rng(3), []
    for H, W in ((8, 8), (200, 200), (3, 3), (1, 1), (75, 40), (40, 75), (13, 9), (9, 14), (300, 7), (480, 641)):
        for sharp in (False, True):
            noise = random.integers(0, 256, (H, W, len(case.mean)), dtype=np.uint8)
            picture = noise // 128 * 255 if sharp else np.asarray(smooth(noise))
            expected = classifier.predict(Image.fromarray(np.squeeze(picture, 2) if len(case.mean) == 1 else picture))
            found, _ = program(torch.from_numpy(np.atleast_3d(picture).transpose(2, 0, 1)[None].copy()))
            wanted = [expected.probabilities[name] for name in case.classes]
            seen.append(wanted)
            assert np.abs(found[0] - wanted).max() < 1e-3, (H, W, sharp)
    assert np.ptp(seen, 0).max() > 0.1, "the pictures are to be told apart"


def smooth(noise: np.ndarray) -> np.ndarray:
    few = Image.fromarray(np.squeeze(noise[:5, :5], 2) if noise.shape[2] == 1 else noise[:5, :5])
    return np.atleast_3d(few.resize(noise.shape[1::-1], Image.Resampling.BICUBIC))


@pytest.mark.slow
def test_the_lines_of_the_documents_answer_as_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large and small, turned by EXIF, grey and with a palette; JPEGs are decoded at a fraction of their size."""
    pytest.importorskip("onnxruntime")
    of_onnx, of_torch, predict = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), flags=re.S | re.M)
    explained = parser().format_help()
    assert all(indent(lines, "  ") in explained for lines in (of_onnx, of_torch, predict))
    monkeypatch.chdir(tmp_path)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    scene = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    pictures = [scene.resize(size, Image.Resampling.BICUBIC) for size in ((900, 601), (7, 5), (60, 91))]
    kept = [(picture, kind) for picture in (*pictures, pictures[0].convert("L")) for kind in ("JPEG", "PNG")]
    for case, (form, load_lines) in product((GREY, COLOURED), (("onnx", of_onnx), ("torch", of_torch))):
        classifier = load(case.saved(tmp_path, weights=3))
        export(monkeypatch, tmp_path, "--to", form)
        shown: list[dict[str, float]] = []
        names: dict[str, Any] = {"print": shown.append}
        exec(load_lines, names)
        assert set(names["about"]) == KEYS
        for picture, kind in [*kept, (pictures[2].convert("P"), "PNG")]:
            picture.save("photo.jpg", kind, exif=turned)  # the name is that of the lines
            exec(predict, names)
            assert shown.pop() == pytest.approx(classifier.predict("photo.jpg").probabilities, abs=1e-3)


@pytest.mark.slow
def test_onnx_keeps_the_ratios_of_outputs_near_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = Case("cross_entropy", hidden=(), temperature=8.0).saved(tmp_path)
    dim = model_file.load(model)
    dim.network.b[0].copy_(torch.tensor([[-25.0, -40.0, -22.0, -60.0, -31.0]]))
    model_file.save(model, dim)
    export(monkeypatch, model, "--to", "onnx")
    classifier, session = load(model), onnxruntime.InferenceSession(tmp_path / "network.onnx")
    x = pictures(classifier, 7)
    expected = answers(classifier, x)[0]
    assert expected.min() > 1e-3  # all five are likely enough to be seen
    assert np.abs(session.run(None, {"pixels": x.numpy()})[0] - expected).max() < 1e-5


@pytest.mark.slow
def test_networks_that_lose_digits_are_exported_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    model = replace(THREE, cost="log_likelihood", hidden=(64,), size=32, temperature=1 / 16).saved(tmp_path, weights=30)
    export(monkeypatch, model, "--to", "onnx")
    assert (tmp_path / "network.onnx").exists()


def test_what_rounding_excuses_has_a_limit(tmp_path: Path) -> None:
    steep = replace(THREE, cost="log_likelihood", hidden=(64, 64), size=32, temperature=1 / 64)
    for case, weights, off in ((steep, 100.0, 0.002), (ONE, 1.0, 2e-5), (ONE, 1.0, float("nan"))):
        classifier = load(case.saved(tmp_path, weights))

        def told(pixels: Tensor, *off: float, classifier: Classifier = classifier) -> list[Tensor]:
            return [torch.from_numpy(t) + more for t, more in zip(answers(classifier, pixels), off, strict=True)]

        exporting.compare(lambda pixels: told(pixels, 0, 0), classifier)
        for wrong in ((off, 0), (0, off)):
            with pytest.raises(InputError, match="disagrees with hillstart"):
                exporting.compare(lambda pixels, wrong=wrong: told(pixels, *wrong), classifier)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ONE.saved(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    sentence = refused(monkeypatch, model, "--to", "onnx")
    assert package in sentence and "pip install 'hillstart[export]'" in sentence
    assert files(tmp_path) == ["network.safetensors"]


def test_more_than_one_onnx_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(exporting, "MAX_ONNX_BYTES", 400)
    assert "--start" in refused(monkeypatch, ONE.saved(tmp_path), "--to", "onnx")


@pytest.mark.slow
def test_a_torch_program_needs_no_hillstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = THREE.saved(tmp_path)
    export(monkeypatch, model, "--to", "torch", "--output", tmp_path / "a.pt2")
    code = (
        "import json, sys, torch; sys.modules['hillstart'] = None; program = torch.export.load('a.pt2').module();"
        "print(json.dumps(program(torch.full((1, 3, 4, 4), 200, dtype=torch.uint8))[0].tolist()))"
    )
    shown = run_forked([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = answers(load(model), torch.full((1, 3, 4, 4), 200, dtype=torch.uint8))[0]
    assert np.abs(np.array(json.loads(shown.stdout)) - expected).max() < 1e-5


# ---------------------------------------------------------------- csv


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))


def by_hand(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """The probabilities, from the tables and numpy alone."""
    about = dict(read(folder / "about.csv"))
    functions = {
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        "relu": lambda z: np.maximum(z, 0),
        "softmax": lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
    }
    last, hidden = (
        functions[about[f"activation of the {layer}"].split(":")[0]] for layer in ("last layer", "hidden layers")
    )
    colours = ["grey"] if "mean grey" in about else ["red", "green", "blue"]
    outputs = []
    for s in range(1, int(about["starts"]) + 1):
        layers = sorted(folder.glob(f"start{s}-*.csv"), key=lambda path: int(path.stem.rpartition("layer")[2]))
        names, a = [], np.empty((len(pixels), 0))
        for l, path in enumerate(layers):
            heading, *rows = read(path)
            if l == 0:
                for name, *_ in rows[:-1]:
                    colour, _, i, _, j = name.split()
                    x = pixels[:, colours.index(colour), int(i) - 1, int(j) - 1] / 255
                    x = (x - float(about[f"mean {colour}"])) / float(about[f"std {colour}"])
                    a = np.column_stack([a, x])
            else:
                assert [row[0] for row in rows[:-1]] == names
            assert heading[0] == "from" and rows[-1][0] == "bias"
            names, table = heading[1:], np.array([row[1:] for row in rows], float)
            a = (last if l == len(layers) - 1 else hidden)(a @ table[:-1] + table[-1])
        assert names == [f"output.{about[f'class {k}']}" for k in range(1, len(names) + 1)]
        outputs.append(a)
    m = np.mean(outputs, 0).clip(float(about["smallest m"])) ** (1 / float(about["temperature of the vote"]))
    return m / m.sum(-1, keepdims=True)


@each_case
def test_csv_can_be_redone_by_hand(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(case.saved(tmp_path))
    export(monkeypatch, tmp_path, "--to", "csv", "--all")
    assert files(tmp_path) == ["network-csv", "network.safetensors"]
    x = pictures(classifier, 7)
    found, expected = by_hand(tmp_path / "network-csv", x.numpy()), answers(classifier, x)[0]
    assert np.abs(found - expected).max() < 1e-5
    network, layers = classifier.network, len(classifier.network.w)
    for s, seed in enumerate(classifier.seeds):
        for l in range(layers):
            table = read(tmp_path / "network-csv" / f"start{s + 1}-seed{seed}-layer{l + 1}.csv")
            exact = np.array([row[1:] for row in table[1:]], np.float32)
            assert np.array_equal(exact[:-1], network.w[l][s]) and np.array_equal(exact[-1], network.b[l][s])


def test_no_class_name_is_run_as_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "plain = 1", "", os.fsdecode(b"L\xf6we"))
    export(monkeypatch, replace(ONE, classes=names).saved(tmp_path), "--to", "csv")
    folder = tmp_path / "network-csv"
    safe = [f"'{name}" for name in names[:8]] + ["plain = 1", "", "L\\udcf6we"]
    assert read(folder / "start1-seed7-layer2.csv")[0][1:] == [f"output.{name}" for name in (*names[:10], safe[10])]
    about = read(folder / "about.csv")
    assert [value for key, value in about if key.startswith("class ")] == safe
    numbers = re.compile(r"-?[\d.]+(e-?\d+)?")
    for path in folder.iterdir():
        for cell in (cell for row in read(path) for cell in row):
            assert numbers.fullmatch(cell) or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize(
    ("words", "name", "seed"), [((), "network-csv", 7), (("--start", "8"), "network-start8-csv", 8)]
)
def test_csv_of_one_start(
    words: tuple[str, ...],
    name: str,
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = THREE.saved(tmp_path)
    export(monkeypatch, model, "--to", "csv", *words)
    assert ("the best of 3 starts, seed 7 (--all" in capsys.readouterr().out) == (not words)
    assert files(tmp_path / name) == ["about.csv", *(f"start1-seed{seed}-layer{l}.csv" for l in (1, 2, 3))]
    alone = load(model).only(seed)
    x = pictures(alone, 7)
    assert np.abs(by_hand(tmp_path / name, x.numpy()) - answers(alone, x)[0]).max() < 1e-5
    assert "start 5: " in refused(monkeypatch, model, "--to", "csv", "--start", "5")


# ---------------------------------------------------------------- whole and right, or not there


@pytest.mark.parametrize("form", FORMS)
def test_a_program_that_answers_otherwise_is_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    model = THREE.saved(tmp_path, weights=5)
    earlier = tmp_path / ("network.onnx" if form == "onnx" else "network.pt2")
    earlier.write_text("earlier")
    monkeypatch.setattr(exporting, "vote", lambda outputs: outputs[0])
    sentence = refused(monkeypatch, model, "--to", form)
    assert "disagrees with hillstart" in sentence
    assert earlier.read_text() == "earlier" and files(tmp_path) == sorted([earlier.name, "network.safetensors"])


def test_numbers_that_do_not_read_back_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = spreadsheet._write
    monkeypatch.setattr(spreadsheet, "_write", lambda path, rows: write(path, [[cell[:8] for cell in r] for r in rows]))
    assert "do not read back" in refused(monkeypatch, ONE.saved(tmp_path), "--to", "csv")
    assert files(tmp_path) == ["network.safetensors"]


def test_a_folder_of_tables_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tables"
    out.mkdir()
    model = THREE.saved(tmp_path)
    export(monkeypatch, model, "--to", "csv", "--all", "--output", out)  # an empty folder will do
    before = files(out)
    assert len(before) == 10

    def full(path: Path, rows: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(spreadsheet, "_write", full)
        assert "No space left" in refused(patched, model, "--to", "csv", "--output", out)
    assert files(out) == before

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", lambda self: (_ for _ in ()).throw(OSError(30, "Read-only", str(self))))
        assert "tables cannot be written: Read-only" in refused(patched, model, "--to", "csv", "--output", out)
    assert files(out) == before

    with monkeypatch.context() as patched:  # the earlier one goes back where the new one cannot take its place
        rename = Path.rename
        taken = lambda self, target: full(self, ()) if ".new." in self.name else rename(self, target)  # noqa: E731
        patched.setattr(Path, "rename", taken)
        assert "No space left" in refused(patched, model, "--to", "csv", "--output", out)
    assert files(out) == before

    export(monkeypatch, model, "--to", "csv", "--output", out, "--start", "7")
    assert files(out) == ["about.csv", *(f"start1-seed7-layer{l}.csv" for l in (1, 2, 3))]
    (out / "mine.txt").write_text("mine")
    for taken in (out, out / "mine.txt"):
        assert "something else than exported tables" in refused(monkeypatch, model, "--to", "csv", "--output", taken)
    assert (out / "mine.txt").read_text() == "mine" and len(files(out)) == 5
    assert files(tmp_path) == ["network.safetensors", "tables"]


def test_what_was_given_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ONE.saved(tmp_path)
    for words in ([model], [model, "--to", "pdf"], [model, "--to", "csv", "--start", "x"], ["--to", "csv"]):
        with pytest.raises(SystemExit) as end:
            export(monkeypatch, *words)
        assert end.value.code == 2 and "usage" in capsys.readouterr().err
    assert "no such file" in refused(monkeypatch, tmp_path / "none.safetensors", "--to", "csv")
    assert "ends in .pt2" in refused(monkeypatch, model, "--to", "torch", "--output", model)
    assert "no such folder" in refused(monkeypatch, model, "--to", "onnx", "--output", tmp_path / "none" / "a.onnx")
    assert files(tmp_path) == ["network.safetensors"]
