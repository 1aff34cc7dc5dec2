"""Trained networks put to use: training and prediction see the same numbers, whatever the picture and its form."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hillstart
from hillstart.data import folder
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import classifier as module
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.inference.prediction import Prediction
from hillstart.inference.voting import Calibration, probabilities
from hillstart.network import Network
from hillstart.system.errors import InputError
from hillstart.training.module import Training
from made import trainer, training
from pretended import Device

SIZE = 6


def model(
    starts: int = 4, *, channels: int = 1, classes: int = 3, calibrated: bool = True, **network: Any
) -> Classifier:
    names = ("lion", "duck", "<b>owl</b>", "cat")[:classes]
    net = Network.start([channels * SIZE**2, 5, classes], range(starts), **({"cost": "log_likelihood"} | network))
    calibration = Calibration(0.5, tuple(1.0 + s for s in range(starts))) if calibrated else None
    preprocessing = Preprocessing(SIZE, channels, mean=(0.4,) * channels, std=(0.3,) * channels)
    return Classifier(
        net, tuple(Start(s, Hyperparameters(0.1)) for s in range(starts)), names, preprocessing, calibration
    )


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def odd_pictures(root: Path) -> list[Path]:
    """Odd kinds of pictures, of sizes that must be cut and resized; tests/data/test_images.py has them all."""
    root.mkdir(parents=True)
    colour, grey = Image.fromarray(noise(0, 40, 30, 3)), Image.fromarray(noise(1, 31, 50))
    deep = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (20, 20), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = Image.fromarray(noise(3, 20, 25, 4))
    palette = colour.quantize(16)
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.jpg": (grey, {}),
        "deep.png": (deep, {}),
        "turned.jpg": (colour, {"exif": exif}),
        "alpha.webp": (alpha, {"lossless": True}),
        "palette.png": (palette, {"transparency": 3}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "1.png": (grey.crop((0, 0, 1, 1)), {}),
        "large.jpg": (colour.resize((900, 700)), {"quality": 90}),
        "moving.gif": (palette, {"save_all": True, "append_images": [grey.convert("P")]}),
        "long.bmp": (Image.fromarray(noise(4, 5, 300, 3)), {}),
    }
    for name, (image, how) in made.items():
        image.save(root / name, **how)
    return sorted(root / name for name in made)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What networks are shown."""
    shown, forward = list[torch.Tensor](), Network.forward

    def spy(self: Network, x: torch.Tensor) -> Any:
        shown.append(x)
        return forward(self, x)

    monkeypatch.setattr(Network, "forward", spy)
    return shown


# ---------------------------------------------------------------- the same numbers as in training


@pytest.mark.parametrize("colour", [True, False])
def test_a_file_gives_the_same_tensor_in_training_and_in_prediction(
    tmp_path: Path, seen: list[torch.Tensor], colour: bool
) -> None:
    odd = odd_pictures(tmp_path / "train/odd")
    for split, name in (("train", "plain"), ("val", "odd"), ("val", "plain"), ("test", "odd"), ("test", "plain")):
        (tmp_path / split / name).mkdir(parents=True)
        Image.fromarray(noise(5, 9, 9)).save(tmp_path / split / name / "a.png")
    data = folder.load(root=tmp_path, size=SIZE, colour=colour, background=200)
    trained_on = data.preprocessing.normalise(data.train.x[: len(odd)])

    net = Network.start([trained_on.shape[1], 5, 2], range(3))
    starts = tuple(Start(s, Hyperparameters(0.1)) for s in range(3))
    model_file.save(tmp_path / "network.safetensors", Classifier(net, starts, data.classes, data.preprocessing))
    found = hillstart.load(tmp_path / "network.safetensors").predict(odd)
    assert torch.equal(seen[-1], trained_on)
    expected = net.forward(trained_on)[-1].mean(0)
    assert [p.label for p in found] == [data.classes[k] for k in expected.argmax(-1).tolist()]


