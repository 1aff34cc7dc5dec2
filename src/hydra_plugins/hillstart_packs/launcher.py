"""The launcher: makes packs of jobs, and hands them to another launcher or runs them in this process."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, ValueType
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


@dataclass
class PackLauncherConf:
    _target_: str = "hydra_plugins.hillstart_packs.launcher.PackLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="hillstart", node=PackLauncherConf, provider="hillstart")


@dataclass
class Job:
    """One job: its number in the sweep, its overrides, its per-start values, and the overrides without these."""

    number: int
    lines: list[str]
    own: dict[str, Any]
    common: list[str]


@dataclass
class Pack:
    """Jobs that are trained together, and the config of one of them at a time."""

    jobs: list[Job]
    config: DictConfig

    def __str__(self) -> str:
        first, n = self.jobs[0], len(self.jobs)
        if n == 1:
            return f"1 job: {' '.join(first.lines)}"
        return f"{n} jobs, as one pack: each with its own {', '.join(first.own)}; {' '.join(first.common)}".rstrip("; ")

    def write(self, file: Path) -> bool:
        """List the jobs in `file`; return False if an interrupted sweep, which is resumed, has done that already.

        Raises:
            HydraException: that sweep had other jobs in this pack.
        """
        content, new = json.dumps([asdict(job) for job in self.jobs]), file.with_suffix(".new")
        if is_first := not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(content, encoding="utf-8")
            new.replace(file)
        elif file.read_text(encoding="utf-8") != content:
            raise HydraException(f"{file}: lists other jobs than this sweep has; resume it with its own options.")
        return is_first

    @contextmanager
    def turned_to(self, job: Job) -> Iterator[Path]:
        """Make `config` what Hydra would compose for this job, and show it by HydraConfig; yield the job's folder."""
        for key, value in job.own.items():
            OmegaConf.update(self.config, key, value)
        hydra, form, task = self.config.hydra, self.config.hydra.job.config.override_dirname, _of_task(job.lines)
        named = sorted(line for line in task if _key(line) not in form.exclude_keys)
        with read_write(hydra):
            hydra.job.id = hydra.job.num = job.number
            hydra.job.override_dirname = form.item_sep.join(named).replace("=", form.kv_sep)
            hydra.overrides.task = task
            folder = Path(str(hydra.sweep.dir), str(hydra.sweep.subdir))
            hydra.runtime.output_dir = str(folder)
        shown: Any = HydraConfig.instance()
        before, shown.cfg = shown.cfg, self.config  # itself, for a copy takes milliseconds
        try:
            yield folder
        finally:
            shown.cfg = before

    def options_of_jobs(self) -> Iterator[DictConfig]:
        for job in self.jobs:
            of_job = options(self.config)
            for key, value in job.own.items():
                OmegaConf.update(of_job, key, value)
            yield of_job

    def finished(self, task: Any, held: bool = False) -> dict[int, JobReturn]:
        """The result of each job that is finished, by its number.

        Args:
            held: no other process may run this pack.
        """
        results = {}
        for job in self.jobs if hasattr(task, "finished") else ():
            with self.turned_to(job) as folder:
                value = task.finished(folder, list(self.config.hydra.overrides.task), held)
            if value is not None:
                results[job.number] = job_return(job.lines, value)
        return results


