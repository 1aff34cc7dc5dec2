"""The folder of a run that a stranger made: whatever its options say, nothing of it is imported, called or followed."""

import copy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hillstart.cli import report, train
from hillstart.cli.options import with_resumed_folder
from hillstart.cli.train import BeforeTraining
from hillstart.config.build import plain
from hillstart.config.conf import conf_folder
from hillstart.config.options import read_stored_options
from hillstart.runs.reader import OPTIONS, OVERRIDES
from hillstart.system.errors import InputError

EVIL = "evil_of_a_stranger"
TYPED = ["data.train=40", "data.test=20", "starts=2", "descent=adam", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that Python imports from, with a module that leaves a mark when it is imported or called."""
    folder = tmp_path_factory.mktemp("elsewhere")
    mark = f"open({str(folder / 'ran')!r}, 'w').close()"
    (folder / f"{EVIL}.py").write_text(f"{mark}\nclass Evil:\n    def __init__(self, *a, **k):\n        {mark}\n")
    (folder / "conf" / "data").mkdir(parents=True)
    (folder / "conf" / "data" / "lion_duck.yaml").write_text(f"_target_: {EVIL}.Evil\n")
    (folder / "conf" / "train.yaml").write_text(f"stop:\n  _target_: {EVIL}.Evil\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", *TYPED, "report=false", "hydra.run.dir=run"])
        train.train()
    return folder / "run"


def payloads(elsewhere: Path) -> list[Any]:
    """What runs something where it is instantiated, composed or interpolated."""
    ran = str(elsewhere / "ran")
    return [
        {"_target_": f"{EVIL}.Evil"},
        {"_target_": EVIL, "_partial_": True},
        {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [ran]}]},
        {"_target_": "builtins.open", "file": ran, "mode": "w"},
        {"_target_": "torch.optim.adam.os.system", "command": f"touch {ran}"},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": f"{EVIL}.Evil"}},
        {"_target_": "hydra.utils.get_class", "path": f"{EVIL}.Evil"},
        [{"_target_": f"{EVIL}.Evil"}],
        f"${{oc.create:{{_target_: {EVIL}.Evil}}}}",
        "${evil}",
        "${oc.env:HOME}",
        "${own_folder:" + ran + "}",
        "${hydra:runtime.output_dir}",
        f"{EVIL}.Evil",
        f"{EVIL}",
    ]


def flags(elsewhere: Path) -> list[str]:
    """What Hydra would take for more than an option."""
    return [
        f"--config-dir={elsewhere / 'conf'}",
        f"--config-path={elsewhere / 'conf'}",
        "-m",
        "--multirun",
        f"hydra.searchpath=[file://{elsewhere / 'conf'}]",
        f"hydra.callbacks.evil._target_={EVIL}.Evil",
        f"+hydra.callbacks.evil={{_target_:{EVIL}.Evil}}",
        f"hydra.launcher._target_={EVIL}.Evil",
        f"+data.x={{_target_:{EVIL}.Evil}}",
        f"data._target_={EVIL}.Evil",
        f"logger._target_={EVIL}.Evil",
        f"stop={{_target_:{EVIL}.Evil}}",
        "data=../../elsewhere/evil",
        f"data@stop={EVIL}",
        f"experiment={elsewhere / 'conf' / 'train'}",
        "hydra.run.dir=/",
    ]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of plain options, and to a new key beside those of each group."""
    if isinstance(node, dict):
        yield (*path, "evil")
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def put(options: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        options = options[key]
    options[path[-1]] = value


def resume(folder: Path, *typed: str) -> dict[str, Any]:
    """What Hydra would compose for `resume=`, as it stands when training begins."""
    words = with_resumed_folder([*typed, f"resume={folder}"])
    assert not any(word.startswith("-") for word in words)
    assert {word.partition("=")[0] for word in words} <= {
        *("descent", "resume", "hydra.run.dir"),
        *(option.partition("=")[0] for option in typed),
    }
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("train", words, return_hydra_config=True)
        BeforeTraining().on_run_start(config)
        return plain(config)


def ended(call: Any, *args: Any) -> bool:
    """Whether a call was refused."""
    try:
        call(*args)
    except (InputError, SystemExit):
        return True
    return False


def test_a_sound_run_is_read(run: Path) -> None:
    assert read_stored_options(run).descent.optimiser_name == "Adam"
    assert resume(run)["data"]["train"] == 40


def test_nothing_in_any_position_is_run(run: Path, elsewhere: Path, tmp_path: Path) -> None:
    sound = yaml.safe_load((run / OPTIONS).read_text())
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "packs.json").write_text("{}")
    (folder / ".hydra").mkdir()
    counts = {"refused": 0, "read": 0}

    @settings(max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(st.sampled_from([*places(sound)]), st.sampled_from(payloads(elsewhere))), max_size=2),
        st.lists(st.sampled_from(flags(elsewhere)), max_size=2),
    )
    def check(planted: list[tuple[tuple[Any, ...], Any]], typed: list[str]) -> None:
        options = copy.deepcopy(sound) | {"evil": {"_target_": f"{EVIL}.Evil"}} if planted else copy.deepcopy(sound)
        for path, value in planted:
            try:
                put(options, path, value)
            except (KeyError, TypeError, IndexError):  # another one lies in its way
                continue
        (folder / OPTIONS).write_text(yaml.safe_dump(options))
        (folder / OVERRIDES).write_text(yaml.safe_dump([*typed, *TYPED]))
        counts["refused" if ended(read_stored_options, folder) else "read"] += 1
        ended(resume, folder)
        assert EVIL not in sys.modules
        assert not (elsewhere / "ran").exists()

    check()
    assert counts["refused"] > 30
    assert counts["read"] > 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.x", {"_target_": f"{EVIL}.Evil"}),
        ("data._target_", f"{EVIL}.Evil"),
        ("data.size", "${evil}"),
        ("stop", "${evil}"),
        ("stop.x", {"_target_": f"{EVIL}.Evil"}),
        ("logger.x", {"_target_": f"{EVIL}.Evil"}),
        ("descent.optimiser.x", {"_target_": f"{EVIL}.Evil"}),
        ("descent.optimiser._target_", f"{EVIL}.Evil"),
        ("descent.eta", f"${{oc.create:{{_target_: {EVIL}.Evil}}}}"),
        ("trainer.callbacks", [{"_target_": f"{EVIL}.Evil"}]),
    ],
)
def test_the_commands_run_nothing_either(
    key: str, value: Any, run: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    options = yaml.safe_load((folder / OPTIONS).read_text()) | {"evil": {"_target_": f"{EVIL}.Evil"}}
    put(options, tuple(key.split(".")), value)
    (folder / OPTIONS).write_text(yaml.safe_dump(options))
    (folder / OVERRIDES).write_text(yaml.safe_dump([*flags(elsewhere), *TYPED]))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.log"}
    monkeypatch.chdir(tmp_path)
    for command, words in ((train.train, [f"resume={folder}", "logger=none"]), (report.main, [str(folder)])):
        monkeypatch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(SystemExit) as end:
            command()
        assert isinstance(end.value.code, str) and "\n" not in end.value.code
    assert EVIL not in sys.modules
    assert not (elsewhere / "ran").exists()
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.log"}
    assert after == before


def test_code_of_ones_own_is_run_where_the_command_line_names_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But only then, since the folder may have been changed since."""
    (tmp_path / "mine_alone.py").write_text(
        "import torch\n\nclass Sign(torch.optim.SGD):\n"
        "    def __init__(self, parameters, lr, by=1.0):\n        super().__init__(parameters, lr=lr * by)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    options = yaml.safe_load((folder / OPTIONS).read_text())
    options["descent"]["optimiser"] = {"_target_": "mine_alone.Sign", "_partial_": True, "by": 0.5}
    (folder / OPTIONS).write_text(yaml.safe_dump(options))
    with pytest.raises(SystemExit, match=r"descent\.optimiser\._target_"):
        resume(folder)
    assert "mine_alone" not in sys.modules
    found = resume(folder, "descent.optimiser._target_=mine_alone.Sign")
    assert found["descent"]["optimiser"] == options["descent"]["optimiser"]
    assert "mine_alone" in sys.modules
