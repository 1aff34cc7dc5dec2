"""Logging while a pack runs: the pack's own log, and for each job that ends a log of its own."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf


class PackLog:
    """Logs as `job_logging` of a pack's node `hydra` says, to the terminal too, until it is closed."""

    def __init__(self, hydra: DictConfig) -> None:
        _configure(hydra)
        raw: Any = OmegaConf.to_container(hydra.job_logging) if hydra.job_logging is not None else {}
        named: Any = raw.get("handlers") or {}
        self._handlers = {handler for logger in _loggers() for handler in logger.handlers if handler.name in named}
        for handler in self._handlers:
            if isinstance(handler, logging.FileHandler):
                handler.mode = "a"  # configuring a job's log closes it, and it is then opened again
        for conf in named.values():
            conf.pop("filename", None)
        self._files_alone = "${" not in str(raw) and all(
            _is_plain_file(handler) or _is_terminal(handler) for handler in self._handlers
        )

    def close(self) -> None:
        for handler in self._handlers:
            handler.close()

    @contextmanager
    def of_job(self, hydra: DictConfig) -> Iterator[None]:
        """Log as `job_logging` of a job's node `hydra` says, but not to the terminal; then as before."""
        before = [
            (logger, logger.handlers[:], logger.level, logger.propagate, logger.disabled) for logger in _loggers()
        ]
        opened: set[logging.Handler] = set()
        try:
            if self._files_alone:
                self._open_files(hydra)
            else:
                _configure(hydra)
            for logger in _loggers():
                opened.update(logger.handlers)
                logger.handlers[:] = [handler for handler in logger.handlers if not _is_terminal(handler)]
            logging.getLogger().addHandler(logging.NullHandler())  # with no handler at all, warnings go to stderr
            yield
        finally:
            for handler in opened.difference(*(handlers for _, handlers, *_ in before)):
                handler.close()
            for logger, handlers, level, propagate, disabled in before:
                logger.handlers[:], logger.propagate, logger.disabled = handlers, propagate, disabled
                if logger.level != level:  # to set one, even to what it was, empties a cache in every logger there is
                    logger.setLevel(level)

    def _open_files(self, hydra: DictConfig) -> None:
        """Put a job's log files in place of the pack's: where nothing else differs, that saves a configuration."""
        moved: dict[logging.Handler, logging.Handler] = {}
        for handler in self._handlers:
            if isinstance(handler, logging.FileHandler):
                conf = hydra.job_logging.handlers[handler.name]
                make = type(handler)
                moved[handler] = make(
                    conf.filename, conf.get("mode", "a"), handler.encoding, handler.delay, handler.errors
                )
                moved[handler].setFormatter(handler.formatter)
                moved[handler].setLevel(handler.level)
                moved[handler].filters = handler.filters
        for logger in _loggers():
            logger.handlers[:] = [moved.get(handler, handler) for handler in logger.handlers]


def _configure(hydra: DictConfig) -> None:
    if hydra.job_logging is not None:
        configure_log(hydra.job_logging, hydra.verbose)


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [root, *(logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger))]


def _is_plain_file(handler: logging.Handler) -> bool:
    """True if another handler of its class is made as a FileHandler is."""
    return isinstance(handler, logging.FileHandler) and type(handler).__init__ is logging.FileHandler.__init__


def _is_terminal(handler: logging.Handler) -> bool:
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in terminal
