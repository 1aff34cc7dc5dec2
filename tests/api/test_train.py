"""`hillstart.train` does what the command does, and leaves the process as it was."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import hillstart
from hillstart.config.conf import conf_folder
from hillstart.system.errors import InputError
from hillstart.system.machine import device_name
from made import blobs

SMALL: dict[str, Any] = {"data.train": 60, "data.test": 20, "hidden": [4], "starts": 2, "max_epochs": 2}


@pytest.fixture(autouse=True)
def within_a_kernel(empty_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("starts.csv", "history.csv", "network.safetensors")}


def test_it_writes_what_the_command_writes(
    train: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)  # which is mentioned, and not used
        run = hillstart.train("report=false", **SMALL)
    said = capsys.readouterr().out
    assert said.count("trainer.accelerator=cuda") == 1
    (chosen,) = (line for line in said.splitlines() if line.startswith("chosen by val cost"))
    assert chosen in (run.folder / "train.log").read_text()
    assert run.summary["device"] == device_name(torch.device("cpu")) and run.options["trainer"]["max_epochs"] == 2
    words = ["data.train=60", "data.test=20", "network.hidden=[4]", "starts=2", "trainer.max_epochs=2"]
    train(*words, "report=false", "hydra.run.dir=typed")
    assert files(run.folder) == files(Path("typed"))
    longer = hillstart.train(f"resume={run.folder}", max_epochs=3)
    assert longer.folder.samefile(run.folder) and longer.options["trainer"]["max_epochs"] == 3


def test_the_process_stays_as_it_was() -> None:
    def state() -> Any:
        root, ours = logging.getLogger(), logging.getLogger("hillstart")
        loggers = [
            (of.handlers[:], of.level, of.propagate) for of in (root, ours, logging.getLogger("lightning.pytorch"))
        ]
        return loggers, sys.argv[:], warnings.filters[:], GlobalHydra.instance().hydra

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        before = state()
        hillstart.train("report=false", **SMALL)
        with pytest.raises(InputError):
            hillstart.train(starts=0)
        assert state() == before
        assert compose("train").starts is None


@pytest.mark.parametrize(
    ("overrides", "options", "named"),
    [
        ((), {"start": 3}, "network.start"),
        ((), {"strats": 3}, "starts"),
        ((), {"data": "table", "root": "none.csv"}, "none.csv"),
        ((), {"lr": 3}, "descent.eta"),
        (("-m",), {}, "-m"),
        (("trainer.devices=2",), {}, "trainer.devices=2"),
        (("report=false",), {**SMALL, "batch_size": 0}, "descent.batch_size"),
    ],
)
def test_a_wrong_option_is_one_sentence(overrides: tuple[str, ...], options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as raised:
        hillstart.train(*overrides, **options)
    assert "\n" not in str(raised.value) and not str(raised.value).startswith("hillstart")
    assert list(Path().rglob("summary.json")) == []


class Stop(pl.Callback):
    """Interrupts after the first epoch, or when the second begins."""

    def __init__(self, hook: str = "on_train_epoch_end"):
        setattr(self, hook, self.interrupt)

    def interrupt(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step:
            raise KeyboardInterrupt


def test_a_run_goes_on_after_an_interrupt() -> None:
    whole = hillstart.train("report=false", **SMALL)
    for hook in ("on_train_epoch_end", "on_train_epoch_start"):
        with pytest.raises(KeyboardInterrupt):
            hillstart.train("report=false", f"hydra.run.dir={hook}", callbacks=[Stop(hook)], **SMALL)
        assert files(hillstart.train(f"resume={hook}").folder) == files(whole.folder), hook


# ---------------------------------------------------------------- data from Python

X = np.random.default_rng(0).normal(size=(60, 2))
Y = np.where(X.sum(1) > 0, "above", "below")
OF_ROWS: dict[str, Any] = {"hidden": [4], "starts": 2, "max_epochs": 3, "batch_size": 8}


def test_arrays_are_trained_on_as_the_same_rows_of_a_file() -> None:
    frame = pd.DataFrame(X, columns=["a", "b"])
    frame.assign(label=Y).to_csv("rows.csv", index=False)
    of_file = hillstart.train("report=false", data="table", root="rows.csv", **OF_ROWS)
    run = hillstart.train("report=false", data=(frame, Y), **OF_ROWS)
    for name in ("starts.csv", "history.csv"):
        assert (run.folder / name).read_bytes() == (of_file.folder / name).read_bytes()
    assert run.summary["vote_test"] == of_file.summary["vote_test"]
    answers = [str(of.classifier.predict([{"a": 1.0, "b": 2.0}, {"a": -3.0, "b": 0.0}])) for of in (run, of_file)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("data", [(X, Y), blobs()], ids=["arrays", "set"])
def test_a_resumed_run_on_data_of_python_is_the_one_without_a_break(data: Any) -> None:
    whole = hillstart.train("report=false", data=data, **OF_ROWS)
    with pytest.raises(KeyboardInterrupt):
        hillstart.train("report=false", "hydra.run.dir=broken", data=data, callbacks=[Stop()], **OF_ROWS)
    with pytest.raises(InputError, match=r'^data=\w+: .*"resume=RUN"'):
        hillstart.train("resume=broken")
    other = (X + 1, Y) if isinstance(data, tuple) else blobs(104)
    with pytest.raises(InputError, match=r"^resume: .*train pictures"):
        hillstart.train("resume=broken", data=other)
    assert files(hillstart.train("resume=broken", data=data).folder) == files(whole.folder)


def test_the_page_of_a_run_on_arrays_needs_them_and_the_rest_does_not() -> None:
    run = hillstart.train("report=false", "hydra.run.dir=run", data=(X, Y), **OF_ROWS)
    alone = hillstart.open_run("run")
    assert alone.initial(0).sizes == [2, 4, 2] and len(alone.starts) == 2
    assert alone.classifier.predict(X[:3]) == run.classifier.predict(X[:3])
    with pytest.raises(InputError, match=r"^data=arrays: .*hillstart\.open_run"):
        alone.report()
    with pytest.raises(InputError, match=r"^run: was trained on other rows"):
        hillstart.open_run("run", data=(X + 1, Y)).report()
    page = run.report().path.read_bytes()
    Path("run/report.html").unlink()
    assert b'id="boundary"' in page and hillstart.open_run("run", data=(X, Y)).report().path.read_bytes() == page


def test_arrays_of_pictures_are_opened_by_the_page() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    run = hillstart.train(data=(pictures, Y), augment="light", **OF_ROWS)
    assert run.options["data"]["augment"] == "light" and run.classifier.network.sizes == [64, 4, 2]
    assert 'id="network"' in (run.folder / "report.html").read_text()


def test_what_is_no_data_is_one_sentence() -> None:
    for data, named in ((X, "^data is not one of"), ((X, Y[:9]), "^data: y has shape"), ((X, X), "^data: y has shape")):
        with pytest.raises(InputError, match=named):
            hillstart.train(data=data)
    with pytest.raises(InputError, match=r"^data\.val_fraction"):
        hillstart.train(data=blobs(), val_fraction=0.3)
    assert list(Path().rglob("*.csv")) == []
