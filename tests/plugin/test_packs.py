"""Packs of jobs: each job gets what Hydra's own launcher would give it, from one call for all of them."""

import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import pytest
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hydra_plugins.hillstart_packs.launcher import PackLauncher

log = logging.getLogger("toy")

CONF = """
defaults:
  - _self_
  - network: small
  - override hydra/sweeper: hillstart
  - override hydra/launcher: hillstart
seed: 0
descent: {eta: 1.0, momentum: 0.9}
odd: {number: "1e3", truth: "yes", nothing: "null", umlaut: ä€, quote: "it's: #1", empty: [], none: {}, two: "a\\nb "}
logger: {folder: "${hydra:runtime.output_dir}", run: "${seed}"}
hydra:
  job: {name: toy, env_set: {TOY: "1"}}
"""

Finishes = Iterator[tuple[int, Callable[[DictConfig], Any]]]


class Toy:
    """A task that keeps what it was called with; the result of a job is its seed times its eta."""

    per_start = ("seed", "descent.eta")
    per_pack = ("logger",)

    def __init__(self) -> None:
        self.alone: list[Any] = []
        self.packs: list[list[Any]] = []
        self.done: list[set[int]] = []

    def __call__(self, cfg: DictConfig) -> Any:
        self.alone.append(cfg.seed)
        return self.finish(cfg)

    def together(self, cfgs: Iterable[DictConfig], done: Collection[int]) -> Finishes:
        cfgs = list(cfgs)
        self.packs.append([cfg.seed for cfg in cfgs])
        self.done.append(set(done))
        log.info("pack of %d in %s", len(cfgs), Path(cfgs[0].logger.folder).name)
        for index in reversed(range(len(cfgs))):
            if index not in done:
                yield index, self.finish
                log.info("gave %d", index)

    def finish(self, cfg: DictConfig) -> Any:
        job = HydraConfig.get()
        log.info(
            "job %s, seed %s, eta %r, in %s", job.job.num, cfg.seed, cfg.descent.eta, Path(job.runtime.output_dir).name
        )
        return cfg.seed * cfg.descent.eta


