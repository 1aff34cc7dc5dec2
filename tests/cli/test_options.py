"""The folder conf is found, and a wrong option is answered by the nearest right one."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import hillstart.config.conf
from hillstart.cli import train
from hillstart.cli.mistakes import explain
from hillstart.cli.options import resumed_checkpoint, resumed_options, with_resumed_folder
from hillstart.config.build import plain
from hillstart.config.conf import conf_folder
from hillstart.system.errors import InputError

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("descent.etta=1", "descent.etta: there is no such key; the nearest is descent.eta"),
        ("descnt=adam", "descnt: there is no such key; the nearest is descent"),
        ("data=lionduck", "data=lionduck: there is no such choice; the nearest is lion_duck"),
        ("data.root=here", "data.root: the chosen data has no such key; it belongs to data="),
        ("startz=3", "startz: there is no such key; the nearest is start"),
        ("lr=0.1", "lr: there is no such key; the nearest is descent.eta."),
        ("model.epochs=3", "model.epochs: there is no such key; the nearest is trainer.max_epochs."),
        ("+data.seed=3", "+data.seed: there is such a key already; use data.seed="),
        ("+experiment=lion_duck", "+experiment: use experiment=lion_duck"),
        ("network.hidden=3,4", "network.hidden=3,4: several values need -m"),
        ("~nothing", "nothing: there is no such key"),
        ("experiment=nielsen", "experiment=nielsen: there is no such choice; the nearest is nielsen_30"),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs: the chosen parts of Hydra have no such key"),
        ("hydra/sweeper=basik", "hydra/sweeper=basik: there is no such choice; the nearest is basic"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest_right_one(option: str, sentence: str) -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"), pytest.raises(Exception) as caught:
        compose("train", [option])
    assert explain(caught.value).startswith(sentence)
    assert "\n" not in explain(caught.value)


def test_a_reference_that_leads_nowhere_is_named_by_its_key() -> None:
    with pytest.raises(OmegaConfBaseException) as caught:
        plain(composed("data.seed=${oc.env:NOT_SET}"))
    assert explain(caught.value).startswith("data.seed: ") and "NOT_SET" in explain(caught.value)


def test_a_key_misspelt_in_a_sweep_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1", "descent.etta=0.1,0.5"])
    with pytest.raises(SystemExit) as end:
        train.train()
    assert end.value.code == (
        "hillstart: 4 of 4 jobs failed: descent.etta: there is no such key; the nearest is descent.eta."
    )


def test_conf_is_found_in_a_checkout() -> None:
    assert conf_folder() == TOP / "conf"
    assert (conf_folder() / "train.yaml").is_file()


def test_conf_is_found_where_a_wheel_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "hillstart"
    shutil.copytree(TOP / "conf", installed / "conf")
    monkeypatch.setattr(hillstart.config.conf, "__file__", str(installed / "config" / "conf.py"))
    assert conf_folder() == installed / "conf"


@pytest.mark.slow
def test_conf_is_found_by_an_editable_install_from_anywhere(tmp_path: Path) -> None:
    code = "from hillstart.config.conf import conf_folder; print(conf_folder())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == TOP / "conf"


@cache
def composed(*options: str) -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("train", list(options))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What a run leaves that was given `data.train`, an experiment and a cost; nothing is in its checkpoint."""
    typed = ["experiment=lion_duck", "data.train=400", "network.cost=quadratic", "resume=before", "hydra.run.dir=x"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(composed(*typed[:3]), tmp_path / ".hydra/config.yaml")
    OmegaConf.save(typed, tmp_path / ".hydra/overrides.yaml")
    return tmp_path


def resumed(folder: Path, *typed: str) -> tuple[dict[str, Any], list[str]]:
    words = with_resumed_folder([*typed, f"resume={folder}"])
    assert words[-1] == f"hydra.run.dir='{folder}'"
    return resumed_options(folder, plain(composed(*words[:-2])), words[:-1])  # without the folder, to be kept


@pytest.mark.parametrize("named", ["", "checkpoints/last.ckpt"])
def test_a_resumed_run_has_the_options_it_began_with(run_folder: Path, named: str) -> None:
    assert with_resumed_folder(["starts=3"]) == ["starts=3"]
    words = with_resumed_folder([f"resume={run_folder / named}", "trainer.max_epochs=9"])
    assert words == [
        "experiment=lion_duck",
        "trainer.max_epochs=9",
        f"resume='{run_folder / named}'",
        f"hydra.run.dir='{run_folder}'",
    ]
    options, typed = resumed(run_folder, "trainer.max_epochs=9", "~descent.fuse")
    assert options["data"]["train"] == 400
    assert options["network"]["cost"] == "quadratic"
    assert options["trainer"]["max_epochs"] == 9
    assert "fuse" not in options["descent"]
    assert typed[:4] == ["experiment=lion_duck", "data.train=400", "network.cost=quadratic", "trainer.max_epochs=9"]


def test_a_resumed_run_may_be_given_another_file_of_a_group(run_folder: Path) -> None:
    options, _ = resumed(run_folder, "descent=adam", "descent.eta=0.01")
    assert options["descent"]["optimiser"]["_target_"] == "torch.optim.Adam"
    assert options["descent"]["eta"] == 0.01
    with pytest.raises(InputError, match="experiment=photos"):
        resumed(run_folder, "experiment=photos")


def test_a_run_is_not_resumed_as_a_multirun(run_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^resume"):
        with_resumed_folder(["-m", f"resume={run_folder}"])


def test_a_multirun_is_resumed_with_its_own_options(tmp_path: Path) -> None:
    overrides = "{task: ['seed=1,2', starts=1], hydra: [hydra.mode=MULTIRUN, hydra.sweep.subdir=x]}"
    (tmp_path / "multirun.yaml").write_text(f"hydra: {{overrides: {overrides}}}")
    words = with_resumed_folder([f"resume={tmp_path}", "hydra/launcher=joblib"])
    kept = ["-m", "seed=1,2", "starts=1", "hydra.sweep.subdir=x"]
    assert words == [*kept, "hydra/launcher=joblib", f"hydra.sweep.dir='{tmp_path}'"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("overrides.yaml", "- &a starts=4\n- *a\n", "holds an alias"),
        ("overrides.yaml", "- starts=4\n" * 30_000, "larger than the options of any run"),
        ("overrides.yaml", "starts: 4\n", "holds no list"),
        ("overrides.yaml", "- [\n", "cannot be read"),
        ("overrides.yaml", "\0", "cannot be read"),
        ("config.yaml", "- starts\n", "holds no options"),
        ("config.yaml", "3: 4\n", "holds no options"),
        ("config.yaml", "starts: 2001-01-01\n", "starts is of type date"),
        ("config.yaml", "starts: !!python/object/apply:os.getpid []\n", "cannot be read"),
        ("config.yaml", "seed: ${oc.env:HOME}\n", "seed is the reference"),
        ("config.yaml", "[" * 3000, "cannot be read"),
    ],
)
def test_stored_options_that_no_run_wrote_are_refused(run_folder: Path, name: str, text: str, said: str) -> None:
    (run_folder / ".hydra" / name).write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        resumed(run_folder)
    assert name in str(refused.value)


def test_what_cannot_be_resumed_is_refused(run_folder: Path) -> None:
    with pytest.raises(InputError, match="give a run folder"):
        resumed_checkpoint(str(run_folder / "nowhere"))
    with pytest.raises(InputError, match="give a run folder"):
        resumed_checkpoint(str(run_folder / "checkpoints"))
    shutil.rmtree(run_folder / ".hydra")
    with pytest.raises(InputError, match="not the folder of a run"):
        with_resumed_folder([f"resume={run_folder}"])
