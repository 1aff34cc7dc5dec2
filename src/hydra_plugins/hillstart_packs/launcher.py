"""The launcher: hands packs of jobs to another launcher, or runs them in this process."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

log = logging.getLogger(__name__)


@dataclass
class PackLauncherConf:
    _target_: str = "hydra_plugins.hillstart_packs.launcher.PackLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="hillstart", node=PackLauncherConf, provider="hillstart")


class PackLauncher(Launcher):
    """Packs the jobs of a task that takes them together (see the package); runs those of any other task one by one.

    Args:
        inner: the launcher that runs each pack as a job; None: this process.
    """

    def __init__(self, inner: Launcher | None = None) -> None:
        self._inner, self._distributed = inner or InProcess(), inner is not None
        self._launched = 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config
        if hasattr(task_function, "together"):
            # Imported here, so that other apps, which import this module too, are spared the rest.
            from hydra_plugins.hillstart_packs._packs import PackTask

            task_function = PackTask(task_function, hydra_context, config)
        self._inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; one that cannot be composed, or whose task raises, has its error as result."""
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        try:
            if not hasattr(self._task, "together"):
                return self._inner.launch(job_overrides, initial_job_idx)
            return self._launch_packs(dict(enumerate(job_overrides, initial_job_idx)))
        finally:
            configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)

    def _launch_packs(self, jobs: dict[int, Sequence[str]]) -> list[JobReturn]:
        from hydra_plugins.hillstart_packs._packs import Packing

        packing = Packing(self._task, self._context.config_loader, self._config, self._distributed)
        results, packs, lines = packing.failures, [], []
        for number, pack in enumerate(packing.packs(jobs), self._launched):
            is_new = pack.write(Path(str(self._config.hydra.sweep.dir), "packs", str(number)))
            done = {} if is_new else pack.finished(self._task)
            results |= pack.results(done)
            if len(done) < len(pack.jobs):
                log.info(f"Launching {pack}")
                packs.append(pack)
                lines.append([*pack.jobs[0].common, f"hydra.sweep.subdir=packs/{number}", "hydra.output_subdir=null"])
            self._launched += 1
        try:
            returns = self._inner.launch(lines, 0) if packs else ()
            values = [done._return_value for done in returns]
        except Exception as error:  # a worker was lost, say; jobs that are done have their results on the disk
            values = [error] * len(packs)
        for pack, value in zip(packs, values, strict=True):
            results |= pack.results(pack.finished(self._task), value) if isinstance(value, Exception) else value
        return [results[number] for number in jobs]


class InProcess(Launcher):
    """Runs jobs in this process, as Hydra's basic launcher; one that cannot be composed has its error as result."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return [self._run(number, lines) for number, lines in enumerate(job_overrides, initial_job_idx)]

    def _run(self, number: int, lines: Sequence[str]) -> JobReturn:
        try:
            config = self._context.config_loader.load_sweep_config(self._config, list(lines))
            with read_write(config.hydra):
                config.hydra.job.id = config.hydra.job.num = number
            return run_job(self._task, config, "hydra.sweep.dir", "hydra.sweep.subdir", self._context)
        except Exception as error:
            return returned(lines, error)


def returned(lines: Sequence[str], value: object) -> JobReturn:
    """The result of a job that Hydra did not run: an error as its value means that it failed."""
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    name = JobRuntime.instance().get("name")
    return JobReturn(filter_overrides(lines), status=status, task_name=name, _return_value=value)