@pytest.fixture(autouse=True)
def hydra_and_logging_restored(hydra_restore_singletons: None) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Sweeps:
    """Runs multiruns of toy tasks with a conf of their own."""

    def __init__(self, folder: Path) -> None:
        self.conf, self.out = folder / "conf", folder / "out"
        for name, width in (("small", 3), ("wide", 9)):
            self.write(f"network/{name}.yaml", f"width: {width}")
        self.write("config.yaml", CONF)

    def write(self, file: str, text: str) -> None:
        path = self.conf / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def __call__(self, task: Any, *options: str) -> list[JobReturn]:
        version.setbase("1.3")
        app = Hydra.create_main_hydra2("toy", create_config_search_path(str(self.conf)))
        try:
            batches = app.multirun("config", task, [f"hydra.sweep.dir={self.out}", *options])
        finally:
            GlobalHydra.instance().clear()
        return [job for batch in batches for job in batch]

    def failures(self, task: Any, *options: str) -> Any:
        with pytest.raises(HydraException, match="jobs failed") as caught:
            self(task, *options)
        return caught.value

    def files(self) -> dict[str, str]:
        """The text of every file in the jobs' folders, the log lines without their time."""
        files = [path for path in self.out.glob("[0-9s]*/**/*") if path.is_file()]
        return {str(path.relative_to(self.out)): re.sub(r"\[20[^]]*\]", "", path.read_text()) for path in files}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def test_many_jobs_are_one_call(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Toy()
    jobs = sweep(toy, "seed=range(0,10)", "descent.eta=0.1,2")
    assert [len(pack) for pack in toy.packs] == [20] and toy.alone == []
    assert [job.return_value for job in jobs] == [seed * eta for seed in range(10) for eta in (0.1, 2)]
    assert jobs[7].overrides == ["seed=3", "descent.eta=2"]
    assert jobs[7].task_name == "toy" and jobs[7].status is JobStatus.COMPLETED
    printed = capsys.readouterr().out
    assert "Launching 20 jobs, as one pack: each with its own seed, descent.eta" in printed
    assert "pack of 20 in 0" in printed and "job 7" not in printed
    assert (sweep.out / "7" / "toy.log").read_text().endswith("[INFO] - job 7, seed 3, eta 2, in 7\n")
    assert (sweep.out / "packs" / "0" / "toy.log").read_text().count("gave") == 20


@pytest.mark.parametrize(
    "options",
    [
        ("seed=3,-1", "descent.eta=0.1,2,1e-3"),
        ("seed=3,1", "odd.number=1e3", "+new={a:1,b:[x]}", "network=wide", "hydra.job.name=other"),
        ("seed=3,1", "hydra.sweep.subdir=s${hydra.job.num}-${hydra.job.override_dirname}"),
        ("seed=3,1", "hydra.output_subdir=null"),
    ],
    ids=["values", "other keys", "folders by name", "no .hydra"],
)
def test_folders_and_results_are_those_of_hydras_launcher(sweep: Sweeps, options: tuple[str, ...]) -> None:
    toy = Toy()
    ours, our_files = sweep(toy, *options), sweep.files()
    assert toy.packs and not toy.alone
    shutil.rmtree(sweep.out)
    basic = ("hydra/launcher=basic", "hydra/sweeper=basic")
    hydras, their_files = sweep(Toy().__call__, *options, *basic), sweep.files()
    assert our_files.keys() == their_files.keys() and any(name.endswith(".log") for name in our_files)
    for name, text in our_files.items():
        lines = [line for line in text.splitlines() if "hydra.sweep.dir=" not in line]
        # The choice of launcher and sweeper is what differs; the folder is resolved before the jobs begin.
        theirs = [line for line in their_files[name].splitlines() if "hydra.sweep.dir=" not in line]
        if not name.endswith("hydra.yaml"):
            assert lines == theirs
        else:
            ours_only, theirs_only = set(lines) - set(theirs), set(theirs) - set(lines)
            assert all(re.search(r"hillstart|sweeper|launcher", line) for line in ours_only), ours_only
            assert all(re.search(r"basic|sweeper|launcher", line) for line in theirs_only), theirs_only
    for mine, its in zip(ours, hydras, strict=True):
        assert mine.return_value == its.return_value and mine.overrides == its.overrides
        assert mine.task_name == its.task_name


def test_a_job_that_leaves_a_key_out_keeps_confs_value(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [["seed=1", "descent.eta=5"], ["descent.eta=5"], ["descent.eta=6", "seed=2"], ["seed=1,2"]]
    Plugins.instance()  # which imports the plugin anew
    monkeypatch.setattr(sys.modules["hydra_plugins.hillstart_packs.sweeper"], "_combinations", lambda _: lines)
    toy = Toy()
    assert "1 of 4 jobs failed: #3 seed=1,2: Ambiguous value for argument" in str(sweep.failures(toy))
    assert toy.packs == [[1, 2]] and toy.alone == [0]


def test_a_job_without_company_runs_by_itself(sweep: Sweeps) -> None:
    toy = Toy()
    assert [job.return_value for job in sweep(toy, "odd.number=1,2", "seed=7")] == [7, 7]
    assert toy.packs == [] and toy.alone == [7, 7]
    assert (sweep.out / "1" / "toy.log").read_text().endswith("in 1\n")


def test_other_keys_split_the_jobs_into_packs(sweep: Sweeps) -> None:
    toy = Toy()
    jobs = sweep(toy, "seed=range(0,4)", "network=small,wide")
    assert toy.packs == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert [job.return_value for job in jobs] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("most", "packs"), [(None, [5]), (3, [3, 2]), (9, [5])])
def test_the_task_bounds_the_jobs_of_a_pack(sweep: Sweeps, most: int | None, packs: list[int]) -> None:
    class Small(Toy):
        def jobs_per_pack(self, cfg: DictConfig, distributed: bool) -> int | None:
            assert cfg.network.width == 3 and not distributed
            return most

    toy = Small()
    assert [job.return_value for job in sweep(toy, "seed=range(0,5)")] == [0, 1, 2, 3, 4]
    assert [len(pack) for pack in toy.packs] == packs


@pytest.mark.parametrize(
    ("conf", "packs"),
    [
        ("name: run-${seed}", []),
        ("a: ${b}\nb: {c: '${.d}', d: '${..seed}'}", [[4, 4], [5, 5]]),
        ("copy: ${descent}", [[4, 5], [4, 5]]),
        ("a: '${oc.select: descent.eta, 1}'", [[4, 5], [4, 5]]),
        ("which: eta\na: '${descent.${which}}'", [[4, 5], [4, 5]]),
        ("a: ${network.width}", [[4, 5, 4, 5]]),
        ("a: ${hydra:runtime.cwd}/${hydra:job.name}", [[4, 5, 4, 5]]),
    ],
)
def test_jobs_that_differ_by_a_reference_are_not_in_one_pack(sweep: Sweeps, conf: str, packs: list[list[int]]) -> None:
    sweep.write("config.yaml", CONF.replace("\nhydra:", f"\n{conf}\nhydra:"))
    toy = Toy()
    jobs = sweep(toy, "descent.eta=1,3", "seed=4,5")
    assert toy.packs == (packs or [[4, 4], [5, 5]])
    assert [job.return_value for job in jobs] == [4, 5, 12, 15]


@pytest.mark.parametrize(
    ("conf", "options"),
    [
        ("a: [x, {b: 'r${hydra:job.num}'}]", ()),
        ("a: ${hydra:runtime.output_dir}", ()),
        ("a: ${hydra.sweep.subdir}", ()),
        ("", ("+hydra.job.env_set.N=${hydra.job.num}",)),
        ("", ("hydra.job.chdir=true",)),
    ],
)
def test_jobs_that_see_their_number_run_one_by_one(
    sweep: Sweeps, capsys: pytest.CaptureFixture[str], conf: str, options: tuple[str, ...]
) -> None:
    sweep.write("config.yaml", CONF.replace("\nhydra:", f"\n{conf}\nhydra:"))
    toy = Toy()
    assert [job.return_value for job in sweep(toy, *options, "descent.eta=1,3", "seed=4,5")] == [4, 5, 12, 15]
    assert toy.packs == [] and len(toy.alone) == 4
    assert "4 jobs are launched one by one: no two differ in seed, descent.eta alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "values", "packs"),
    [
        (("descent={eta:2}", "descent.eta=1,3", "seed=4,5"), [4, 5, 12, 15], [[4, 5, 4, 5]]),
        (("descent.eta=1,3", "descent={eta:2}", "seed=4,5"), [8, 10, 8, 10], []),
        (("seed=4,5", "++seed=6", "descent.eta=1,3"), [6, 18, 6, 18], []),
    ],
)
def test_the_last_override_of_a_key_counts(
    sweep: Sweeps, options: tuple[str, ...], values: list[int], packs: list[list[int]]
) -> None:
    toy = Toy()
    assert [job.return_value for job in sweep(toy, *options)] == values
    assert toy.packs == packs


