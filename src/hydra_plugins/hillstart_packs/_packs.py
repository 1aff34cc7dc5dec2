"""Packs: groups of jobs that differ in nothing but per-start values, from their overrides to their results."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.core.utils import JobReturn, configure_log, env_override, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from hydra_plugins.hillstart_packs.launcher import returned

log = logging.getLogger(__name__)

_OF_THE_JOB = re.compile(r"\$\{\s*hydra\s*[:.](?!\s*(runtime\.cwd|job\.name)\s*\})")
"""A reference to one of Hydra's own options that may differ between jobs."""


@dataclass
class Job:
    """One job: its number in the sweep, its overrides, its per-start values, and the overrides without these."""

    number: int
    lines: list[str]
    own: dict[str, Any]
    common: list[str]


@dataclass
class Pack:
    """Jobs that are trained together, and the config of one of them, from which that of each is made.

    Attributes:
        shown: what HydraConfig shows of `config`, where the jobs are run.
    """

    jobs: Sequence[Job]
    config: DictConfig
    shown: Any = None

    def __str__(self) -> str:
        first, n = self.jobs[0], len(self.jobs)
        if n == 1:
            return f"1 job: {' '.join(first.lines)}"
        return f"{n} jobs, as one pack: each with its own {', '.join(first.own)}; {' '.join(first.common)}".rstrip("; ")

    def write(self, folder: Path) -> bool:
        """List the jobs in `folder`; return False if an interrupted sweep, which is resumed, has done that already.

        Raises:
            HydraException: that sweep had other jobs in this pack.
        """
        file, content = folder / "pack.json", json.dumps([asdict(job) for job in self.jobs])
        if file.exists():
            if file.read_text(encoding="utf-8") != content:
                raise HydraException(f"{file}: lists other jobs than this sweep has; resume it with its own options.")
            return False
        folder.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".new").write_text(content, encoding="utf-8")
        file.with_suffix(".new").replace(file)
        return True

    @classmethod
    def read(cls, folder: Path, loader: ConfigLoader, sweep: DictConfig) -> "Pack":
        """The pack that is listed in `folder`."""
        jobs = [Job(**job) for job in json.loads((folder / "pack.json").read_text(encoding="utf-8"))]
        return cls(jobs, loader.load_sweep_config(sweep, jobs[0].common))

    def turn_to(self, job: Job) -> Path:
        """Make `config`, and `shown`, what Hydra would compose for this job; return the job's folder."""
        for key, value in job.own.items():
            OmegaConf.update(self.config, key, value)
        form = self.config.hydra.job.config.override_dirname
        task = [line for line in job.lines if not re.match(r"[+~]*hydra[./]", line)]
        named = sorted(line for line in task if re.split("[=@]", line.lstrip("+~"))[0] not in form.exclude_keys)
        for hydra in (self.config.hydra, self.shown.hydra) if self.shown else (self.config.hydra,):
            with read_write(hydra):
                hydra.job.id = hydra.job.num = job.number
                hydra.job.override_dirname = form.item_sep.join(named).replace("=", form.kv_sep)
                hydra.overrides.task = task
                folder = Path(str(hydra.sweep.dir), str(hydra.sweep.subdir))
                hydra.runtime.output_dir = str(folder)
        return folder

    def options(self, without: Sequence[str] = ()) -> DictConfig:
        """A copy of `config` as the task sees it, without these top-level nodes."""
        options = OmegaConf.masked_copy(self.config, [k for k in map(str, self.config) if k not in ("hydra", *without)])
        OmegaConf.set_struct(options, True)
        return options

    def finished(self, task: Any, held: bool = False) -> dict[int, Any]:
        """The value of each job that is finished, by its place in the pack.

        Args:
            held: no other process may run this pack.
        """
        if not hasattr(task, "finished"):
            return {}
        values = {
            index: task.finished(self.turn_to(job), list(self.config.hydra.overrides.task), held)
            for index, job in enumerate(self.jobs)
        }
        return {index: value for index, value in values.items() if value is not None}

    def results(self, values: Mapping[int, Any], error: Exception | None = None) -> dict[int, JobReturn]:
        """Each job's result by its number: its value, or the error if there is one and no value."""
        every = values if error is None else range(len(self.jobs))
        return {self.jobs[i].number: returned(self.jobs[i].lines, values.get(i, error)) for i in every}


