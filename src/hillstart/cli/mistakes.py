"""Explains a mistake in the options in one sentence: the key, what is wrong and the nearest right key."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from hillstart.arguments import nearest
from hillstart.cli.words import no_such_key, quoted
from hillstart.config.conf import choices, conf_keys
from hillstart.system.errors import InputError
from hillstart.system.files import DISK_ADVICE, reason, relative

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
        if error.errno not in DISK_ADVICE:
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
    reasons = {explain(cause) for _, cause in failed}
    if len(failed) > 1 and len(reasons) == 1:
        return f"{str(error).partition(':')[0]}: {reasons.pop()}"
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, InputError):
            return str(cause)
    if isinstance(error, MissingConfigException) and (found := re.search(r"find '([^']+)/([^'/]+)'", str(error))):
        group, name = found.groups()
        return f"{group}={name}: there is no such choice{nearest(name, choices(group) or list(error.options or ()))}."
    if isinstance(error, ConfigCompositionException):
        return _of_composition(str(error))
    for cause in chain:
        if isinstance(cause, InterpolationResolutionError) and cause.full_key:
            why = str(cause).partition("\n")[0].rpartition(": ")[2].strip('"')
            return f"{cause.full_key}: its reference cannot be resolved ({why}); give the value itself."
    return " ".join(str(chain[-1]).split())


def _of_composition(message: str) -> str:
    """Describe an option that Hydra cannot add, change or delete."""
    if found := re.search(r"already at '([^']+)'", message):
        return f"+{found[1]}: there is such a key already; use {found[1]}=VALUE, without the +."
    if found := re.search(r"Multiple values for (\S+)\. .* 'override \S+: ([^']+)'", message):
        return f"+{found[1]}: use {found[1]}={found[2]}, without the +."
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'\n", message):
        key, value = found.groups()
        several, text = f"{key}=[{value}]", f"{key}={quoted(value)}"
        return f"{key}={value}: several values need -m; a list is {shlex.quote(several)}, one text {shlex.quote(text)}."
    if found := re.search(r"delete from config\. '([^']+)'", message):
        return no_such_key(found[1])
    if not (found := re.search(r"override '([^']+)'", message)):
        return " ".join(message.split())
    key = found[1]
    if key.startswith("hydra."):
        return f"{key}: the chosen parts of Hydra have no such key; +{key}=VALUE adds one."
    owners = [f"{group}={name}" for group, name, keys in conf_keys() if key in keys and group]
    if owners:
        return f"{key}: the chosen {key.split('.')[0]} has no such key; it belongs to {', '.join(owners)}."
    return no_such_key(key)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