class PackLauncher(Launcher):
    """Packs the jobs of a task that takes them together (see the package); runs those of any other task one by one.

    Args:
        inner: the launcher that runs each pack as a job; None: this process.
    """

    def __init__(self, inner: Launcher | None = None) -> None:
        self._inner, self._launched = inner, 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._task: Any = task_function
        self._run: TaskFunction = task_function
        if hasattr(task_function, "together"):
            self._run = partial(run_pack, task_function, hydra_context, config)
        if self._inner:
            self._inner.setup(hydra_context=hydra_context, task_function=self._run, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; one that cannot be composed, or whose task raises, has its error as result."""
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        try:
            if not hasattr(self._task, "together"):
                return self._launch_each(job_overrides, initial_job_idx)
            return self._launch_packs(dict(enumerate(map(list, job_overrides), initial_job_idx)))
        finally:
            configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)

    def _launch_packs(self, jobs: dict[int, list[str]]) -> list[JobReturn]:
        results, launched = dict[int, JobReturn](), dict[str, Pack]()
        for pack in self._packs(jobs, results):
            folder = f"packs/{self._launched}"
            self._launched += 1
            is_new = pack.write(Path(str(self._config.hydra.sweep.dir), folder, "pack.json"))
            done = {} if is_new else pack.finished(self._task)
            results |= done
            if len(done) < len(pack.jobs):
                log.info(f"Launching {pack}")
                launched[folder] = pack
        places = [[f"hydra.sweep.subdir={folder}", "hydra.output_subdir=null"] for folder in launched]
        lines = [pack.jobs[0].common + place for pack, place in zip(launched.values(), places, strict=True)]
        try:
            values = [value_or_error(pack) for pack in self._launch_each(lines, 0)] if lines else []
        except Exception as error:  # a worker was lost, say; jobs that are done have their results on the disk
            values = [error] * len(lines)
        for pack, value in zip(launched.values(), values, strict=True):
            if isinstance(value, Exception):
                value = {job.number: job_return(job.lines, value) for job in pack.jobs} | pack.finished(self._task)
            results |= value
        return [results[number] for number in jobs]

    def _launch_each(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        if self._inner:
            return self._inner.launch(jobs, first)
        results = []
        for number, lines in enumerate(jobs, first):
            try:
                config = self._context.config_loader.load_sweep_config(self._config, list(lines))
                with read_write(config.hydra):
                    config.hydra.job.id = config.hydra.job.num = number
                results.append(run_job(self._run, config, "hydra.sweep.dir", "hydra.sweep.subdir", self._context))
            except Exception as error:
                results.append(job_return(lines, error))
        return results

    def _packs(self, jobs: dict[int, list[str]], failures: dict[int, JobReturn]) -> Iterator[Pack]:
        """The packs of the jobs, given as overrides by number; jobs that Hydra cannot compose go to `failures`."""
        own_of, composed, packs = cache(self._own), cache(self._composed), dict[object, Pack]()
        refers = cache(lambda *common: "${" in str(self._shared(composed(*common), resolve=False)))
        for number, lines in jobs.items():
            # An override that follows, of the same key or of a node with it, is for Hydra to apply.
            following = ((key, _key(o)) for i, line in enumerate(lines) for key in own_of(line) for o in lines[i + 1 :])
            overridden = any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a, b in following)
            common = lines if overridden else [line for line in lines if not own_of(line)]
            own = {} if overridden else {key: value for line in lines for key, value in own_of(line).items()}
            job, config = Job(number, lines, own, common), composed(*common)
            if isinstance(config, Exception):
                failures[number] = job_return(lines, config)
                continue
            try:
                with Pack([job], config).turned_to(job):
                    shared = self._shared(config) if refers(*common) else None
                # A job that leaves a key out keeps conf's value, so it cannot be made from one that sets it.
                alike = (tuple(common), frozenset(own), shared, config.hydra.job.chdir and number)
                packs.setdefault(alike, Pack([], config)).jobs.append(job)
            except Exception as error:
                whole = composed(*lines)  # Hydra's error says more than that of a single value
                failures[number] = job_return(lines, whole if isinstance(whole, Exception) else error)
        if len(packs) == len(jobs) > 1:
            keys = ", ".join(self._task.per_start)
            log.info(f"{len(jobs)} jobs are launched one by one: no two differ in {keys} alone (${{...}}, chdir count)")
        for pack in packs.values():
            most = len(pack.jobs)
            if hasattr(self._task, "jobs_per_pack"):
                most = self._task.jobs_per_pack(options(pack.config), self._inner is not None) or most
            for first in range(0, len(pack.jobs), most):
                yield Pack(pack.jobs[first : first + most], pack.config)

    def _own(self, line: str) -> dict[str, Any]:
        """The number that an override gives a per-start key, by the key; nothing if it is any other override."""
        try:
            override = OverridesParser.create().parse_override(line)
        except HydraException:  # raised again where the job is composed
            return {}
        plain = override.type is OverrideType.CHANGE and override.value_type is ValueType.ELEMENT
        if plain and override.key_or_group in self._task.per_start and isinstance(override.value(), int | float):
            return {override.key_or_group: override.value()}
        return {}

    def _composed(self, *lines: str) -> DictConfig | Exception:
        try:
            return self._context.config_loader.load_sweep_config(self._config, list(lines))
        except Exception as error:
            return error

    def _shared(self, config: Any, resolve: bool = True) -> str:
        """The options and environment variables that jobs must share to be in one pack."""
        nodes = options(config, getattr(self._task, "per_pack", ())), config.hydra.job.env_set
        try:
            shared = [OmegaConf.to_container(node, resolve=resolve) for node in nodes]
        except OmegaConfBaseException:  # an error only if the task uses that option
            return str(config.hydra.job.num)
        for *parents, last in (key.split(".") for key in self._task.per_start if resolve):
            node: Any = shared[0]
            for parent in parents:
                node = node.get(parent, {})
            node.pop(last, None)
        return str(shared)


def run_pack(task: Any, context: HydraContext, sweep: DictConfig, cfg: DictConfig) -> dict[int, JobReturn]:
    """Run the pack that is listed in the folder of Hydra's job; return the result of each of its jobs by number.

    Args:
        task: takes the jobs together.
        sweep: the config of the sweep.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    jobs = [Job(**job) for job in json.loads((folder / "pack.json").read_text(encoding="utf-8"))]
    pack = Pack(jobs, context.config_loader.load_sweep_config(sweep, jobs[0].common))
    with getattr(task, "holding", nullcontext)(folder):
        results = pack.finished(task, held=True)
        if len(jobs) == 1 and not results:  # has no company, so it can have all that a run by itself has
            with pack.turned_to(jobs[0]):
                result = run_job(task, pack.config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
            result.cfg = result.hydra_cfg = None
            return {jobs[0].number: result}
        done = {index for index, job in enumerate(jobs) if job.number in results}
        try:
            for index, finish in task.together(pack.options_of_jobs(), done):
                results[jobs[index].number] = _end(task, context, pack, jobs[index], finish)
            raise HydraException("the task ended without a result for this job")  # if there is such a job
        except Exception as error:
            left = [job for job in jobs if job.number not in results]
            return results | {job.number: _end(task, context, pack, job, error) for job in left}


def _end(task: Any, context: HydraContext, pack: Pack, job: Job, finish: TaskFunction | Exception) -> JobReturn:
    """End one job as Hydra's `run_job` would, which takes longer, for it copies all of Hydra's options four times.

    The job has a log of its own, but the terminal is the pack's.
    """
    try:
        with pack.turned_to(job) as folder:
            cfg, hydra = options(pack.config), pack.config.hydra
            folder.mkdir(parents=True, exist_ok=True)
            if hydra.output_subdir is not None:
                (folder / hydra.output_subdir).mkdir(exist_ok=True)
                of_hydra = OmegaConf.masked_copy(pack.config, "hydra")
                for name, part in (("config", cfg), ("hydra", of_hydra), ("overrides", hydra.overrides.task)):
                    OmegaConf.save(part, folder / hydra.output_subdir / f"{name}.yaml")
            configure_log(hydra.job_logging, hydra.verbose)
            handlers = logging.getLogger().handlers
            handlers[:] = [logging.NullHandler(), *(h for h in handlers if type(h) is not logging.StreamHandler)]
            with env_override(hydra.job.env_set):
                context.callbacks.on_job_start(config=pack.config, task_function=task)
                try:
                    value: Any = finish if isinstance(finish, Exception) else finish(cfg)
                except Exception as error:
                    value = error
                if isinstance(value, Exception):
                    log.error("This job failed.", exc_info=value)
            result = job_return(job.lines, value)
            context.callbacks.on_job_end(config=pack.config, job_return=result)
            return result
    except Exception as error:
        return job_return(job.lines, error)
    finally:
        of_pack: Any = HydraConfig.get()
        configure_log(of_pack.job_logging, of_pack.verbose)


def options(config: DictConfig, without: Sequence[str] = ()) -> DictConfig:
    """A copy of a job's config as the task sees it, without Hydra's options and without these top-level nodes."""
    copied = OmegaConf.masked_copy(config, [key for key in map(str, config) if key not in ("hydra", *without)])
    OmegaConf.set_struct(copied, True)
    return copied


def job_return(lines: Sequence[str], value: object) -> JobReturn:
    """The result of a job that Hydra did not run: an error as its value means that it failed."""
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    result = JobReturn(_of_task(lines), status=status, task_name=JobRuntime.instance().get("name"))
    result.return_value = value
    return result


def value_or_error(job: JobReturn) -> Any:
    """The value that a job returned, or the error that it raised."""
    try:
        with redirect_stderr(StringIO()):  # Hydra raises the error, and prints the job
            return job.return_value
    except Exception as error:
        raised = error.__traceback__ and error.__traceback__.tb_next  # here, and in Hydra
        return error.with_traceback(raised and raised.tb_next)


def _of_task(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not re.match(r"[+~]*hydra[./]", line)]


def _key(line: str) -> str:
    return re.split("[=@]", line.lstrip("+~"))[0]
