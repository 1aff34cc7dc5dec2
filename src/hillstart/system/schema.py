"""Validation of options, whether they are typed, read from a file or given from Python.

An option is a keyword argument of a function or class. Its annotation is its schema: a type, bounds if it has any, and
`Says`, the description of a valid value.
"""

import inspect
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from annotated_types import Ge, Gt, Le, Lt, Predicate

from hillstart.arguments import nearest
from hillstart.system.errors import InputError
from hillstart.system.untrusted import briefly

P = ParamSpec("P")
T = TypeVar("T")

LARGEST = 2**63 - 1
"""Largest integer that an option may have: the largest that a tensor holds."""


@dataclass(frozen=True)
class Says:
    """The description of a valid option, in words that continue "it must be"."""

    what: str | Callable[[], str]

    def __str__(self) -> str:
        return self.what if isinstance(self.what, str) else self.what()


def whole(least: int, most: int = LARGEST, of: str = "a whole number") -> tuple[Any, ...]:
    """Metadata of `Annotated[int, ...]` for an integer within bounds."""
    bounds = f", {least} or more" if most == LARGEST else f" from {least} to {most}"
    return Ge(least), Le(most), Says(of + bounds)


def one_of(known: Collection[str]) -> tuple[Any, ...]:
    """Metadata of `Annotated[str, ...]` for a name that is in `known` when the option is checked."""
    return Predicate(lambda name: name in known), Says(lambda: f"one of {', '.join(known)}")


Flag = Annotated[bool, Says("true or false")]
Seed = Annotated[int, *whole(0)]
Share = Annotated[float, Gt(0), Lt(1), Says("a number between 0 and 1, such as 0.2")]
Location = Annotated[str | Path | None, Says("the path of a folder, or null")]
Names = Annotated[Sequence[str | int] | None, Says("a list of names, such as [lion,duck], or null")]


def check(group: str, takes: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise InputError unless the options match the annotations of the function or class that takes them.

    `group`: the key above the options, such as `data`; empty for top-level options.
    """
    prefix, parameters = f"{group}." if group else "", inspect.signature(takes).parameters
    for key in options:
        if key not in parameters:
            raise InputError(f"{prefix}{key}: there is no such key{nearest(str(key), parameters)}.")
    if not (wrong := _wrong(takes, options)):
        return
    key = wrong[0]
    values: Any = options.get(key)
    several = isinstance(values, list) and 1 < len(values) == len({*map(repr, values)}) <= 100
    if several and not any(key in _wrong(takes, {**options, key: value}) for value in values):
        sweep = f"{prefix}{key}={','.join(map(_typed, values))}"
        raise InputError(
            f"{prefix}{key} is {briefly(_shown(values))}, but a run has one such value; train with each by -m "
            f"{shlex.quote(sweep)}."
        )
    is_ = f"is {briefly(_shown(values))}" if key in options else "is missing"
    raise InputError(f"{prefix}{key} {is_}; it must be {_description(parameters[key].annotation)}.")


def _wrong(takes: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    """Keys of the options that do not match the annotations, or that are missing."""
    import pydantic  # imported here because predictions start without it

    try:
        _model(takes).__pydantic_validator__.validate_python(dict(options))
    except pydantic.ValidationError as error:
        return [str(each["loc"][0]) for each in error.errors(include_url=False, include_context=False)]
    return []


def checked(group: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function whose keyword arguments are the options under `group`: they are checked before it runs."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            check(group, function, kwargs)
            return function(*args, **kwargs)

        return call

    return decorate


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value)


@cache
def _model(takes: Callable[..., Any]) -> Any:
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(takes).parameters.items()
    }
    config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    return create_model("Options", __config__=config, **fields)


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _description(annotation: Any) -> str:
    for found in getattr(annotation, "__metadata__", ()):
        if isinstance(found, Says):
            return str(found)
    return f"a value of type {getattr(annotation, '__name__', annotation)}"
