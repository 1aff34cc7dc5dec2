"""Peak memory of a run, in a process of its own: `python -m benchmarks.memory STARTS PICTURES DEVICE`."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.runs import Run, noise_options

SIZES = [784, 30, 10]


def peak_bytes() -> int:
    """Peak memory of this process so far, in bytes.

    On Linux a process inherits ru_maxrss from the one that started it, however small it is itself; VmHWM is its own.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_bytes_of_run(starts: int, pictures: int, device: torch.device) -> int:
    """Peak memory of a fresh process that trains `starts` starts for one epoch, in bytes.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.memory", str(starts), str(pictures), device.type]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def main() -> None:
    """Train, then print the peak in bytes."""
    starts, pictures, device = int(sys.argv[1]), int(sys.argv[2]), torch.device(sys.argv[3])
    chosen = (f"starts={starts}", "trainer.max_epochs=1", "descent.batch_size=32")
    Run(noise_options(device, SIZES, pictures, max(2, pictures // 10), *chosen), device).seconds()
    print(peak_bytes())


if __name__ == "__main__":
    main()