class Packing:
    """Makes the packs of one call of the launcher.

    Attributes:
        failures: the result of each job that Hydra cannot compose, by its number.
    """

    def __init__(self, task: Any, loader: ConfigLoader, config: DictConfig, distributed: bool) -> None:
        self._task, self._loader, self._config, self._distributed = task, loader, config, distributed
        self._per_pack = getattr(task, "per_pack", ())
        self.failures: dict[int, JobReturn] = {}

    def packs(self, jobs: Mapping[int, Sequence[str]]) -> list[Pack]:
        """The packs of these jobs, given as overrides by number; jobs keep their order."""
        parser, parsed = OverridesParser.create(), dict[str, Override]()
        groups: dict[object, list[Job]] = {}
        for number, lines in jobs.items():
            try:
                for line in set(lines) - parsed.keys():  # parsing takes half a millisecond, and most lines repeat
                    parsed[line] = parser.parse_override(line)
            except HydraException as error:
                self.failures[number] = returned(lines, error)
                continue
            own = {parsed[line].key_or_group: parsed[line].value() for line in lines if self._is_own(parsed[line])}
            common = [line for line in lines if not self._is_own(parsed[line])]
            # A job that leaves a key out keeps conf's value, so it cannot be made from one that sets it.
            groups.setdefault((frozenset(own), tuple(common)), []).append(Job(number, list(lines), own, common))
        return [pack for group in groups.values() for pack in self._split(group)]

    def _is_own(self, override: Override) -> bool:
        """True if an override sets a per-start key to a number; anything else is common to a group."""
        plain = override.type is OverrideType.CHANGE and override.value_type is ValueType.ELEMENT
        return plain and override.key_or_group in self._task.per_start and isinstance(override.value(), int | float)

    def _split(self, jobs: list[Job]) -> Iterator[Pack]:
        """The packs of jobs that share all lines except those of their own values."""
        try:
            whole = Pack(jobs, self._loader.load_sweep_config(self._config, jobs[0].common))
        except Exception as error:
            self.failures |= {job.number: returned(job.lines, error) for job in jobs}
            return
        options = str(OmegaConf.to_container(whole.options(self._per_pack)))
        if len(jobs) > 1 and (reason := self._obstacle(whole, options)):
            log.info(f"{len(jobs)} jobs are launched one after another: {reason}")
            options = ""
        else:
            reason = None
        before, alike = HydraConfig.instance().cfg, dict[object, list[Job]]()
        if "${" in options:
            HydraConfig.instance().set_config(whole.config)  # for references to Hydra's own options
        for job in jobs:
            try:
                whole.turn_to(job)
                shared = self._resolved(whole) if "${" in options else ""
                alike.setdefault(job.number if reason else shared, []).append(job)
            except Exception as error:
                self.failures[job.number] = returned(job.lines, self._hydras_own(job, error))
        HydraConfig.instance().cfg = before
        most = None
        if hasattr(self._task, "jobs_per_pack"):
            most = self._task.jobs_per_pack(whole.options(), self._distributed)
        for group in alike.values():
            for first in range(0, len(group), most or len(group)):
                yield Pack(group[first : first + (most or len(group))], whole.config)

    def _obstacle(self, pack: Pack, options: str) -> str | None:
        """The reason why these jobs must be launched one after another; None if there is none."""
        for line in pack.jobs[0].common:
            other = re.split("[=@]", line.lstrip("+~"))[0]
            for key in pack.jobs[0].own:
                if f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}."):
                    return f"{line} is set beside {key}"
        if pack.config.hydra.job.chdir:
            return "hydra.job.chdir gives each a working directory of its own"
        if "${" in str(OmegaConf.to_container(pack.config.hydra.job.env_set)) or _OF_THE_JOB.search(options):
            return "an option may depend on the job (${hydra:...})"
        return None

    def _resolved(self, pack: Pack) -> str:
        """All options that jobs must share to be in one pack, with their references resolved."""
        options: Any = OmegaConf.to_container(pack.options(self._per_pack), resolve=True)
        for key in self._task.per_start:
            *parents, last = key.split(".")
            node = options
            for parent in parents:
                node = node.get(parent, {})
            node.pop(last, None)
        return str(options)

    def _hydras_own(self, job: Job, error: Exception) -> Exception:
        """Hydra's error for a job that cannot be composed, which says more than that of a single value."""
        try:
            self._loader.load_sweep_config(self._config, job.lines)
        except Exception as own:
            return own
        return error


