"""Files that are whole or not there: whoever reads one never meets half of it, whenever the writer was stopped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A new file to write to; it takes the place of `path` when all of it is written.

    Args:
        sync: and lies on the disk, so that a power cut does not matter either; False for what can be made again.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield new
        if sync:
            with new.open("rb") as file:
                os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def relative(path: Path) -> Path:
    """As a user would write it, from the folder the command was given in."""
    start = Path(os.environ.get("PWD", "."))
    return path.relative_to(start) if path.is_relative_to(start) else path
