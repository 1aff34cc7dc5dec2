"""Where conf is found, and a wrong option answered by naming the nearest right one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import hillstart.configuration
from hillstart import commands
from hillstart.errors import InputError
from hillstart.options import check_words, explain, resumed_checkpoint, with_resumed_options
from hillstart.run_options import conf_folder

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("descent.etta=1", "descent.etta: there is no such key; the nearest is descent.eta"),
        ("descnt=adam", "descnt: there is no such key; the nearest is descent"),
        ("data=lionduck", "data=lionduck: there is no such choice; the nearest is lion_duck"),
        ("data.root=here", "data.root: the chosen data has no such key; it belongs to data="),
        ("startz=3", "startz: there is no such key; the nearest is start"),
        ("experiment=nielsen", "experiment=nielsen: there is no such choice; the nearest is nielsen_30"),
        ("hydra/sweeper=basik", "hydra/sweeper=basik: there is no such choice; the nearest is basic"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest_right_one(option: str, sentence: str) -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"), pytest.raises(Exception) as caught:
        compose("train", [option])
    assert explain(caught.value).startswith(sentence)
    assert "\n" not in explain(caught.value)


def test_a_key_misspelt_in_a_sweep_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=range(0,3)", "descent.etta=0.1,0.5"])
    with pytest.raises(SystemExit) as end:
        commands.train()
    assert end.value.code == (
        "hillstart: 6 of 6 jobs failed: descent.etta: there is no such key; the nearest is descent.eta."
    )


def test_conf_is_found_in_a_checkout() -> None:
    assert conf_folder() == TOP / "conf"
    assert (conf_folder() / "train.yaml").is_file()


def test_conf_is_found_where_a_wheel_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages" / "hillstart"
    shutil.copytree(TOP / "conf", installed / "conf")
    monkeypatch.setattr(hillstart.configuration, "__file__", str(installed / "configuration.py"))
    assert conf_folder() == installed / "conf"


def test_conf_is_found_by_an_editable_install_from_anywhere(tmp_path: Path) -> None:
    code = "from hillstart.run_options import conf_folder; print(conf_folder())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == TOP / "conf"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text(
        "- starts=4\n- descent.eta=0.2\n- resume=before\n- hydra.run.dir=x\n"
    )
    return tmp_path


@pytest.mark.parametrize("named", ["", "checkpoints/last.ckpt"])
def test_a_resumed_run_has_the_options_it_began_with(run_folder: Path, named: str) -> None:
    options = with_resumed_options([f"resume={run_folder / named}", "trainer.max_epochs=9"])
    assert options == [
        "starts=4",
        "descent.eta=0.2",
        f"resume={run_folder / named}",
        "trainer.max_epochs=9",
        f"hydra.run.dir='{run_folder}'",
    ]
    assert with_resumed_options(["starts=3"]) == ["starts=3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- &a starts=4\n- *a\n", "holds an alias"),
        ("- starts=4\n" * 30_000, "longer than the options of any run"),
        ("starts: 4\n", "holds no list"),
        ("- [\n", "cannot be read"),
        ("\0", "cannot be read"),
    ],
)
def test_stored_options_that_no_run_wrote_are_refused(run_folder: Path, text: str, said: str) -> None:
    (run_folder / ".hydra/overrides.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        with_resumed_options([f"resume={run_folder}"])


@pytest.mark.parametrize("option", ["=3", "network=null", "data=", "descent=[adam]", "logger={a:1}", "+=4"])
def test_what_names_nothing_is_refused(option: str) -> None:
    with pytest.raises(InputError, match=r"there are|has no key"):
        check_words(["starts=3", option])
    check_words(["data=lion_duck", "-m", "+trainer.x=1", "network.hidden=[3]", "data.classes=null", "network=a,b"])


def test_what_cannot_be_resumed_is_refused(run_folder: Path) -> None:
    with pytest.raises(InputError, match="give a run folder"):
        resumed_checkpoint(str(run_folder / "nowhere"))
    with pytest.raises(InputError, match="give a run folder"):
        resumed_checkpoint(str(run_folder / "checkpoints"))
    shutil.rmtree(run_folder / ".hydra")
    with pytest.raises(InputError, match="not the folder of a run"):
        with_resumed_options([f"resume={run_folder}"])
