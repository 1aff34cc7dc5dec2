"""Time that Hydra itself takes of a multirun over seeds, by our sweeper and launcher and by its own.

`-m seed=range(0,JOBS)` with nothing to train, each time in a new process, after a multirun of two jobs.
"""

import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from benchmarks.timing import Part, Row, in_new_process, in_turns, quiet, seconds, spread
from hillstart.cli.train import TrainingTask
from hillstart.config.conf import conf_folder

OPTIONS = {"hillstart": (), "hydra basic": ("hydra/sweeper=basic", "hydra/launcher=basic")}
QUICK = {"ours": 200, "basic": 10, "repeats": 2}


def measure(device: torch.device, ours: int = 1000, basic: int = 50, repeats: int = 5) -> Iterator[Part]:
    """Milliseconds a job of sweeps of so many jobs; fewer with Hydra's own sweeper, which takes so long."""
    jobs = {"hillstart": ours, "hydra basic": basic}
    contestants = {name: partial(in_new_process, ms_per_job, jobs[name], *OPTIONS[name]) for name in jobs}
    timed = in_turns(contestants, repeats)
    rows: list[Row] = [
        {"contestant": name, "jobs": jobs[name]} | spread(values, "ms_per_job") for name, values in timed.items()
    ]
    ratio = rows[1]["ms_per_job"] / rows[0]["ms_per_job"]
    yield Part("Hydra's share of a multirun", rows, {"repeats": repeats, "ratio": ratio})


class Nothing:
    """Takes jobs, alone or together, as a training does, and is done with each at once."""

    per_start, per_pack = TrainingTask.per_start, TrainingTask.per_pack

    def __init__(self) -> None:
        self.alone = 0
        self.packs: list[int] = []

    def __call__(self, cfg: DictConfig) -> float:
        self.alone += 1
        return 0.0

    def together(
        self, cfgs: Iterable[DictConfig], done: Collection[int]
    ) -> Iterator[tuple[int, Callable[[DictConfig], float]]]:
        self.packs.append(sum(1 for _ in cfgs))
        for index in range(self.packs[-1]):
            yield index, lambda cfg: 0.0


def multirun(jobs: int, folder: Path, *options: str) -> float:
    """Seconds of a multirun that trains nothing, so that Hydra's composing, folders, logs and results are left.

    Raises:
        RuntimeError: it fails, or not every job was taken exactly once: as one pack, or alone by Hydra's sweeper.
    """
    task = Nothing()
    # starts=1 is what the command adds to a sweep over seeds.
    sys.argv[1:] = ["-m", f"seed=range(0,{jobs})", "starts=1", f"hydra.sweep.dir={folder}", *options]
    with quiet():
        taken = seconds(hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(task))
    written = len(list(folder.glob("*/.hydra/overrides.yaml")))
    if (task.alone, task.packs) != ((jobs, []) if options else (0, [jobs])) or written != jobs:
        raise RuntimeError(f"{jobs} jobs: {task.alone} alone, packs of {task.packs}, {written} folders")
    return taken


def ms_per_job(jobs: int, *options: str) -> float:
    """Milliseconds a job, after a multirun of two jobs that finds and imports the plugins."""
    with tempfile.TemporaryDirectory() as folder:
        multirun(2, Path(folder, "warm-up"), *options)
        return 1000 * multirun(jobs, Path(folder, "sweep"), *options) / jobs
