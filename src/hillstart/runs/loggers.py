"""Write a run to a Lightning logger: its options, the metrics of each epoch, its results and its page.

A logger that fails once training has begun, on a full disk or a lost network, ends no training: the first error is
told in one sentence.
"""

import logging
import math
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from hillstart.engine.starts import FIGURES, progress
from hillstart.runs.reader import Plain, RunRecord, flattened
from hillstart.system.errors import InputError
from hillstart.system.files import WritingError, replacing, writing
from hillstart.system.untrusted import briefly

log = logging.getLogger(__name__)

PARENT = "mlflow_run_id.txt"
"""File at the root of a multirun: the id of its run in MLflow, the parent of the runs of its jobs."""

NOT_LOGGED = ("logger", "resume", "overwrite")
WRITERS = ("log_hyperparams", "log_metrics", "save", "finalize")


def forgiving(logger: Logger) -> Logger:
    """The same logger, whose methods report their first error in the log instead of raising it."""
    for name in WRITERS:
        setattr(logger, name, _forgiving(getattr(logger, name), logger))
    return logger


def _forgiving(write: Callable[..., Any], logger: Logger) -> Callable[..., Any]:
    name = type(logger).__name__

    @wraps(write)
    def writes(*args: Any, **kwargs: Any) -> Any:
        try:
            with writing(Path(f"what {name} writes")):
                return write(*args, **kwargs)
        except Exception as error:  # of whichever service is behind the logger
            if not getattr(logger, "has_failed", False):
                logger.has_failed = True  # type: ignore[attr-defined]
                reason = str(error) if isinstance(error, WritingError) else f"{name}: {briefly(error)}."
                log.warning(f"training goes on without all figures of the logger: {reason}")

    return writes


def log_options(logger: Logger, options: Plain) -> None:
    """Begin to write: log the options of a run as hyperparameters under their dotted keys.

    Raises:
        InputError: it cannot begin, for example because its server does not answer.
    """
    try:
        _ = logger.experiment  # type: ignore[attr-defined]
    except Exception as error:
        raise InputError(f"logger: {type(logger).__name__} cannot begin: {briefly(error)}.") from error
    logger.log_hyperparams({k: v for k, v in flattened(options) if k.split(".")[0] not in NOT_LOGGED})


def log_results(logger: Logger, folder: Path, batch_size: int, curves: int = 0) -> None:
    """Log what a finished run's folder holds, its page too, and finish with the logger.

    Args:
        batch_size: pictures in a mini-batch; the step of a metric is the number of mini-batches so far.
        curves: number of best starts whose curves are logged too, as `rank_1/val_cost` ...
    """
    record = RunRecord(folder)
    summary, rows = record.summary, sorted(record.starts, key=lambda row: row.rank or 0)
    figures = torch.from_numpy(record.history(rows)).transpose(0, 1)
    per_epoch = -(-summary["pictures"]["train"] // batch_size)
    if summary.get("packs", 0) != 1 or summary["ranks"] > 1:  # else the epochs were logged while it trained
        sound = torch.tensor([not row.result.diverged for row in rows])
        for epoch in range(1, len(figures) + 1):
            logger.log_metrics(progress(figures[:epoch], sound), step=epoch * per_epoch)
    for epoch, best in enumerate(figures[:, :curves].tolist() if curves else [], 1):
        named = {
            f"rank_{rank}/{name}": value
            for rank, values in enumerate(best, 1)
            for name, value in zip(FIGURES, values, strict=True)
            if not math.isnan(value)  # it had ended
        }
        logger.log_metrics({**named, "epoch": epoch}, step=epoch * per_epoch)
    final = {f"final/{key}": value for key, value in flattened(summary) if type(value) in (int, float)}
    logger.log_metrics(final, step=len(figures) * per_epoch)
    end(logger, folder)


def begin_parent(logger: Logger | None, root: Path) -> Logger | None:
    """Begin or resume the run of a multirun in MLflow, the parent of the runs of its jobs; None without MLflow.

    Raises:
        InputError: as `log_options`.
    """
    if not isinstance(logger, MLFlowLogger):
        return None
    if not (root / PARENT).is_file():
        log_options(logger, {})
        with replacing(root / PARENT) as new:
            new.write_text(f"{logger.run_id}\n")
    return logger


def end(logger: Logger, folder: Path) -> None:
    """Give a logger the page of the run, if it takes files, and finish with it."""
    _forgiving(_log_page, logger)(logger, folder / "report.html")
    logger.finalize("success")
    if isinstance(logger, WandbLogger):
        _forgiving(logger.experiment.finish, logger)()  # so that the next job begins a run of its own


def _log_page(logger: Logger, page: Path) -> None:
    if not page.is_file():
        return
    if isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(page))
    elif isinstance(logger, WandbLogger):
        logger.experiment.log_artifact(str(page), name=f"report-{logger.experiment.id}", type="report")
