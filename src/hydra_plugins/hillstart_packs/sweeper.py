"""The sweeper: packs jobs for any launcher; a job that fails does not stop the others."""

import itertools
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from hydra_plugins.hillstart_packs.launcher import PackLauncher, PackLauncherConf, value_or_error


@dataclass
class PackSweeperConf:
    _target_: str = "hydra_plugins.hillstart_packs.sweeper.PackSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="hillstart", node=PackSweeperConf, provider="hillstart")


class JobsFailed(HydraException):
    """Jobs of a sweep failed and the others are done; `failures` holds (number, error) of each failed one."""

    def __init__(self, jobs: Sequence[JobReturn]) -> None:
        failed = [number for number, job in enumerate(jobs) if job.status is JobStatus.FAILED]
        self.failures = [(number, value_or_error(jobs[number])) for number in failed]
        (first, error), *_ = self.failures
        more = f"; so did {', '.join(f'#{other}' for other in failed[1:])}" if failed[1:] else ""
        # Python's own errors say little without their name: KeyError('seed') reads 'seed'.
        kind = f"{type(error).__name__}: " if type(error).__module__ == "builtins" else ""
        lines = " ".join(jobs[first].overrides or [])
        super().__init__(f"{len(failed)} of {len(jobs)} jobs failed: #{first} {lines}: {kind}{error}{more}")
        self.add_note("".join(traceback.format_exception(error)))


class PackSweeper(Sweeper):
    """All combinations of the given values, as Hydra's basic sweeper; jobs are composed only where they are launched.

    Args:
        max_batch_size: the largest number of jobs in one call of the launcher.
        params: values to sweep over, by key, beside those of the command line.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None) -> None:
        self._batch, self._params = max_batch_size, dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
        quoted = str(self.folder).replace("\\", "\\\\").replace("'", "\\'")
        with read_write(config.hydra):  # resolved once: a job in another process must not choose another folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")
            config.hydra.sweep.dir = str(self.folder)
        self.config, self.hydra_context = config, hydra_context
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if config.hydra.launcher._target_ != PackLauncherConf._target_:  # a class of its name: Hydra imports it twice
            launcher = PackLauncher(launcher)
            launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launcher = launcher

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all jobs.

        Raises:
            JobsFailed: jobs failed; raised when all the others are done.
        """
        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [f"{key}={values}" for key, values in self._params.items()]
        jobs = _combinations(parser.parse_overrides([*given, *arguments]))
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        size = self._batch or len(jobs)
        batches = [
            self.launcher.launch(jobs[first : first + size], initial_job_idx=first)
            for first in range(0, len(jobs), size)
        ]
        returns = [job for batch in batches for job in batch]
        if any(job.status is JobStatus.FAILED for job in returns):
            raise JobsFailed(returns)
        return batches


def _combinations(overrides: Sequence[Override]) -> list[list[str]]:
    lines: dict[str, list[str]] = {}
    for override in overrides:
        is_swept, key = override.is_sweep_override(), override.get_key_element()
        if is_swept and not override.is_discrete_sweep():
            raise HydraException(f"{override.input_line}: gives no list of values; use a, b, range or choice.")
        values = list(override.sweep_string_iterator()) if is_swept else [override.get_value_element_as_str()]
        if not values:  # glob lists the files of a group
            raise HydraException(f"{override.input_line}: gives no value; use a, b or the glob of a group.")
        lines[key] = [f"{key}={value}" for value in values]
    return [list(job) for job in itertools.product(*lines.values())]
