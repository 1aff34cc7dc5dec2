"""`python tests/fuzz.py READER SECONDS`: search by coverage for files on which a reader fails.

By hand, as it needs atheris, which is no dependency: `.venv/bin/python -m pip install atheris`. READER is one of
`hostile.READERS`; `all` tries each of them for SECONDS. A file that is neither read nor refused in one sentence is kept
in `FOUND`, and its traceback is printed.
"""

import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

FOUND = Path(tempfile.gettempdir(), "hillstart-fuzz")
# The Python code whose coverage is measured.
COVERED = ["hillstart", "PIL", "gzip", "zipfile", "json", "pickletools", "csv", "hydra", "omegaconf"]


def fuzz(reader: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=COVERED, enable_loader_override=False):
        import hostile
    logging.disable()
    warnings.simplefilter("ignore")
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as corpus:
        for k, data in enumerate(hostile.READERS[reader].sound()):
            Path(corpus, str(k)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-max_len=20000"]
        output = [f"-artifact_prefix={FOUND}/{reader}-", "-print_final_stats=1", "-verbosity=0"]
        test = lambda data: hostile.outcome(reader, data, Path(folder))  # noqa: E731
        atheris.Setup([sys.argv[0], *limits, *output, corpus], test)
        atheris.Fuzz()


def main() -> None:
    reader, seconds = sys.argv[1], int(sys.argv[2])
    if reader != "all":
        fuzz(reader, seconds)
        return
    import hostile

    failed = False
    for name in hostile.READERS:  # atheris ends its process
        run = subprocess.run([sys.executable, __file__, name, str(seconds)], check=False)
        print(f"{name}: {'something' if run.returncode else 'nothing'} found", flush=True)
        failed |= bool(run.returncode)
    sys.exit(failed)


if __name__ == "__main__":
    main()
