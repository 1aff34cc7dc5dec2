"""`hillstart.train` does what the command does, and leaves the process as it was."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import hillstart
from hillstart.config.conf import conf_folder
from hillstart.system.errors import InputError

SMALL: dict[str, Any] = {"data.train": 60, "data.test": 20, "hidden": [4], "starts": 2, "max_epochs": 2}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("starts.csv", "history.csv", "network.safetensors")}


def test_it_writes_what_the_command_writes(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = hillstart.train("report=false", **SMALL)
    said = capsys.readouterr().out
    assert "chosen by val cost" in said
    assert (
        next(line for line in said.splitlines() if line.startswith("chosen")) in (run.folder / "train.log").read_text()
    )
    assert run.starts["seed"].tolist() != [] and run.options["trainer"]["max_epochs"] == 2
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


def test_callbacks_are_called() -> None:
    class Count(pl.Callback):
        epochs = 0

        def on_train_epoch_end(self, *_: object) -> None:
            self.epochs += 1

    count = Count()
    hillstart.train("report=false", callbacks=[count], **SMALL)
    assert count.epochs == 2


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


def test_an_interrupt_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hillstart.train("report=false", callbacks=[Stop()], **SMALL)
    (folder,) = Path("outputs").glob("*/*")
    assert len(hillstart.train(f"resume={folder}").starts) == 2
