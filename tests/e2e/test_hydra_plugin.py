"""Packs of jobs: each job gets what Hydra's own launcher would give it, from one call for all of them."""

import logging
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hydra import version
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

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
long: a text of more than eighty characters that a YAML writer has to break into lines of their own, somewhere here
logger: {folder: "${hydra:runtime.output_dir}", run: "${seed}"}
hydra:
  job: {name: toy, env_set: {TOY: "1"}}
"""


class Toy:
    """A task that keeps what it was called with; the result of a job is its seed times its eta."""

    per_start = ("seed", "descent.eta")
    per_pack = ("logger",)

    def __init__(self) -> None:
        self.alone: list[Any] = []
        self.packs: list[list[Any]] = []
        self.folders: list[str] = []
        self.closed: list[Path] = []

    def __call__(self, cfg: DictConfig) -> Any:
        self.alone.append(cfg.seed)
        return self.finish(cfg)

    def together(self, cfgs: Sequence[DictConfig]) -> Iterator[tuple[int, Callable[[DictConfig], Any]]]:
        self.packs.append([cfg.seed for cfg in cfgs])
        self.folders.append(cfgs[0].logger.folder)
        log.info("pack of %d", len(cfgs))
        for index in reversed(range(len(cfgs))):
            yield index, self.finish
            log.info("gave %d", index)
            assert HydraConfig.get().runtime.output_dir == self.folders[-1]

    def finish(self, cfg: DictConfig) -> Any:
        job = HydraConfig.get()
        log.info("job %s, seed %s, in %s", job.job.num, cfg.seed, Path(job.runtime.output_dir).name)
        return cfg.seed * cfg.descent.eta

    def closing(self, sweep_dir: Path) -> None:
        self.closed.append(sweep_dir)


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

    def files(self) -> dict[str, str]:
        """The text of every file in the jobs' folders, the log lines without their time."""
        files = [path for path in self.out.glob("*/**/*") if path.is_file()]
        return {str(path.relative_to(self.out)): re.sub(r"\[20[^]]*\]", "", path.read_text()) for path in files}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def test_a_hundred_jobs_are_one_call(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Toy()
    jobs = sweep(toy, "seed=range(0,50)", "descent.eta=0.1,2")
    assert [len(pack) for pack in toy.packs] == [100] and toy.alone == []
    assert [job.return_value for job in jobs] == [seed * eta for seed in range(50) for eta in (0.1, 2)]
    assert jobs[7].overrides == ["seed=3", "descent.eta=2"] and jobs[7].cfg.seed == 3
    assert jobs[7].hydra_cfg.hydra.job.num == 7 and jobs[7].hydra_cfg.hydra.sweep.subdir == "7"
    assert jobs[7].task_name == "toy" and jobs[7].status is JobStatus.COMPLETED
    assert jobs[7].working_dir == str(Path.cwd())
    said = capsys.readouterr().out
    assert "Launching 100 jobs, as one pack: each with its own seed, descent.eta" in said
    assert "pack of 100" in said and "job 7" not in said
    assert (sweep.out / "7" / "toy.log").read_text().endswith("[INFO] - job 7, seed 3, in 7\n")
    assert toy.folders == [str(sweep.out)] and (sweep.out / "toy.log").read_text().count("gave") == 100
    assert toy.closed == [sweep.out]


@pytest.mark.parametrize(
    "options",
    [
        ("seed=3,4", "descent.eta=1e-3,null,'0.5',abc"),
        ("network=small,wide", "seed=1,2", "+extra={a: [1,2]}", "~descent.momentum"),
        ("seed=1,2", "hydra.sweep.subdir=${hydra.job.override_dirname}/x", "hydra.job.name=other"),
        ("seed=1,2", "hydra.output_subdir=null"),
    ],
    ids=["values", "other keys", "folders by name", "no .hydra"],
)
def test_folders_and_results_are_those_of_hydras_launcher(
    sweep: Sweeps, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Echo(Toy):
        def finish(self, cfg: DictConfig) -> Any:
            log.info("eta %r", cfg.descent.eta)
            return repr(cfg.descent.eta)

    toy = Echo()
    ours, our_files = sweep(toy, *options), sweep.files()
    assert toy.packs and not toy.alone
    shutil.rmtree(sweep.out)
    Plugins.instance()
    monkeypatch.setattr(
        sys.modules["hydra_plugins.hillstart_packs.launcher"].PackLauncher, "launch", BasicLauncher.launch
    )
    hydras = sweep(Echo(), *options)
    assert our_files == sweep.files() and any(name.endswith("toy.log") or "other.log" in name for name in our_files)
    for mine, theirs in zip(ours, hydras, strict=True):
        assert mine.return_value == theirs.return_value and mine.overrides == theirs.overrides
        assert OmegaConf.to_container(mine.cfg) == OmegaConf.to_container(theirs.cfg)
        assert OmegaConf.to_container(mine.hydra_cfg) == OmegaConf.to_container(theirs.hydra_cfg)
        assert mine.working_dir == theirs.working_dir and mine.task_name == theirs.task_name


def test_a_job_that_leaves_a_key_out_keeps_confs_value(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (["seed=1", "descent.eta=5"], ["descent.eta=5"], ["descent.eta=6", "seed=2"], ["seed=1,2"])
    Plugins.instance()
    sweeper = sys.modules["hydra_plugins.hillstart_packs.sweeper"].PackSweeper
    monkeypatch.setattr(sweeper, "split_arguments", staticmethod(lambda *_: [lines]))
    toy = Toy()
    assert "1 of 4 jobs failed: #3 seed=1,2: Ambiguous value for argument" in str(failures(sweep, toy))
    assert toy.packs == [[1, 2]]
    assert toy.alone == [0]


def test_a_job_without_company_runs_by_itself(sweep: Sweeps) -> None:
    toy = Toy()
    jobs = sweep(toy, "odd.number=1,2")
    assert toy.packs == []
    assert toy.alone == [0, 0]
    assert [job.return_value for job in jobs] == [0, 0]


def test_other_keys_split_the_jobs_into_packs(sweep: Sweeps) -> None:
    toy = Toy()
    jobs = sweep(toy, "seed=range(0,4)", "network=small,wide")
    assert toy.packs == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert [(job.cfg.seed, job.cfg.network.width) for job in jobs] == [(s, w) for s in range(4) for w in (3, 9)]


def test_each_job_has_a_config_of_its_own(sweep: Sweeps) -> None:
    jobs = sweep(Toy(), "seed=range(0,3)")
    jobs[0].cfg.network.width = 77
    assert jobs[1].cfg.network.width == 3
    with pytest.raises(AttributeError):
        jobs[0].cfg.no_such_key = 1
    assert jobs[2].hydra_cfg.hydra.runtime.output_dir == str(sweep.out / "2")
    assert pickle.loads(pickle.dumps(jobs[1])).hydra_cfg == jobs[1].hydra_cfg


LOGGING = """
  job_logging:
    formatters: {simple: {format: "%(levelname)s ${hydra.job.num}: %(message)s"}}
    handlers: {file: {mode: w}}
    root: {level: WARNING}
    loggers: {toy: {level: INFO}, other: {handlers: [file], propagate: false}}
"""


@pytest.mark.parametrize("number", ["${hydra.job.num}", "N"], ids=["configured for each", "files exchanged"])
def test_a_log_of_another_form_is_kept_too(sweep: Sweeps, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Talker(Toy):
        def finish(self, cfg: DictConfig) -> Any:
            logging.getLogger("other").warning("aside")
            logging.getLogger("third").info("too much")
            return super().finish(cfg)

    sweep.write("config.yaml", CONF + LOGGING.replace("${hydra.job.num}", number))
    toy = Talker()
    sweep(toy, "seed=range(0,3)")
    assert toy.packs == [[0, 1, 2]]
    n = {number: number, "${hydra.job.num}": "2"}[number]
    assert (sweep.out / "2" / "toy.log").read_text() == f"WARNING {n}: aside\nINFO {n}: job 2, seed 2, in 2\n"
    assert (sweep.out / "toy.log").read_text().count("gave") == 3
    assert "aside" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("conf", "options", "reason"),
    [
        ("name: run-${seed}", (), "name depends on seed"),
        ("a: ${b}\nb: {c: '${.d}', d: '${..seed}'}", (), "a depends on seed"),
        ("copy: ${descent}", (), "copy depends on descent.eta"),
        ("a: '${oc.select: descent.eta, 1}'", (), "a depends on descent.eta"),
        ("a: '${descent[eta]}'", (), "a depends on descent.eta"),
        ("which: eta\na: '${descent.${which}}'", (), "a depends on descent.eta"),
        ("a: [x, {b: 'r${hydra:job.num}'}]", (), r"a\.1\.b depends on the job"),
        ("a: ${hydra:runtime.output_dir}", (), "a depends on the job"),
        ("a: ${logger.folder}", (), "a depends on the job"),
        ("a: ${hydra:sweep.subdir}", (), "a depends on the job"),
        ("", ("+hydra.job.env_set.N=${hydra.job.num}",), "hydra.job.env_set.N depends on the job"),
        ("", ("hydra.job.chdir=true",), "hydra.job.chdir gives each a working directory of its own"),
        ("", ("descent={eta:2}",), r"descent=\{eta:2\} is set beside descent.eta"),
        ("", ("++seed=5",), r"\+\+seed=5 is set beside seed"),
    ],
)
def test_jobs_that_would_see_each_other_run_one_after_another(
    sweep: Sweeps, capsys: pytest.CaptureFixture[str], conf: str, options: tuple[str, ...], reason: str
) -> None:
    sweep.write("config.yaml", CONF.replace("\nhydra:", f"\n{conf}\nhydra:"))
    toy = Toy()
    jobs = sweep(toy, *options, "descent.eta=1,3", "seed=4,5")
    assert toy.packs == [] and len(toy.alone) == 4
    assert re.search(f"Launching 4 jobs.*, one after another: {reason}\n", capsys.readouterr().out)
    assert [job.return_value for job in jobs] == [job.cfg.seed * job.cfg.descent.eta for job in jobs]
    assert len({job.cfg.descent.eta for job in jobs}) == 2
    assert toy.closed == [sweep.out]


@pytest.mark.parametrize(
    "conf", ["a: ${network.width}", "a: ${hydra:runtime.cwd}/${hydra:job.name}", "a: of seed ${b}\nb: 1"]
)
def test_what_all_jobs_share_does_not_part_them(sweep: Sweeps, conf: str) -> None:
    sweep.write("config.yaml", CONF.replace("\nhydra:", f"\n{conf}\nhydra:"))
    toy = Toy()
    sweep(toy, "seed=1,2")
    assert toy.packs == [[1, 2]]


def test_a_time_in_the_name_of_the_sweeps_folder_is_one_time(sweep: Sweeps) -> None:
    sweep(Toy(), "seed=1,2", f"hydra.sweep.dir={sweep.out}/${{now:%f}}")
    (folder,) = sweep.out.iterdir()
    assert {path.name for path in folder.iterdir()} == {"0", "1", "multirun.yaml", "toy.log"}


def test_a_key_that_chooses_a_file_is_no_value(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Toy()
    toy.per_start = ("network",)
    jobs = sweep(toy, "network=small,wide")
    assert toy.packs == [] and [job.cfg.network.width for job in jobs] == [3, 9]
    assert "Launching 2 jobs, one after another: network chooses a config file\n" in capsys.readouterr().out


def test_what_hydra_composes_otherwise_is_not_packed(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    load = ConfigLoaderImpl.load_sweep_config

    def by_seed(self: Any, master: DictConfig, lines: list[str]) -> DictConfig:
        cfg = load(self, master, lines)
        cfg.long = f"{cfg.seed}"
        return cfg

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", by_seed)
    toy = Toy()
    assert [job.cfg.long for job in sweep(toy, "seed=1,2")] == ["1", "2"] and toy.packs == []


def failures(sweep: Sweeps, task: Any, *options: str) -> HydraException:
    with pytest.raises(HydraException, match="jobs failed") as caught:
        sweep(task, *options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_job_that_cannot_be_composed_fails_alone(sweep: Sweeps) -> None:
    toy = Toy()
    error = failures(sweep, toy, "network=small,tiny", "seed=1,2")
    assert toy.packs == [[1, 2]]
    assert re.search(
        r"2 of 4 jobs failed: #2 network=tiny seed=1: .*network/tiny.*; #3 network=tiny seed=2: ", str(error)
    )
    assert toy.closed == [sweep.out]


@pytest.mark.parametrize("bad", ["first", "last"])
def test_a_value_that_hydra_refuses_fails_alone_with_hydras_words(sweep: Sweeps, bad: str) -> None:
    from dataclasses import dataclass

    from hydra.core.config_store import ConfigStore

    @dataclass
    class Descent:
        eta: float = 1.0
        momentum: float | None = None

    ConfigStore.instance().store(group="descent", name="typed", node=Descent)
    sweep.write(
        "config.yaml",
        CONF.replace("descent: {eta: 1.0, momentum: 0.9}", "").replace("- network", "- descent: typed\n  - network"),
    )
    toy = Toy()
    values = "fast,1,2" if bad == "first" else "1,2,fast"
    error: Any = failures(sweep, toy, "seed=3", f"descent.eta={values}")
    assert toy.packs == [[3, 3]]
    number = 0 if bad == "first" else 2
    assert str(error).startswith(
        f"1 of 3 jobs failed: #{number} seed=3 descent.eta=fast: Error merging override descent.eta=fast: "
        "Value 'fast' of type 'str' could not be converted to Float"
    )
    assert not (sweep.out / str(number)).exists()
    with pytest.raises(type(error.failures[0][1]._return_value)) as hydras:
        sweep(Toy().finish, "seed=3", "descent.eta=fast", "hydra/launcher=basic", "hydra/sweeper=basic")
    assert str(hydras.value) == str(error.failures[0][1]._return_value)


def test_a_key_that_is_not_there_is_named(sweep: Sweeps) -> None:
    toy = Toy()
    toy.per_start = ("seed", "descent.lmbda")
    error = failures(sweep, toy, "seed=range(0,10)", "descent.lmbda=1,2")
    assert "20 of 20 jobs failed: #0 seed=0 descent.lmbda=1: Could not override 'descent.lmbda'." in str(error)
    assert str(error).endswith("; and 15 more")


class Fragile(Toy):
    def finish(self, cfg: DictConfig) -> Any:
        if cfg.seed == 2:
            raise ValueError("two is\ntoo much")
        return super().finish(cfg)


@pytest.mark.parametrize("where", [(), ("hydra.job.chdir=true",)], ids=["packed", "one after another"])
def test_a_job_that_raises_fails_alone(
    sweep: Sweeps, where: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    error: Any = failures(sweep, Fragile(), *where, "seed=range(0,5)")
    assert str(error) == "1 of 5 jobs failed: #2 seed=2: ValueError: two is"
    assert "too much" in error.__notes__[0] and "in finish" in error.__notes__[0]
    assert len(list(sweep.out.glob("*/.hydra/config.yaml"))) == 5
    if not where:
        assert "too much" in (sweep.out / "2" / "toy.log").read_text()
        assert "too much" not in "".join(capsys.readouterr())


def test_later_batches_run_after_a_failure(sweep: Sweeps) -> None:
    toy = Fragile()
    error = failures(sweep, toy, "hydra.sweeper.max_batch_size=2", "seed=range(0,6)")
    assert toy.packs == [[0, 1], [2, 3], [4, 5]] and "1 of 6 jobs failed: #2 seed=2" in str(error)
    assert toy.closed == [sweep.out] * 3


@pytest.mark.parametrize("fault", ["raises", "stops", "twice", "stranger"])
def test_a_pack_that_breaks_fails_the_jobs_that_still_wait(sweep: Sweeps, fault: str) -> None:
    class Broken(Toy):
        def together(self, cfgs: Sequence[DictConfig]) -> Iterator[tuple[int, Callable[[DictConfig], Any]]]:
            yield 1, self.finish
            if fault == "raises":
                raise RuntimeError("out of memory")
            if fault != "stops":
                yield (1 if fault == "twice" else 7), self.finish

    said = {
        "raises": "RuntimeError: out of memory",
        "stops": "the task ended without a result for this job",
        "twice": "the task gave a result for 1, which is no job that waits for one",
        "stranger": "the task gave a result for 7, which is no job that waits for one",
    }[fault]
    error = failures(sweep, Broken(), "seed=range(0,3)")
    assert str(error) == f"2 of 3 jobs failed: #0 seed=0: {said}; #2 seed=2: {said}"
    assert (sweep.out / "2" / "toy.log").read_text().count("in finish") == 1


def test_closing_is_called_when_a_launch_is_interrupted(sweep: Sweeps) -> None:
    class Interrupted(Toy):
        def finish(self, cfg: DictConfig) -> Any:
            raise KeyboardInterrupt

    toy = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        sweep(toy, "seed=1,2")
    assert toy.closed == [sweep.out]
    assert all("conf" not in str(getattr(handler, "baseFilename", "")) for handler in logging.getLogger().handlers)


class Recorder(Callback):
    """A callback that keeps what Hydra tells it."""

    told: ClassVar[list[tuple[str, Any, Any]]] = []

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        Recorder.told.append(("start", config, HydraConfig.get().job.num))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        Recorder.told.append(("end", config, job_return.return_value))


def test_callbacks_hear_of_each_job(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "told", [])
    sweep.write("config.yaml", f"{CONF}\n  callbacks: {{recorder: {{_target_: {__name__}.Recorder}}}}")
    toy = Toy()
    sweep(toy, "seed=range(5,8)")
    assert toy.packs == [[5, 6, 7]]
    assert [(event, value) for event, _, value in Recorder.told] == [
        *(("start", 2), ("end", 7.0), ("start", 1), ("end", 6.0), ("start", 0), ("end", 5.0))
    ]
    assert [cfg.seed for _, cfg, _ in Recorder.told] == [7, 7, 6, 6, 5, 5]


def test_yaml_is_the_same_without_libyaml(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(Toy(), "seed=1,2")
    fast = sweep.files()
    folder = sys.modules["hydra_plugins.hillstart_packs._folder"]
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    monkeypatch.setattr(folder, "_DUMPER", folder._fast_dumper())
    assert issubclass(folder._DUMPER, yaml.Dumper)
    shutil.rmtree(sweep.out)
    sweep(Toy(), "seed=1,2")
    assert fast == sweep.files()
    assert OmegaConf.load(sweep.out / "1" / ".hydra" / "config.yaml").odd.number == "1e3"
