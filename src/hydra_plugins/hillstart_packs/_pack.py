"""One pack: its jobs in one call of the task's `together`, each then ended in a context and a folder of its own."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, env_override
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig

from hydra_plugins.hillstart_packs._clones import Clones, set_job, shown
from hydra_plugins.hillstart_packs._folder import Folders
from hydra_plugins.hillstart_packs._groups import Job
from hydra_plugins.hillstart_packs._logs import PackLog
from hydra_plugins.hillstart_packs.launcher import failed

log = logging.getLogger(__name__)


class Pack:
    """Jobs whose configs are sound, ready to run."""

    def __init__(
        self, jobs: list[Job], configs: list[DictConfig], clones: Clones, task: Any, callbacks: Callbacks
    ) -> None:
        self._jobs = jobs
        self._configs = configs
        self._clones = clones
        self._task = task
        self._callbacks = callbacks
        self._folders = Folders()
        self._cfg = clones.whole(jobs[0])
        self._shown: Any = shown(self._cfg)

    def run(self, sweep_dir: Path) -> list[JobReturn]:
        """The result of each job, in their order; one that fails has its error as result."""
        before = HydraConfig.instance().cfg
        cfg = self._clones.whole(self._jobs[0])
        common: Any = shown(cfg)
        set_job(cfg, self._jobs[0].number, sweep_dir)
        results: dict[int, JobReturn] = {}
        try:
            HydraConfig.instance().cfg = common
            with closing(PackLog(cfg.hydra)) as logs, env_override(cfg.hydra.job.env_set):
                for index, finish in self._finishes():
                    results[index] = self._finished(index, finish, logs)
                    HydraConfig.instance().cfg = common
        finally:
            HydraConfig.instance().cfg = before
        return [results[index] for index in range(len(self._jobs))]

    def _finishes(self) -> Iterator[tuple[int, TaskFunction]]:
        """Yield the function that ends each job: exactly one for each, whatever `together` does."""
        left = set(range(len(self._jobs)))
        problem: Exception = HydraException("the task ended without a result for this job")
        try:
            for index, finish in self._task.together(list(self._configs)):
                if index not in left:
                    raise HydraException(f"the task gave a result for {index}, which is no job that waits for one")
                left.remove(index)
                yield index, finish
        except Exception as error:
            problem = error
        fail = _raising(problem)
        for index in sorted(left):
            yield index, fail

    def _finished(self, index: int, finish: TaskFunction, logs: PackLog) -> JobReturn:
        """End one job as Hydra's run_job would run it."""
        job, task_cfg = self._jobs[index], self._configs[index]
        try:
            cfg, view = self._config(job)
            HydraConfig.instance().cfg = view
            folder = set_job(cfg, job.number)
            self._folders.write(folder, task_cfg, cfg.hydra)
            overrides = [str(override.input_line) for override in job.of_task]
            result = LeanReturn(overrides, task_cfg, None, str(Path.cwd()))
            result.make = partial(self._remade, job, folder)
            with logs.of_job(cfg.hydra):
                self._callbacks.on_job_start(config=cfg, task_function=self._task)
                try:
                    result.return_value = finish(task_cfg)
                    result.status = JobStatus.COMPLETED
                except Exception as error:
                    log.error("This job failed.", exc_info=error)
                    result.return_value = error
                    result.status = JobStatus.FAILED
                result.task_name = JobRuntime.instance().get("name")
                self._callbacks.on_job_end(config=cfg, job_return=result)
        except Exception as error:
            return failed(job.lines, error)
        return result

    def _config(self, job: Job) -> tuple[DictConfig, Any]:
        """A job's whole config, and what HydraConfig shows of it.

        All jobs share one, changed for each: its copy would be a fifth of a job's time. A callback may keep what it
        is given, so where there are any, each job has a config of its own.
        """
        if self._callbacks.callbacks:
            cfg = self._clones.whole(job)
            return cfg, shown(cfg)
        self._clones.change(self._cfg, job)
        return self._cfg, self._shown

    def _remade(self, job: Job, folder: Path) -> DictConfig:
        """The config that HydraConfig showed to a job."""
        cfg = self._clones.whole(job)
        set_job(cfg, job.number, folder)
        return shown(cfg)


class LeanReturn(JobReturn):
    """A job's result that makes `hydra_cfg` when it is asked for: a thousand of them would fill memory unread."""

    make: Callable[[], DictConfig] | None = None
    made: DictConfig | None = None

    @property
    def hydra_cfg(self) -> DictConfig | None:
        if self.made is None and self.make is not None:
            self.made = self.make()
        return self.made

    @hydra_cfg.setter
    def hydra_cfg(self, value: DictConfig | None) -> None:
        self.made = value

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"made": self.hydra_cfg, "make": None}


def _raising(error: Exception) -> TaskFunction:
    origin = error.__traceback__

    def finish(_: Any) -> Any:
        raise error.with_traceback(origin)  # raised once a job, it would gather the frames of all the jobs before

    return finish
