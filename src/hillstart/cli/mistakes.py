"""Explains a mistake in the options in one sentence: the key, what is wrong and the nearest right key."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hillstart.config.options import choices, conf_folder
from hillstart.system.errors import InputError
from hillstart.system.files import of_the_disk, reason, relative
from hillstart.system.schema import nearest

USER_ERRORS = (HydraException, OmegaConfBaseException, InputError)
"""The errors that a wrong option raises; any other is a fault of the program."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """Exit with one sentence if the user's options are wrong or a file cannot be written."""
    if wants_traceback():
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
    try:
        yield
    except USER_ERRORS as error:
        sys.exit(f"hillstart: {explain(error)}")
    except OSError as error:  # for example of a file that Hydra writes
        if not of_the_disk(error):
            raise
        what = relative(Path(error.filename)) if error.filename else "a file of the run"
        sys.exit(f"hillstart: {what} cannot be written: {reason(error)}.")
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def wants_traceback() -> bool:
    """True if the user asked for tracebacks by HYDRA_FULL_ERROR=1."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def explain(error: BaseException) -> str:
    """Describe the error of a wrong option in one sentence."""
    failed = getattr(error, "failures", ())  # those of a sweep; Hydra imports its class twice
    reasons = {explain(job._return_value) for _, job in failed}
    if len(failed) > 1 and len(reasons) == 1:
        return f"{str(error).partition(':')[0]}: {reasons.pop()}"
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, InputError):
            return str(cause)
    if isinstance(error, MissingConfigException) and (found := re.search(r"find '([^']+)/([^'/]+)'", str(error))):
        group, name = found.groups()
        return f"{group}={name}: there is no such choice{nearest(name, choices(group) or list(error.options or ()))}."
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"override '([^']+)'", str(error))):
        key = found[1]
        if key.startswith("hydra."):
            return f"{key}: the chosen parts of Hydra have no such key; +{key}=VALUE adds one."
        owners = [f"{group}={name}" for group, name, keys in conf_keys() if key in keys and group]
        if owners:
            return f"{key}: the chosen {key.split('.')[0]} has no such key; it belongs to {', '.join(owners)}."
        known = {k for _, _, keys in conf_keys() for k in keys} | {group for group, _, _ in conf_keys() if group}
        return f"{key}: there is no such key{nearest(key, sorted(known))}."
    return " ".join(str(chain[-1]).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def conf_keys() -> Iterator[tuple[str, str, set[str]]]:
    """(group, choice, keys) of every file of conf, with the keys as a user types them; train.yaml has the group ''."""
    folder = conf_folder()
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix().strip(".")
        if group != "experiment" and not group.startswith("hydra/"):
            yield group, path.stem, set(_flatten(OmegaConf.load(path), f"{group}." if group else ""))


def _flatten(node: object, prefix: str) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in map(str, node):
            if key not in ("defaults", "hydra") and not key.startswith("_"):
                yield f"{prefix}{key}"
                if not OmegaConf.is_interpolation(node, key):
                    yield from _flatten(node[key], f"{prefix}{key}.")
