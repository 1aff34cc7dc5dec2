"""The launcher and sweeper in Hydra's own suite, beside other sweepers, and in nobody's way."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase

# The suite is older than Hydra 1.2: it counts on the working directory that Hydra then gave every job.
old_habits = pytest.mark.filterwarnings(
    r"ignore:\s*Future Hydra versions will no longer change working directory:UserWarning",
    r"ignore:\s*The version_base parameter is not specified:UserWarning",
)


@pytest.fixture(autouse=True)
def no_version_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another test of this process has set."""
    monkeypatch.delitem(Singleton._instances, VersionBase, raising=False)


@old_habits
@pytest.mark.parametrize("overrides", [[], ["hydra/sweeper=hillstart"]], ids=["basic sweeper", "hillstart sweeper"])
@pytest.mark.parametrize("launcher_name", ["hillstart"])
class TestLauncher(LauncherTestSuite):
    pass


@old_habits
@pytest.mark.parametrize(("launcher_name", "overrides"), [("hillstart", ["hydra/sweeper=hillstart"])])
class TestBatches(BatchedSweeperTestSuite):
    @pytest.fixture(autouse=True)
    def two_jobs_a_batch(self, overrides: list[str]) -> Iterator[None]:
        given = overrides[:]
        overrides.append("hydra.sweeper.max_batch_size=2")
        yield
        overrides[:] = given


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=hillstart", "hydra/sweeper=hillstart"])],
    ids=["hillstart"],
)
class TestApps(IntegrationTestSuite):
    pass


def app(folder: Path, body: str, defaults: Sequence[str] = ()) -> Path:
    """A Hydra app in a file of its own, with the keys seed, eta and name."""
    conf = ["defaults:", *(f"  - {line}" for line in ["_self_", *defaults]), "seed: 0", "eta: 1.0", "name: toy"]
    (folder / "config.yaml").write_text("\n".join(conf))
    file = folder / "app.py"
    file.write_text(
        "import hydra\nfrom hydra.core.hydra_config import HydraConfig\ncalls = []\n"
        f"{body}\n"
        "if __name__ == '__main__':\n"
        "    hydra.main(version_base='1.3', config_path='.', config_name='config')(task)()\n"
        "    print('calls', calls)\n"
    )
    return file


def run(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(file), *options]
    return subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)


PACKED = """
def task(cfg):
    calls.append('alone')

def together(cfgs, done):
    cfgs = list(cfgs)
    calls.append(len(cfgs))
    for index, cfg in enumerate(cfgs):
        yield index, lambda cfg: (cfg.eta - 0.3) ** 2

task.together, task.per_start = together, ('seed', 'eta')
"""
CHOSEN = ("override hydra/sweeper: hillstart", "override hydra/launcher: hillstart")


def test_other_apps_keep_hydras_own(tmp_path: Path) -> None:
    told = "def task(cfg):\n    c = HydraConfig.get()\n    print(c.sweeper._target_, c.launcher._target_)"
    shown = run(app(tmp_path, told), "-m", "seed=1").stdout
    assert "basic_sweeper.BasicSweeper hydra._internal.core_plugins.basic_launcher.BasicLauncher" in shown


def test_starting_an_app_imports_none_of_hillstart_and_little_of_the_plugin(tmp_path: Path) -> None:
    told = "import sys\ndef task(cfg):\n    print(sorted(m for m in sys.modules if 'hillstart' in m or m == 'torch'))"
    shown = run(app(tmp_path, told)).stdout
    plugin = "hydra_plugins.hillstart_packs"
    assert str([plugin, f"{plugin}.launcher", f"{plugin}.sweeper"]) in shown


def test_conf_chooses_both(tmp_path: Path) -> None:
    shown = run(app(tmp_path, PACKED, CHOSEN), "-m", "seed=range(0,7)", "eta=0.1,0.5")
    assert "calls [14]" in shown.stdout, shown.stderr
    assert "Launching 14 jobs, as one pack: each with its own seed, eta" in shown.stdout


def test_failed_jobs_are_named_in_one_line(tmp_path: Path) -> None:
    body = "def task(cfg):\n    if cfg.seed % 2:\n        raise ValueError(f'{cfg.seed} is odd')"
    shown = run(app(tmp_path, body, CHOSEN), "-m", "seed=range(0,16)", "hydra.sweep.dir=out")
    assert shown.returncode == 1
    line = next(line for line in shown.stderr.splitlines() if "jobs failed" in line)
    assert line.endswith("8 of 16 jobs failed: #1 seed=1: ValueError: 1 is odd; so did #3, #5, #7, #9, #11, #13, #15")
    assert len(list((tmp_path / "out").glob("*/.hydra"))) == 16


def test_optuna_packs_the_trials_of_a_batch(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'hillstart[optuna]' brings it")
    file = app(tmp_path, PACKED, CHOSEN)
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=4", "eta=interval(0.0,1.0)")
    # Optuna 2.10 warns about parts of itself.
    command = [sys.executable, str(file), "-m", *search, "hydra.sweep.dir=out"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "calls [4, 4, 4]" in shown.stdout, shown.stderr
    assert "best_value" in (tmp_path / "out" / "optimization_results.yaml").read_text()


def test_a_wheel_carries_the_plugin_and_leaves_room_for_others(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="building a wheel offline needs hatchling")
    build = ["-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-q", "-w"]
    top = Path(__file__).parents[2]
    subprocess.run([sys.executable, *build, str(tmp_path), str(top)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if name.startswith("hydra_plugins/")}
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "[hydra.plugins]\nhillstart_packs = hydra_plugins.hillstart_packs\n" in archive.read(points).decode()
    ours = {f"hydra_plugins/hillstart_packs/{file.name}" for file in (top / "src/hydra_plugins").rglob("*.py")}
    assert carried == ours