def test_a_job_that_cannot_be_composed_fails_alone(sweep: Sweeps) -> None:
    toy = Toy()
    error = sweep.failures(toy, "network=small,tiny", "seed=1,2")
    assert toy.packs == [[1, 2]] and [number for number, _ in error.failures] == [2, 3]
    assert "2 of 4 jobs failed: #2 network=tiny seed=1" in str(error) and str(error).endswith("; so did #3")


@dataclass
class Descent:
    eta: float = 1.0
    steps: int = 1


def test_a_value_that_hydra_refuses_fails_alone_with_hydras_words(sweep: Sweeps) -> None:
    ConfigStore.instance().store(group="descent", name="typed", node=Descent)
    conf = CONF.replace("descent: {eta: 1.0, momentum: 0.9}", "").replace("- network", "- descent: typed\n  - network")
    sweep.write("config.yaml", conf)
    toy = Toy()
    toy.per_start = ("seed", "descent.steps")  # type: ignore[assignment]
    error = sweep.failures(toy, "seed=3", "descent.steps=0.5,1,2")
    assert toy.packs == [[3, 3]] and not (sweep.out / "0").exists()
    assert "#0 seed=3 descent.steps=0.5: Error merging override descent.steps=0.5" in str(error)


def test_a_key_that_is_not_there_is_named(sweep: Sweeps) -> None:
    toy = Toy()
    toy.per_start = ("seed", "descent.lmbda")  # type: ignore[assignment]
    error = sweep.failures(toy, "seed=1,2", "descent.lmbda=1,2")
    assert "4 of 4 jobs failed: #0 seed=1 descent.lmbda=1: Could not override 'descent.lmbda'." in str(error)


class Fragile(Toy):
    def finish(self, cfg: DictConfig) -> Any:
        if cfg.seed == 2:
            raise ValueError("two is too much")
        return super().finish(cfg)


