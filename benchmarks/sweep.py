"""Time that Hydra itself takes of a multirun over seeds, by our sweeper and launcher and by its own."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Spread, in_turns

OPTIONS = {"hillstart": (), "hydra basic": ("hydra/sweeper=basic", "hydra/launcher=basic")}


@dataclass(frozen=True)
class Size:
    """Jobs of each sweep; Hydra's own takes so long that fewer must do."""

    ours: int
    basic: int
    repeats: int


FULL, QUICK = Size(1000, 50, 5), Size(200, 10, 2)


def milliseconds_per_job(jobs: int, *options: str) -> float:
    """Milliseconds a job of a multirun that trains nothing, in a fresh process and a fresh folder.

    Raises:
        RuntimeError: it failed, or did not take every job exactly once.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.multirun", str(jobs), folder, *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        written = len(list(Path(folder, "sweep").glob("*/.hydra/overrides.yaml")))
    if (found["alone"], found["together"]) != ((jobs, []) if options else (0, [jobs])) or written != jobs:
        raise RuntimeError(f"{' '.join(command)}: {written} folders of jobs, taken {found}")
    return 1000 * float(found["seconds"]) / jobs


def measure(size: Size) -> dict[str, Any]:
    """Milliseconds a job of both, and how many times as many Hydra's own takes."""
    jobs = {"hillstart": size.ours, "hydra basic": size.basic}
    contestants = {name: partial(milliseconds_per_job, jobs[name], *OPTIONS[name]) for name in jobs}
    timed = {name: Spread.of(found) for name, found in in_turns(contestants, size.repeats).items()}
    rows = [{"contestant": name, "jobs": jobs[name]} | _milliseconds(of) for name, of in timed.items()]
    return {"repeats": size.repeats, "rows": rows, "ratio": timed["hydra basic"].median / timed["hillstart"].median}


def _milliseconds(of: Spread) -> dict[str, float]:
    return {"ms_per_job" if name == "median" else name: value for name, value in asdict(of).items()}


def section(console: Console, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure and show; what goes under `sweep` in the JSON."""
    found = measure(QUICK if quick else FULL)
    table = Table("sweeper and launcher", "jobs", "ms a job", "low", "high", title="Hydra's share of a multirun")
    for row in found["rows"]:
        of = Spread(row["ms_per_job"], row["low"], row["high"])
        table.add_row(row["contestant"], str(row["jobs"]), *of.shown())
    console.print(table, f"ratio {found['ratio']:.1f}; -m seed=range(0,JOBS) with nothing to train, medians of "
                         f"{found['repeats']} interleaved repeats, each in a fresh process, warm.")  # fmt: skip
    return found
