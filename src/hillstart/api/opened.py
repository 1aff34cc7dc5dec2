"""A finished run, opened from Python: its tables as data frames, its networks, its page."""

import html
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from hillstart.config.build import starting_points
from hillstart.config.options import read_stored_options
from hillstart.data.given import giving
from hillstart.inference.classifier import Classifier
from hillstart.inference.loading import find, load, read, sizes
from hillstart.network import Network
from hillstart.runs.reader import RunRecord
from hillstart.runs.tables import RESULT, read_history
from hillstart.system.errors import InputError
from hillstart.system.files import as_path


class Page:
    """The page of a run; a notebook shows it, and `path` is its file."""

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"Page({str(self.path)!r})"

    def _repr_html_(self) -> str:
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{content}" style="width: 100%; height: 80vh; border: 0"></iframe>'


class OpenedRun:
    """A run, or a multirun as a whole, read from its folder; each file is read when it is first needed.

    Every attribute raises InputError, in one sentence that names the file, if a file is missing or damaged.

    Example:
        >>> run = hillstart.open_run("outputs/2026-11-27/10-00-00")
        >>> print(len(run.starts), run.history["epoch"].max())
        4 2
        >>> run.initial(3).w[0].shape  # before training; (S, n_in, n_out)
        torch.Size([1, 784, 30])
    """

    def __init__(self, folder: str | Path, *named: str, data: Any = None):
        self.folder, self._record, self._named, self._data = Path(folder), RunRecord(Path(folder)), named, data

    @cached_property
    def starts(self) -> pd.DataFrame:
        """A row per start, the best first: `starts.csv`. In a multirun with the job and the options that vary."""
        rows = sorted(self._record.starts, key=lambda row: row.rank or len(self._record.starts))
        return _typed(pd.DataFrame([row.cells for row in rows]))

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row per start and epoch: `history.csv`. In a multirun those of all jobs, with the options that vary."""
        if "job" not in self.starts:
            return _history(self.folder)
        found = []
        for job, rows in self.starts.groupby("job"):
            of_job = _history(self.folder / str(job))
            shared = {name: rows[name].iloc[0] for name in self.varied if name not in of_job}
            found.append(of_job.assign(job=job, **shared))
        return pd.concat(found, ignore_index=True)

    @property
    def varied(self) -> list[str]:
        """The columns of `starts` that hold options and hyperparameters, such as eta."""
        known = {"job", "seed", "start", "rank", *(field.name for field in RESULT)}
        return [name for name in self.starts if name not in known]

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return self._record.summary

    @property
    def options(self) -> dict[str, Any]:
        """All options of the run as plain data; empty for a multirun, whose jobs have their own."""
        return self._record.options

    @cached_property
    def classifier(self) -> Classifier:
        """The kept starts, which predict; for a multirun, those of its best job."""
        return load(self.folder)

    @cached_property
    def _networks(self) -> Path:
        return find(self.folder)

    def network(self, seed: int) -> Network:
        """The start with this seed as it was kept, in its best epoch: S = 1. The weights of no other start are read.

        Raises:
            InputError: it was not kept.
        """
        return read(self._networks, seed).network

    def initial(self, seed: int) -> Network:
        """The start with this seed as it was before training, bit for bit: S = 1. No weights are read, except by
        `start_from` those that it names.

        Raises:
            InputError: the folder is that of a multirun, or its options name code of your own that
                `open_run` was not given.
        """
        if not self.options:
            raise InputError(f"{self.folder}: is a multirun; open one of its jobs.")
        return starting_points(read_stored_options(self.folder, self._named), sizes(self._networks))([seed])

    def report(self) -> Page:
        """The page that opens the box; written if the folder has none.

        Raises:
            InputError: the data of the run are not there any more, or are others.
        """
        path = self.folder / "report.html"
        if not path.is_file():
            from hillstart.report.write import write  # imports Matplotlib

            with giving(self._data):
                write(self.folder, named=self._named)
        return Page(path)

    def __repr__(self) -> str:
        starts = len(self.starts)
        if not self.summary:
            return f"OpenedRun({str(self.folder)!r}: {starts} starts, not finished)"
        best = self.starts.iloc[0]
        return (
            f"OpenedRun({str(self.folder)!r}: {starts} starts, best seed {best['seed']} with validation accuracy "
            f"{best['val_accuracy']:.4g}, median {self.starts['val_accuracy'].median():.4g})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.starts.head(10).to_html(index=False)}"


def open_run(path: str | Path, *named: str, data: Any = None) -> OpenedRun:
    """Open the folder of a run or multirun: `outputs/DATE/TIME`, `multirun/DATE/TIME` or a job in one.

    Args:
        named: code of your own that the run used, such as "stop._target_=my.Rule"; `initial` and `report` need it, and
            import none that only the folder names.
        data: what `train` was given as `data`, if no file holds it; `report` needs it to write a page.

    Raises:
        InputError: there is no run.

    Example:
        >>> hillstart.open_run("outputs/2026-11-27/10-00-00")
        OpenedRun('outputs/2026-11-27/10-00-00': 4 starts, best seed ... with validation accuracy ..., median ...)
    """
    run = OpenedRun(as_path(path, "the folder of a run (outputs/DATE/TIME)"), *named, data=data)
    if not (run.folder / "starts.csv").is_file():
        raise InputError(f"{run.folder}: holds no starts.csv; give the folder of a run (outputs/DATE/TIME).")
    return run


def _history(folder: Path) -> pd.DataFrame:
    return _typed(pd.DataFrame([cells for cells, _, _ in read_history(folder / "history.csv")]))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers in the columns that hold nothing else."""
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if not (numbers.isna() & ~table[name].str.lower().isin(["", "nan"])).any():
            table[name] = numbers
    return table