def test_every_form_of_a_picture_gives_the_same_answer(tmp_path: Path) -> None:
    classifier, array = model(channels=3), noise(0, 9, 9, 3)
    Image.fromarray(array).save(path := tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    files = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes())]
    same = [*files, Image.fromarray(array), array, array / 255, tensor, tensor / 255, tensor.numpy(), tensor.mT.mT]
    answers = [classifier.predict(source) for source in same]
    assert all(answer._replace(path=None) == answers[0]._replace(path=None) for answer in answers)
    assert [answer.path for answer in answers] == [str(path), str(path), *[None] * 10]
    with path.open("rb") as file:
        assert classifier.predict(file)._replace(path=str(path)) == answers[0]
    (tmp_path / "below").mkdir()
    Image.fromarray(array).save(tmp_path / "below/b.png")
    assert [answer.path for answer in classifier.predict(tmp_path)] == [str(path), str(tmp_path / "below/b.png")]
    stacks = np.stack([array, array]), np.stack([array, array]) / 255, torch.stack([tensor, tensor])
    for many in (*stacks, [array, tensor], (a for a in [path, path]), tmp_path):
        for answer in classifier.predict(many):  # a product of two rows may round otherwise than one of one row
            assert (answer.label, answer.agreement) == (answers[-1].label, answers[-1].agreement)
            assert answer.probabilities == pytest.approx(answers[-1].probabilities, abs=1e-6)
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (torch.zeros(5, 6, 7, dtype=torch.uint8), "the given tensor"),
        (np.zeros((3, 8, 4), np.uint8), "the given array"),
        (np.zeros(36, np.uint8), "the given array"),
        (np.zeros((9, 9, 3), np.uint16), "the given array"),
        (np.zeros((5, SIZE**2), np.uint8), "the given array"),
        (np.full((9, 9), 200.0), "the given array"),
        (torch.zeros(4, 4, dtype=torch.int32), "the given tensor"),
        (torch.full((4, 4), 1.5), "the given tensor"),
        (torch.full((4, 4), torch.nan), "the given tensor"),
        (torch.zeros(3, 0, 5), "the given tensor"),
        ("nowhere.png", "nowhere.png"),
        (b"nonsense", "the given bytes"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(wrong: Any, named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: [^\n]*\.$"):
        model().predict(wrong)


# ---------------------------------------------------------------- the answer


@pytest.mark.parametrize("cost", ["quadratic", "cross_entropy", "log_likelihood"])
def test_an_answer_is_the_vote_with_its_temperature(cost: str) -> None:
    classifier = model(cost=cost)
    pictures = [noise(i, 8, 8) for i in range(20)]
    pixels = torch.stack([read_picture(picture, classifier.preprocessing) for picture in pictures])
    outputs = classifier.network.forward(classifier.preprocessing.normalise(pixels))[-1]
    for i, answer in enumerate(classifier.predict(pictures)):
        mean = outputs[:, i].mean(0)
        expected = mean**2 / (mean**2).sum()  # the temperature of the vote is 1/2
        assert answer.label == classifier.classes[int(mean.argmax())]
        assert answer.probability == pytest.approx(float(expected.max()), abs=1e-6)
        assert [answer.probabilities[name] for name in classifier.classes] == pytest.approx(expected.tolist(), abs=1e-6)
        assert list(answer.probabilities.values()) == sorted(answer.probabilities.values(), reverse=True)
        assert next(iter(answer.probabilities)) == answer.label
        assert [opinion.seed for opinion in answer.opinions] == [0, 1, 2, 3]
        for s, opinion in enumerate(answer.opinions):
            own = probabilities(outputs[s, i], 1.0 + s)
            assert opinion.label == classifier.classes[int(own.argmax())]
            assert opinion.probability == pytest.approx(float(own.max()), abs=1e-6)
        assert answer.agreement == sum(opinion.label == answer.label for opinion in answer.opinions) / 4


def test_unsure_where_too_few_agree() -> None:
    classifier = model(starts=8)
    pictures = [noise(i, 8, 8) for i in range(50)]
    answers = classifier.predict(pictures)
    assert {answer.unsure for answer in answers} == {True, False}
    assert all(answer.unsure == (answer.agreement < 0.75) for answer in answers)
    assert not any(answer.unsure for answer in classifier.predict(pictures, unsure_below=0.0))
    assert all(answer.unsure == (answer.agreement < 1) for answer in classifier.predict(pictures, unsure_below=1.0))


def test_one_start_alone() -> None:
    classifier, picture = model(), noise(0, 8, 8)
    alone = classifier.only(2)
    answer = alone.predict(picture)
    assert alone.seeds == (2,) and answer.agreement == 1 and not answer.unsure
    assert classifier.predict(picture).opinions[2] == answer.opinions[0]
    assert answer.probability == answer.opinions[0].probability
    with pytest.raises(InputError, match="start 9"):
        classifier.only(9)


def test_a_stream_is_answered_in_order_in_steady_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(module, "AHEAD", 2)  # tasks of 16 pictures
    taken = 0

    def pictures() -> Iterator[np.ndarray | str]:
        nonlocal taken
        for i in range(200):
            taken += 1
            yield str(tmp_path / "missing.png") if i % 100 == 7 else noise(i, SIZE, SIZE)

    classifier, ahead = model(), 0
    for i, answer in enumerate(classifier.predict_each(pictures())):
        ahead = max(ahead, taken - i)
        if i % 100 == 7:
            assert isinstance(answer, InputError) and "missing.png" in str(answer)
        else:
            (alone,) = classifier.answer(torch.from_numpy(noise(i, 1, 1, SIZE, SIZE)))
            assert isinstance(answer, Prediction) and answer.label == alone.label
    assert i == 199
    assert ahead <= 4 * 16


def test_large_layers_are_fed_fewer_pictures_at_a_time(
    seen: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 4 * 36 * 10)
    assert len(model().predict(list(noise(0, 35, SIZE, SIZE)))) == 35
    assert [len(x) for x in seen] == [10, 10, 10, 5]


# ---------------------------------------------------------------- where networks are loaded from


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    """The folder of a training of three starts, with its checkpoints alone."""
    folder, made = tmp_path_factory.mktemp("fitted"), training(3)
    trainer(folder).fit(made)
    return folder, made


@pytest.fixture
def run(fitted: tuple[Path, Training], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(fitted[0], tmp_path / "run")


def test_a_run_folder_a_model_file_and_a_checkpoint(run: Path, fitted: tuple[Path, Training]) -> None:
    picture, checkpoint = noise(0, SIZE, SIZE), run / "checkpoints/last.ckpt"
    early = hillstart.load(run)  # of a run that has not finished a pack
    assert early.predict(picture) == hillstart.load(str(checkpoint)).predict(picture)
    assert sorted(early.seeds) == [0, 1, 2] and early.seeds[0] == fitted[1].history.ranking()[0]
    model_file.save(run / "network.safetensors", model())
    whole = hillstart.load(run)
    assert whole.predict(picture) == hillstart.load(run / "network.safetensors").predict(picture)
    assert whole.seeds == (0, 1, 2, 3) and whole.calibrated


@pytest.fixture
def multirun(run: Path) -> Path:
    """Two jobs, the second the best, and the checkpoint of the pack that they were trained in."""
    folder = run.rename(run.with_name("multirun"))
    for job in range(2):
        (folder / str(job)).mkdir(parents=True)
        model_file.save(folder / str(job) / "network.safetensors", model(job + 1))
    (folder / "multirun.yaml").write_text("{}")
    (folder / "summary.json").write_text(json.dumps({"jobs": 2, "best_job": "1"}))
    return folder


def test_a_multirun_answers_by_its_best_job_and_says_so(multirun: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert hillstart.load(multirun).seeds == (0, 1)
    assert "its best job, 1" in caplog.text
    caplog.clear()
    assert hillstart.load(multirun / "0").seeds == (0,)
    assert not caplog.text


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (None, "several runs"),
        ("{", "summary.json"),
        ('{"jobs": 2}', "several runs"),
        ('{"jobs": 2, "best_job": "../other"}', "best_job"),
        ('{"jobs": 2, "best_job": "/etc"}', "best_job"),
        ('{"jobs": 2, "best_job": 1}', "best_job"),
        ('{"jobs": 2, "best_job": "7"}', "best_job"),
    ],
)
def test_a_multirun_without_a_best_job_is_refused(multirun: Path, summary: str | None, sentence: str) -> None:
    (multirun / "summary.json").unlink()
    if summary is not None:
        (multirun / "summary.json").write_text(summary)
    with pytest.raises(InputError, match=sentence):
        hillstart.load(multirun)


def test_folders_and_files_that_are_no_single_run_are_refused(multirun: Path) -> None:
    for path, named in (
        *((multirun / "checkpoints" / name, "several jobs") for name in ("last.ckpt", "best.ckpt")),
        (multirun / "checkpoints", "holds neither"),
        (multirun / "nothing.safetensors", r"nothing\.safetensors"),
    ):
        with pytest.raises(InputError, match=named):
            hillstart.load(path)
    (multirun / "multirun.yaml").unlink()
    (multirun / "summary.json").unlink()  # now it might as well be outputs/DATE
    with pytest.raises(InputError, match="0, 1"):
        hillstart.load(multirun)
    for device in ("cuda:99", "nonsense", "meta"):
        with pytest.raises(InputError, match=r"^device: "):
            hillstart.load(multirun / "0", device)


def test_what_is_not_calibrated_says_so(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = run / "checkpoints/best.ckpt"
    found = hillstart.load(checkpoint)
    assert "best.ckpt: its probabilities are not calibrated" in caplog.text and "; those of" not in caplog.text
    assert not found.calibrated and not found.predict(noise(0, SIZE, SIZE)).calibrated
    assert not found.only(0).calibrated
    pixels = torch.from_numpy(noise(0, 1, 1, SIZE, SIZE))
    (answer,) = found.answer(pixels)
    assert answer.probability == pytest.approx(float(probabilities(found.outputs(pixels).mean(0)).max()), abs=1e-6)
    model_file.save(run / "network.safetensors", model())
    hillstart.load(checkpoint)
    assert f"; those of {run} are" in caplog.text
    caplog.clear()
    found = hillstart.load(run)
    assert found.calibrated and found.predict(noise(0, SIZE, SIZE)).calibrated and not caplog.text


def test_the_answer_is_the_same_on_cuda(tmp_path: Path, cuda: Device | None) -> None:
    model_file.save(tmp_path / "network.safetensors", model())
    pictures = [noise(i, 8, 8) for i in range(20)]
    on_cpu, on_cuda = (hillstart.load(tmp_path, device).predict(pictures) for device in ("cpu", "cuda"))
    for a, b in zip(on_cpu, on_cuda, strict=True):
        assert a.label == b.label and a.probability == pytest.approx(b.probability, abs=1e-5)


@pytest.mark.slow
def test_inference_needs_neither_lightning_nor_hydra() -> None:
    commands = "hillstart.cli.predict, hillstart.inference.explain"
    code = f"import sys, hillstart, {commands}; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in found
    assert not {"lightning", "hydra", "omegaconf", "torchmetrics", "torchvision", "scipy", "rich"} & set(found)