@pytest.mark.parametrize("where", [(), ("hydra.job.chdir=true",)], ids=["packed", "one after another"])
def test_a_job_that_raises_fails_alone(sweep: Sweeps, where: tuple[str, ...], capsys: Any) -> None:
    error = sweep.failures(Fragile(), *where, "hydra.sweeper.max_batch_size=2", "seed=range(0,5)")
    assert str(error) == "1 of 5 jobs failed: #2 seed=2: ValueError: two is too much"
    assert "in finish" in error.__notes__[0]
    assert len(list(sweep.out.glob("*/.hydra/config.yaml"))) == 5
    if not where:
        assert "two is too much" in (sweep.out / "2" / "toy.log").read_text()
        assert "two is too much" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("fault", ["raises", "stops"])
def test_a_pack_that_breaks_fails_the_jobs_that_still_wait(sweep: Sweeps, fault: str) -> None:
    class Broken(Toy):
        def together(self, cfgs: Iterable[DictConfig], done: Collection[int]) -> Finishes:
            assert len(list(cfgs)) == 3
            yield 1, self.finish
            if fault == "raises":
                raise RuntimeError("out of memory")

    reason = {"raises": "RuntimeError: out of memory", "stops": "the task ended without a result for this job"}[fault]
    error = sweep.failures(Broken(), "seed=range(0,3)")
    assert str(error) == f"2 of 3 jobs failed: #0 seed=0: {reason}; so did #2"
    assert (sweep.out / "2" / "toy.log").read_text().count("Traceback") == 1


class Lost(PackLauncher):
    """A launcher that loses the worker of its second pack, and the results of all."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        super().launch(job_overrides[:1], initial_job_idx)
        raise RuntimeError("a worker was lost")


class Recorded(Toy):
    """A task that finds the results of an earlier sweep in the jobs' folders."""

    def jobs_per_pack(self, cfg: DictConfig, distributed: bool) -> int:
        return 3

    def finish(self, cfg: DictConfig) -> Any:
        value = super().finish(cfg)
        Path(HydraConfig.get().runtime.output_dir, "value.json").write_text(json.dumps(value))
        return value

    def finished(self, folder: Path, overrides: Sequence[str], held: bool) -> Any:
        file = folder / "value.json"
        assert overrides == [f"seed={folder.name}"]
        return json.loads(file.read_text()) if file.is_file() else None


def test_results_outlive_a_launcher_that_loses_a_worker_and_the_sweep_is_resumed(
    sweep: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Recorded()
    with monkeypatch.context() as patch:  # Hydra instantiates plugins of the package hydra_plugins alone
        patch.setattr(Plugins, "instantiate_launcher", lambda *_, **_setup: Lost())
        error = sweep.failures(toy, "seed=range(0,6)", "hydra/launcher=basic")
    assert [number for number, _ in error.failures] == [3, 4, 5] and "a worker was lost" in str(error)
    (sweep.out / "1" / "value.json").unlink()
    assert [job.return_value for job in sweep(toy, "seed=range(0,6)")] == [0, 1, 2, 3, 4, 5]
    assert toy.packs == [[0, 1, 2], [0, 1, 2], [3, 4, 5]] and toy.done == [set(), {0, 2}, set()]
    assert all(job.return_value is not None for job in sweep(toy, "seed=range(0,6)")) and len(toy.packs) == 3
    with pytest.raises(HydraException, match=r"pack\.json"):
        sweep(toy, "seed=range(0,5)")


class Recorder(Callback):
    """A callback that keeps what Hydra tells it."""

    told: ClassVar[list[tuple[str, Any]]] = []

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        Recorder.told.append(("start", config.seed))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if not isinstance(job_return.return_value, dict):
            Recorder.told.append(("end", job_return.return_value))


def test_callbacks_hear_of_each_job(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "told", [])
    sweep.write("config.yaml", f"{CONF}\n  callbacks: {{recorder: {{_target_: {__name__}.Recorder}}}}")
    sweep(Toy(), "seed=range(5,8)")
    pack, *jobs = Recorder.told
    assert pack == ("start", 0)
    assert jobs == [("start", 7), ("end", 7.0), ("start", 6), ("end", 6.0), ("start", 5), ("end", 5.0)]


def test_the_task_and_the_resolvers_of_conf_reach_other_processes() -> None:
    from hydra.core.singleton import Singleton

    from hillstart.cli.options import give_own_folders
    from hillstart.cli.train import TrainingTask

    give_own_folders()
    task, state = cloudpickle.loads(cloudpickle.dumps((TrainingTask(traceback=False), Singleton.get_state())))
    assert task.per_start[0] == "seed" and "own_folder" in state["omegaconf_resolvers"]
