"""A multirun that trains nothing: `python -m benchmarks.multirun JOBS FOLDER [option ...]`.

What is left is Hydra's share: composing, folders, logs, results. The last line printed is a JSON with the seconds of
all jobs, how often the task was called for one of them, and for how many at once.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from hillstart.cli.train import TrainingTask
from hillstart.config.options import conf_folder


class Nothing:
    """Takes jobs, alone or together, as a training does, and is done with each at once."""

    per_start, per_pack = TrainingTask.per_start, TrainingTask.per_pack

    def __init__(self) -> None:
        self.alone = 0
        self.together_at_once: list[int] = []

    def __call__(self, cfg: DictConfig) -> float:
        self.alone += 1
        return 0.0

    def together(self, cfgs: Sequence[DictConfig]) -> Iterator[tuple[int, Callable[[DictConfig], float]]]:
        self.together_at_once.append(len(cfgs))
        for index in range(len(cfgs)):
            yield index, lambda cfg: 0.0


def multirun(task: Nothing, jobs: int, folder: Path, options: Sequence[str]) -> float:
    """Seconds of the whole multirun; starts=1 is what the command adds to a sweep over seeds."""
    sys.argv[1:] = ["-m", f"seed=range(0,{jobs})", "starts=1", f"hydra.sweep.dir={folder}", *options]
    began = time.perf_counter()
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(task)()
    return time.perf_counter() - began


def main() -> None:
    """Two jobs to warm up, so that finding plugins and importing them does not count; then all."""
    jobs, folder, options = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    multirun(Nothing(), 2, folder / "warm-up", options)
    task = Nothing()
    taken = multirun(task, jobs, folder / "sweep", options)
    print(json.dumps({"seconds": taken, "alone": task.alone, "together": task.together_at_once}))


if __name__ == "__main__":
    main()
