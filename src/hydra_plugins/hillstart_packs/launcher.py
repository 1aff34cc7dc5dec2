"""The launcher: jobs that differ only in per-start values are composed once and run as one pack."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import open_dict

log = logging.getLogger(__name__)


@dataclass
class PackLauncherConf:
    _target_: str = "hydra_plugins.hillstart_packs.launcher.PackLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="hillstart", node=PackLauncherConf, provider="hillstart")


class PackLauncher(BasicLauncher):
    """Hydra's own launcher, but for tasks that take jobs together, and for what becomes of a broken job."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; one that cannot be composed, or whose task raises, has its error as result."""
        assert self.config is not None
        task: Any = self.task_function
        setup_globals()
        self._log_as_hydra()
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        sweep_dir.mkdir(parents=True, exist_ok=True)
        jobs = dict(enumerate(job_overrides, initial_job_idx))
        if hasattr(task, "opening"):
            task.opening(sweep_dir, list(jobs))
        try:
            if hasattr(task, "together"):
                results = self._launch_packs(jobs, sweep_dir)
            else:
                log.info(f"Launching {len(jobs)} jobs locally")
                results = {number: self._run_alone(number, overrides) for number, overrides in jobs.items()}
        finally:
            self._log_as_hydra()
            if hasattr(task, "closing"):
                task.closing(sweep_dir)
        return [results[number] for number in jobs]

    def _launch_packs(self, jobs: dict[int, Sequence[str]], sweep_dir: Path) -> dict[int, JobReturn]:
        # Imported here, so that other apps, which import this module too, are spared the rest.
        from hydra_plugins.hillstart_packs._conditions import NotPackedError
        from hydra_plugins.hillstart_packs._groups import grouped
        from hydra_plugins.hillstart_packs._launch import launched_as_pack

        assert self.hydra_context is not None and self.config is not None and self.task_function is not None
        results: dict[int, JobReturn] = {}
        per_start = tuple(getattr(self.task_function, "per_start", ()))
        for group in grouped(jobs, per_start):
            if len(group.jobs) == 1:  # has no company, so it can have all that a run by itself has
                results[group.jobs[0].number] = self._run_alone(group.jobs[0].number, group.jobs[0].lines)
                continue
            try:
                results |= launched_as_pack(group, self.hydra_context, self.config, self.task_function, sweep_dir)
            except NotPackedError as reason:
                log.info(f"Launching {group}, one after another: {reason}")
                results |= {job.number: self._run_alone(job.number, job.lines) for job in group.jobs}
            self._log_as_hydra()
        return results

    def _run_alone(self, number: int, overrides: Sequence[str]) -> JobReturn:
        """One job as Hydra runs it, its error as result where it fails before its task begins."""
        assert self.hydra_context is not None and self.config is not None and self.task_function is not None
        log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
        try:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = number
                config.hydra.job.num = number
            return run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        except Exception as error:
            return failed(overrides, error)
        finally:
            self._log_as_hydra()

    def _log_as_hydra(self) -> None:
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def failed(overrides: Sequence[str], error: Exception) -> JobReturn:
    """The result of a job that could not start."""
    result = JobReturn(
        filter_overrides(overrides), status=JobStatus.FAILED, task_name=JobRuntime.instance().get("name")
    )
    result.return_value = error
    return result
