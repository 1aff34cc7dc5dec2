"""`python tests/fuzz.py READER SECONDS`: files that lead a reader into ever new code, for as long as is wished.

By hand, as it needs atheris, which is no dependency: `.venv/bin/python -m pip install atheris`. READER is one of
`hostile.READERS`; `all` takes each of them for SECONDS. Says how many files were tried; whatever ended otherwise than
as a result or one sentence is printed with its traceback, and the file is kept in `FOUND`.
"""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

FOUND = Path(tempfile.gettempdir(), "hillstart-fuzz")
# What is watched for new code: ours, and that which reads files for us, as far as it is Python.
WATCHED = ["hillstart", "PIL", "gzip", "zipfile", "json", "pickletools", "csv", "hydra", "omegaconf"]


def fuzz(reader: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=WATCHED, enable_loader_override=False):
        import hostile
    logging.disable()
    warnings.simplefilter("ignore")
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder, corpus = Path(place, "read"), Path(place, "corpus")
        folder.mkdir()
        corpus.mkdir()
        for k, data in enumerate(hostile.READERS[reader].sound()):
            (corpus / str(k)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-max_len=20000"]
        told = [f"-artifact_prefix={FOUND}/{reader}-", "-print_final_stats=1", "-verbosity=0"]

        def one(data: bytes) -> None:
            hostile.outcome(reader, data, folder)

        atheris.Setup([sys.argv[0], *limits, *told, str(corpus)], one)
        atheris.Fuzz()


def main() -> None:
    reader, seconds = sys.argv[1], int(sys.argv[2])
    if reader != "all":
        fuzz(reader, seconds)
        return
    import hostile

    failed = []
    for name in hostile.READERS:  # atheris ends its process
        run = subprocess.run([sys.executable, __file__, name, str(seconds)], check=False, env=os.environ)
        print(f"{name}: {'nothing found' if run.returncode == 0 else 'something found'}", flush=True)
        failed += [name] * bool(run.returncode)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
