"""The code that options name as `_target_`: found, trusted or refused, and called."""

import pydoc
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import hydra

from hillstart.runs.reader import Plain
from hillstart.system.errors import InputError
from hillstart.system.untrusted import briefly


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` in plain options, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)


def check_trusted(group: str, target: str, trusted: Collection[str], sign: str = "") -> None:
    """Raise InputError unless the user named this code; `sign` is what adds its key on the command line."""
    if target not in trusted:
        raise InputError(
            f"{group}._target_ is {target!r}, which conf does not know; code that only the folder of a run names is "
            f"not run. Where it is yours, name it on the command line too: {sign}{group}._target_={target}."
        )


def located(group: str, target: str) -> Any:
    """A class or function by its dotted name, which is trusted.

    Raises:
        InputError: there is none.
    """
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        raise InputError(
            f"{group}._target_ is {target!r}, which cannot be imported ({briefly(error.value)})."
        ) from error
    if found is None:
        raise InputError(f"{group}._target_ is {target!r}; there is no such class or function.")
    return found


def called(group: str, make: Callable[..., Any], options: Plain) -> Any:
    """Call the user's own code; an error of it becomes an InputError with its message."""
    try:
        return make(**options)
    except InputError:
        raise
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            raise cause from error
        raise InputError(f"{group}: {briefly(cause)}") from error
    except TypeError as error:  # an argument that it does not take
        raise InputError(f"{group}: {briefly(error)}.") from error
