"""The commands as a user types them: what a run leaves behind, how it goes on, and how a mistake is answered."""

import importlib
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

import made
from forking import run_forked
from hillstart.cli import check_gradients
from hillstart.config.build import build_run_spec, composed_options
from hillstart.config.conf import conf_folder
from hillstart.config.options import read_stored_options
from hillstart.data.batches import Sample
from hillstart.engine.ensemble import Tile
from hillstart.inference import model_file
from launching import refused, train_in
from made import rows
from stored import Bomb

TOP = Path(__file__).parents[2]
SMALL = [*made.SMALL, "starts=3"]
pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which SMALL was trained, without the name of a folder for the run."""
    folder = tmp_path_factory.mktemp("trained")
    train_in(folder, *SMALL)
    return folder


@pytest.fixture
def run(trained: Path, empty_folder: None) -> Path:
    """A copy of that run, in the folder `run`."""
    (folder,) = trained.glob("outputs/*/*")
    return Path(shutil.copytree(folder, "run"))


def composed(*options: str) -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return composed_options(compose("train", list(options)))


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], 1),
        (["trainer.accelerator=cpu"], 0),
        (["-m", "seed=0,3"], 1),
    ],
)
def test_a_gpu_that_is_not_used_is_mentioned_once(
    words: list[str], lines: int, train: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    train(*SMALL, *words)
    said = capsys.readouterr().out
    assert said.count("trainer.accelerator=cuda") == lines
    assert "on cuda" not in said


def test_a_run_folder_holds_what_was_promised(trained: Path, run: Path) -> None:
    for name in (
        ".hydra/config.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "csv/version_0/metrics.csv",
    ):
        assert (run / name).is_file(), name
    assert not (run / "report.html").exists(), "report=false"
    summary = json.loads((run / "summary.json").read_text())
    promised = {"best_seed", "starts", "val_accuracy", "test_accuracy", "vote_test_accuracy", "seconds", "device"}
    assert {*promised, "versions"} <= set(summary)
    starts = rows(run / "starts.csv")
    assert [row["rank"] for row in starts] == ["1", "2", "3"]
    assert sorted(row["seed"] for row in starts) == ["0", "1", "2"]
    assert int(starts[0]["seed"]) == summary["best_seed"]
    assert float(starts[0]["val_cost"]) == min(float(row["val_cost"]) for row in starts)
    assert len(rows(run / "history.csv")) == 3 * 2
    log = (run / "train.log").read_text()
    (folder,) = trained.glob("outputs/*/*")
    assert f"chosen by val cost: seed {summary['best_seed']}" in log and str(folder.relative_to(trained)) in log


def test_the_chosen_start_is_tested_as_stored(run: Path) -> None:
    """The figures of the summary follow from the checkpoint alone."""
    best, data = model_file.load_checkpoint(run / "checkpoints/last.ckpt").network, composed(*SMALL).data()
    summary = json.loads((run / "summary.json").read_text())
    ((x, y),) = Sample(data.test, 2, data.preprocessing, torch.device("cpu")).batches()
    outputs = best.forward(x)[-1]
    right = outputs.argmax(-1) == y.argmax(-1)
    assert right[summary["best_seed"]].float().mean().item() == pytest.approx(summary["test_accuracy"])
    assert (outputs.mean(0).argmax(-1) == y.argmax(-1)).float().mean().item() == pytest.approx(
        summary["vote_test_accuracy"]
    )


def test_a_resumed_run_ends_like_an_uninterrupted_one_in_its_own_folder(train: Any, tmp_path: Path) -> None:
    train(*SMALL, "trainer.max_epochs=4", "descent.schedule=constant", "hydra.run.dir=whole")
    train(*SMALL, "descent.schedule=constant", "hydra.run.dir=half")
    train("resume=half", "trainer.max_epochs=4")
    train("resume=half/checkpoints/last.ckpt", "trainer.max_epochs=4")  # nothing left to do
    for name in ("starts.csv", "history.csv"):
        assert (tmp_path / "half" / name).read_text() == (tmp_path / "whole" / name).read_text()
    whole, half = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("whole", "half"))
    for key in ("best_seed", "test_accuracy", "vote_test_accuracy", "val_cost_of_starts"):
        assert half[key] == whole[key]


def test_a_grid_is_one_program_with_a_row_for_each_start(train: Any) -> None:
    train(*SMALL, "descent.eta=[0.1,0.01]", "descent.momentum=[0,0.9]", "hydra.run.dir=run")
    starts = rows("run/starts.csv")
    assert len(starts) == 3 * 2 * 2
    combinations = {(row["seed"], row["eta"], row["momentum"]) for row in starts}
    assert combinations == {(s, e, m) for s in "012" for e in ("0.1", "0.01") for m in ("0.0", "0.9")}
    best = json.loads(Path("run/summary.json").read_text())["best_hyperparameters"]
    assert (str(best["eta"]), str(best["momentum"])) == (starts[0]["eta"], starts[0]["momentum"])


@pytest.mark.parametrize(
    "options", [["descent=adam"], ["descent=adam", "descent.optimiser._target_=torch.optim.RMSprop"]]
)
def test_a_population_is_stepped_by_an_optimiser_of_torch(train: Any, options: list[str]) -> None:
    train(*SMALL, *options, "descent.eta=0.003", "descent.batch_size=8", "trainer.max_epochs=15", "hydra.run.dir=run")
    costs = [float(row["train_cost"]) for row in rows("run/history.csv")]
    assert all(last < 0.8 * first for first, last in zip(costs[:3], costs[-3:], strict=True))


def test_starts_descend_in_the_precision_of_the_option(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, descend = set[tuple[str, str]](), Tile.descend

    def spy(tile: Tile, blocks: Any, matmul: Any) -> None:
        seen.add((matmul.name, torch.get_float32_matmul_precision()))
        descend(tile, blocks, matmul)

    monkeypatch.setattr(Tile, "descend", spy)
    train(*SMALL, "trainer.matmul_precision=medium", "trainer.max_epochs=1")
    assert seen == {("bfloat16", "medium")}
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named(name: str, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"lightning.pytorch.loggers.{name}")
    for package in ("MLFLOW", "WANDB"):
        monkeypatch.setattr(module, f"_{package}_AVAILABLE", False, raising=False)
    sentence = refused(train, *SMALL, f"logger={name}")
    assert sentence == (
        f"hillstart: logger={name} needs a package that is not installed; pip install 'hillstart[{name}]' brings it."
    )


def test_mlflow_has_one_store_for_all_runs() -> None:
    """The options are those that Lightning's logger takes, even where mlflow is not installed."""
    import inspect

    from lightning.pytorch.loggers import MLFlowLogger
    from omegaconf import OmegaConf

    options = dict(OmegaConf.load(conf_folder() / "logger/mlflow.yaml"))
    assert options.pop("_target_") == "lightning.pytorch.loggers.MLFlowLogger"
    assert set(options) <= set(inspect.signature(MLFlowLogger.__init__).parameters)
    assert options["tracking_uri"] == "sqlite:///mlflow.db" and "save_dir" not in options


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("descent.eta=0", "descent.eta is 0; "),
        ("trainer.devices=9999", "trainer.devices is 9999, but there "),
        ("network.hidden=[100000,100000]", "network.hidden: to train one network of [784, 100000, 100000, 2] nodes"),
        ("+nothing=1", "nothing: there is no such key"),
        ("logger._target_=lightning.pytorch.loggers.CSVLoggr", "logger._target_ is "),
        ("hydra.output_subdir=null", "hydra.output_subdir is None; "),
        ("resume=nowhere", "resume=nowhere: there is no nowhere; give a run folder"),
        ("seed=[", ""),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    option: str, sentence: str, train: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it is noticed; config/test_options.py has the bounds of each option."""
    assert refused(train, *SMALL, option).startswith(f"hillstart: {sentence}")
    assert "Traceback" not in capsys.readouterr().err


def test_callbacks_of_ones_own_are_called_and_named_again_to_go_on(
    run: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    Path("counting.py").write_text(
        "import lightning.pytorch as pl\n\n\nclass Count(pl.Callback):\n    epochs = 0\n\n"
        "    def __init__(self, by=1):\n        self.by = by\n\n"
        "    def on_train_epoch_end(self, trainer, module):\n        Count.epochs += self.by\n"
    )
    mine = "+callbacks.mine._target_=counting.Count"
    train(*SMALL, mine, "+callbacks.mine.by=10", "pack=2", "hydra.run.dir=packs")
    counting = importlib.import_module("counting")
    assert counting.Count.epochs == 10 * 2 * 2, "two epochs of each of two packs"
    assert read_stored_options(Path("packs")).callbacks == {}, "the page of the run needs none of this code"
    train("resume=run", mine, "trainer.max_epochs=3")
    assert counting.Count.epochs == 41
    for wrong, sentence in (
        (["resume=run"], "callbacks.mine._target_ is 'counting.Count', which conf does not know"),
        ([*SMALL, "+callbacks.mine.by=1"], "callbacks.mine has no _target_"),
        ([*SMALL, "+callbacks.mine._target_=pathlib.Path"], "callbacks.mine._target_ is 'pathlib.Path'; it must be"),
        ([*SMALL, mine, "+callbacks.mine.bye=1"], "callbacks.mine: "),
    ):
        assert refused(train, *wrong).startswith(f"hillstart: {sentence}")
    train("resume=run", "callbacks=none", "trainer.max_epochs=4")
    assert counting.Count.epochs == 41
    sys.modules.pop("counting")


def test_a_mini_batch_is_never_larger_than_the_training_set(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert build_run_spec(composed(*SMALL, "descent.batch_size=96")).descent.batch_size == 96
        assert not caplog.records
        assert build_run_spec(composed(*SMALL, "descent.batch_size=97")).descent.batch_size == 96
    assert "descent.batch_size is 97, but 96 pictures are to train" in caplog.text


def test_a_sweep_without_jobs_is_refused(train: Any) -> None:
    assert "network.activation" in refused(train, "-m", *SMALL, "network.activation=glob(*)")


def test_a_refused_option_leaves_no_folder(train: Any) -> None:
    refused(train, *SMALL, "trainer.max_epochs=abc")
    refused(train, "-m", *SMALL, "hydra.output_subdir=null", "seed=0,3")
    assert not Path("outputs").exists() and not Path("multirun").exists()
    refused(train, *SMALL, "trainer.accelerator=cuda", "hydra.run.dir=no_cuda")
    refused(train, *SMALL, "data=folder", "data.root=nowhere", "hydra.run.dir=no_data")
    assert not Path("no_cuda").exists() and not Path("no_data").exists()


def test_a_refused_resume_leaves_the_run_as_it_was(run: Path, train: Any) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".log"}
    for option in ("starts=4", "data.size=20", "trainer.max_epochs=abc"):
        refused(train, "resume=run", option)
        assert {path: path.read_bytes() for path in before} == before, option
    train("resume=run", "trainer.max_epochs=3")
    assert "max_epochs: 3" in (run / ".hydra/config.yaml").read_text()
    assert "data.train=120" in (run / ".hydra/overrides.yaml").read_text()


def test_a_time_limit_is_shared_by_the_packs_and_leaves_each_start_measured(train: Any) -> None:
    train(*SMALL, "pack=1", "trainer.max_epochs=50", "trainer.max_time=00:00:00:00", "hydra.run.dir=run")
    starts = rows("run/starts.csv")
    assert [row["epochs"] for row in starts] == ["1", "1", "1"]
    assert all(float(row["val_cost"]) > 0 for row in starts)


def test_a_folder_with_a_broken_picture(train: Any) -> None:
    options = ["data=folder", "data.root=photos", "starts=2", "trainer.max_epochs=1", "report=false"]
    for name in ("lion", "duck"):
        Path("photos", name).mkdir(parents=True)
        for i in range(8):
            Image.effect_noise((40, 50), 30 + 20 * i).save(f"photos/{name}/{i}.png")
    broken = Path("photos/duck/3.png")
    broken.write_bytes(broken.read_bytes()[:200])
    assert str(broken) in refused(train, *options)
    broken.unlink()
    train(*options, "data.augment=photo", "descent.batch_size=4", "hydra.run.dir=good")
    assert json.loads(Path("good/summary.json").read_text())["classes"] == ["duck", "lion"]
    assert "data.classes" in refused(train, *options, "data.classes=[duck,lyon]")


def test_what_is_no_checkpoint_is_refused(run: Path, train: Any) -> None:
    last = run / "checkpoints/last.ckpt"
    torch.save({"weights": 1}, "other.ckpt")
    for content in (Path("other.ckpt").read_bytes(), pickle.dumps(Bomb(Path("ran")))):
        last.write_bytes(content)
        assert "last.ckpt is not a checkpoint" in refused(train, "resume=run")
    assert not Path("ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["few", "2.5"])
def test_a_batch_size_that_is_no_whole_number(size: str, tmp_path: Path) -> None:
    """In a process of its own: here the types that are checked while tests run would notice it first."""
    command = [sys.executable, TOP / "scripts/train.py", f"descent.batch_size={size}", "data.train=40"]
    end = run_forked(command, cwd=tmp_path, capture_output=True, text=True)
    assert end.returncode == 1
    shown = size if size == "2.5" else f"'{size}'"
    assert end.stderr == f"hillstart: descent.batch_size is {shown}; it must be a whole number, 1 or more.\n"


@pytest.mark.slow
def test_the_script_is_quiet_without_a_terminal_and_ends_with_a_code() -> None:
    script = [sys.executable, str(TOP / "scripts/train.py"), *SMALL]
    good = subprocess.run(script, capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert good.stderr == ""
    assert "\r" not in good.stdout
    assert "\x1b" not in good.stdout
    bad = run_forked([*script, "descent.eta=fast"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stderr.startswith("hillstart: descent.eta is 'fast'; ") and bad.stderr.count("\n") == 1


def test_check_gradients_prints_a_row_for_each_layer(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["check_gradients.py", *SMALL, "network.hidden=[5,4]", "network.cost=log_likelihood", "descent.lmbda=1"],
    )
    check_gradients.main()
    shown = capsys.readouterr().out
    assert "network [784, 5, 4, 2], sigmoid, log_likelihood: 3 starts" in shown
    assert re.findall(r"^ +(\d)  ([wb]) ", shown, re.M) == [(layer, kind) for layer in "123" for kind in "wb"]
