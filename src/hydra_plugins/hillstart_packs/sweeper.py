"""The sweeper: no job is composed merely to be checked, and a job that fails does not stop the others."""

import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher

log = logging.getLogger(__name__)

NAMED = 5
"""Failed jobs that a message names; the rest are counted."""


@dataclass
class PackSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.hillstart_packs.sweeper.PackSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="hillstart", node=PackSweeperConf, provider="hillstart")


class JobsFailed(HydraException):
    """Jobs of a sweep failed and the others are done; `failures` holds (number, result) of each failed one."""

    def __init__(self, failures: Sequence[tuple[int, JobReturn]], jobs: int) -> None:
        self.failures = failures
        named = [
            f"#{number} {' '.join([*(job.overrides or [])])}: {_reason(job._return_value)}"
            for number, job in failures[:NAMED]
        ]
        more = [f"and {len(failures) - NAMED} more"] if len(failures) > NAMED else []
        super().__init__(f"{len(failures)} of {jobs} jobs failed: {'; '.join(named + more)}")
        self.add_note("".join(traceback.format_exception(failures[0][1]._return_value)))


class PackSweeper(BasicSweeper):
    """Hydra's own sweeper, but for what becomes of a broken job."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher, which composes each job anyway and can let a broken one fail alone."""
        log.debug("%d jobs are checked as they are launched", len(batch))

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all jobs.

        Raises:
            JobsFailed: jobs failed; raised when all the others are done.
        """
        assert self.launcher is not None
        gathered = _Gathered(self.launcher)
        self.launcher = gathered
        returns = super().sweep(arguments)
        failures = [(number, job) for number, job in enumerate(gathered.jobs) if job.status is JobStatus.FAILED]
        if failures:
            raise JobsFailed(failures, len(gathered.jobs))
        return returns


class _Gathered(Launcher):
    """A launcher that keeps failed jobs back: Hydra's sweeper would stop at the first it is shown."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.jobs: list[JobReturn] = []

    def setup(self, **of_launcher: Any) -> None:
        self._launcher.setup(**of_launcher)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = self._launcher.launch(job_overrides, initial_job_idx)
        self.jobs += jobs
        return [job for job in jobs if job.status is not JobStatus.FAILED]


def _reason(error: BaseException) -> str:
    """The first line of an error and of what caused it, without repeating itself."""
    return ": ".join(dict.fromkeys(_lines(error)))


def _lines(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        text, kind = str(error).strip(), type(error)
        line = text.splitlines()[0] if text else ""
        # Python's own errors say little without their name: KeyError('seed') reads 'seed'.
        yield f"{kind.__name__}: {line}" if kind.__module__ == "builtins" and line else line or kind.__name__
        error = error.__cause__
