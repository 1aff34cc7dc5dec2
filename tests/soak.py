"""`make soak`, or `python tests/soak.py SECONDS [SEED]`: runs of many starts, killed again and again at random moments.

Each round trains some hundred starts twice from its own seeds: once in peace, and once killed one to five times, at
any moment from the start of the process on, and resumed each time. Both must end the same to the last bit. Prints a
line for each round, and figures at the end; exit code 1 where a result was lost or differs.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from killing import OPTIONS, differences, process, resumed_run, whole_run
from launching import BOUND

STARTS, PACK = 150, 90
MORE = [f"starts={STARTS}", f"pack={PACK}", "trainer.max_epochs=200"]
MOST_KILLS = 5


def killed(folder: Path, kills: int, seconds: float, chance: random.Random, options: list[str]) -> int:
    """See a run in `folder` through so many kills to its end; how many of them met it alive."""
    met = 0
    for _ in range(kills):
        resumable = (folder / "checkpoints" / "packs.json").is_file()
        asked = [f"resume={folder.name}"] if resumable else [*options, f"hydra.run.dir={folder.name}"]
        run = process(folder, *asked)
        time.sleep(chance.uniform(0, seconds))
        run.kill()
        run.communicate(timeout=BOUND)
        met += run.returncode < 0
    if (folder / "checkpoints" / "packs.json").is_file():
        resumed_run(folder)
    else:
        whole_run(folder, *options)
    return met


def soak(seconds: float, seed: int) -> bool:
    """Rounds for so long; whether nothing was lost."""
    chance, end = random.Random(seed), time.monotonic() + seconds
    rounds = faults = starts = lost = 0
    with tempfile.TemporaryDirectory() as place:
        while time.monotonic() < end:
            options, kills = [*OPTIONS, *MORE, f"seed={STARTS * rounds}"], chance.randint(1, MOST_KILLS)
            whole, run = Path(place, "whole"), Path(place, "run")
            began = time.monotonic()
            whole_run(whole, *options[len(OPTIONS) :])
            met = killed(run, kills, time.monotonic() - began, chance, options)
            wrong = differences(run, whole)
            rounds, faults, starts, lost = rounds + 1, faults + met, starts + 2 * STARTS, lost + bool(wrong)
            print(
                f"round {rounds}: {2 * STARTS} starts, {met} kills; differs: {', '.join(wrong) or 'nothing'}",
                flush=True,
            )
            for folder in (whole, run):
                shutil.rmtree(folder)
    print(
        f"{rounds} rounds, {starts} starts, {faults} kills: {rounds - lost} runs survived, {lost} were lost or differ"
    )
    return not lost


if __name__ == "__main__":
    sys.exit(not soak(float(sys.argv[1]) if len(sys.argv) > 1 else 3600, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