@dataclass
class PackTask:
    """The task function that a launcher runs for each pack; it returns the result of each job by its number.

    Attributes:
        task: takes the jobs together.
        context, sweep: Hydra's, and the config of the sweep.
    """

    task: Any
    context: HydraContext
    sweep: DictConfig

    def __call__(self, cfg: DictConfig) -> dict[int, JobReturn]:
        folder = Path(HydraConfig.get().runtime.output_dir)
        pack = Pack.read(folder, self.context.config_loader, self.sweep)
        with getattr(self.task, "holding", nullcontext)(folder):
            done = pack.finished(self.task, held=True)
            if len(pack.jobs) == 1 and not done:  # has no company, so it can have all that a run by itself has
                pack.turn_to(pack.jobs[0])
                result = run_job(self.task, pack.config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
                result.cfg = result.hydra_cfg = None
                return {pack.jobs[0].number: result}
            of_pack: Any = HydraConfig.instance().cfg
            HydraConfig.instance().set_config(pack.config)
            pack.shown, HydraConfig.instance().cfg = HydraConfig.instance().cfg, of_pack
            results = pack.results(done)
            problem: Exception = HydraException("the task ended without a result for this job")
            try:
                for index, finish in self.task.together(self._configs(pack), done.keys()):
                    results[pack.jobs[index].number] = self._end(pack, pack.jobs[index], finish)
            except Exception as error:
                problem = error
            fail = partial(_raise, problem, problem.__traceback__)
            return results | {j.number: self._end(pack, j, fail) for j in pack.jobs if j.number not in results}

    @staticmethod
    def _configs(pack: Pack) -> Iterator[DictConfig]:
        for job in pack.jobs:
            pack.turn_to(job)
            yield pack.options()

    def _end(self, pack: Pack, job: Job, finish: TaskFunction) -> JobReturn:
        """End one job as Hydra's `run_job` would, which copies all of Hydra's options five times for each.

        The job has a log of its own, but the terminal is the pack's.
        """
        of_pack: Any = HydraConfig.instance().cfg
        try:
            folder, cfg, hydra = pack.turn_to(job), pack.options(), pack.shown.hydra
            HydraConfig.instance().cfg = pack.shown
            folder.mkdir(parents=True, exist_ok=True)
            if hydra.output_subdir is not None:
                (folder / hydra.output_subdir).mkdir(exist_ok=True)
                for name, part in (("config", cfg), ("hydra", pack.shown), ("overrides", hydra.overrides.task)):
                    OmegaConf.save(part, folder / hydra.output_subdir / f"{name}.yaml")
            configure_log(hydra.job_logging, hydra.verbose)
            handlers = logging.getLogger().handlers
            handlers[:] = [logging.NullHandler(), *(h for h in handlers if type(h) is not logging.StreamHandler)]
            with env_override(hydra.job.env_set):
                self.context.callbacks.on_job_start(config=pack.config, task_function=self.task)
                try:
                    value: Any = finish(cfg)
                except Exception as error:
                    log.error("This job failed.", exc_info=error)
                    value = error
            result = returned(job.lines, value)
            self.context.callbacks.on_job_end(config=pack.config, job_return=result)
            return result
        except Exception as error:
            return returned(job.lines, error)
        finally:
            HydraConfig.instance().cfg = of_pack
            configure_log(of_pack.hydra.job_logging, of_pack.hydra.verbose)


def _raise(error: Exception, origin: Any, cfg: DictConfig) -> Any:
    raise error.with_traceback(origin)  # raised once a job, it would gather the frames of all the jobs before
