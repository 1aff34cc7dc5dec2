"""A run, or the root of a sweep, read back from its folder: its starts, its options, the pictures they saw."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from jaxtyping import Float

from hillstart.engine.starts import DIVERGED, STATUS
from hillstart.runs.tables import STARTS
from hillstart.system.errors import InputError
from hillstart.system.files import read_text
from hillstart.system.statistics import quantiles
from hillstart.system.untrusted import briefly, yaml_text

OPTIONS, OVERRIDES = Path(".hydra", "config.yaml"), Path(".hydra", "overrides.yaml")
"""Where a run's folder holds its options, and those that were typed."""

_RENAMED = {
    "hillstart.descent.Descent": "hillstart.training.optimizer.SGDConfig",
    "hillstart.stopping.Stopping": "hillstart.training.stopping.EarlyStopping",
}
"""What runs of 0.1.0 name as `_target_`, and its name today."""

Plain = Mapping[str, Any]
"""Options as plain data: dicts, lists, texts, numbers, truth values and None."""


# ---------------------------------------------------------------- in the folder of a run


def stored_options(folder: Path) -> dict[str, Any]:
    """The options in the folder of a run, as plain data that nothing has been done with.

    Raises:
        InputError: they are missing or cannot be read.
    """
    path = folder / OPTIONS
    found = _read(path)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{path}: holds no options; give the folder of a run.")
    for key, value in leaves(found):
        if not isinstance(value, str | int | float | None):
            raise InputError(f"{path}: {key} is of type {type(value).__name__}; give the folder of a run.")
    for group in found.values():
        if isinstance(group, dict) and (renamed := _RENAMED.get(str(group.get("_target_")))):
            group["_target_"] = renamed
    return found


def stored_overrides(folder: Path) -> list[str]:
    """The options that were typed for a run, KEY=VALUE each.

    Raises:
        InputError: they are missing or cannot be read.
    """
    found = _read(folder / OVERRIDES)
    if not isinstance(found, list):
        raise InputError(f"{folder / OVERRIDES}: holds no list of options; give the folder of a run.")
    return [str(option) for option in found]


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(yaml_text(path))
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error


def check_no_reference(folder: Path, options: Plain) -> None:
    """Raise InputError where an option of a run's folder refers to something: it is followed nowhere."""
    for key, value in leaves(options):
        if isinstance(value, str) and "${" in value:
            raise InputError(
                f"{folder / OPTIONS}: {key} is the reference {briefly(value)}, which is not followed; write its value."
            )


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in plain options with its dotted key."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


SPREAD = ("min", "lower_quartile", "median", "upper_quartile", "max")
TESTS = ("test_accuracy", "vote_test_accuracy")

NOISE = ("hydra", "logger", "resume")  # where a run wrote, not how it descended
NOT_WHICH_PICTURES = ("data.augment", "data.normalise")  # how pictures are shown, not which are held back


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        values: the compared column, of the starts that did not diverge.
        grid: whether starts differ in more than their seeds.
        options: flattened keys and values, several of them joined where a sweep's jobs differ.
        pictures: what tells whether another run used the same: options of data, classes, counts.
        validated_on: the SHA-256 of the validation pictures by their `shape`; several where a sweep's jobs differ, none
            where not known.
        costs: the kinds of cost of its starts; none where not known.
        raced: whether it was trained with `stop.race`.
        tests: test accuracies of the chosen start and of the vote, where known.
    """

    folder: Path
    values: Float[np.ndarray, " n"]
    diverged: int
    finished: bool
    grid: bool
    options: dict[str, str]
    pictures: dict[str, str]
    validated_on: dict[str, list[str]]
    costs: list[str]
    raced: bool
    tests: list[float | None]

    def row(self) -> dict[str, Any]:
        """How the values are spread, and what was left out."""
        of = quantiles(self.values.tolist())
        return {
            "folder": str(self.folder),
            "starts": len(self.values),
            "diverged": self.diverged,
            "finished": self.finished,
            "mean": float(self.values.mean()),
            **{name: of[name] for name in SPREAD},
            **dict(zip(TESTS, self.tests, strict=True)),
        }


def read(folder: Path, on: str) -> Run:
    """A run, or the root of a sweep, from its files alone.

    Raises:
        InputError: there is no such folder, a file is missing or damaged, or fewer than two starts did not diverge.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give that of a run (outputs/DATE/TIME).")
    path = folder / "starts.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing, so {folder} is not the folder of a run that has measured its starts.")
    rows = _parsed(path, lambda text: list(csv.DictReader(io.StringIO(text, newline=""))))
    if not rows:
        raise InputError(f"{path} holds no start.")
    if missing := [name for name in STARTS if name not in rows[0]]:
        raise InputError(f"{path} lacks what a table of starts has: {', '.join(missing)}.")
    values = []
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():  # csv's way to tell of a row longer or shorter than the headings
            raise InputError(f"{path}: start {number} has not as many entries as there are headings; is it cut off?")
        if row["rank"] and row["status"] not in STATUS:
            raise InputError(f"{path}: status is '{row['status']}'; it must be finished, stopped or diverged.")
        if row["status"] != STATUS[DIVERGED]:
            values.append(_number(row[on], f"{path}: {on} of start {number}"))
    if not values:
        raise InputError(f"{folder}: all starts diverged ({len(rows)}), so there is nothing to compare.")
    if len(values) < 2:
        raise InputError(f"{folder}: there is one sound start; a spread needs at least two starts.")

    jobs = [folder] if (folder / ".hydra").is_dir() else sorted(path.parent for path in folder.glob("*/.hydra"))
    summary = _mapping(folder / "summary.json")
    summaries = [*filter(None, (_mapping(job / "summary.json") for job in jobs))] or [summary]
    options, validated_on = _options(jobs), dict[str, list[str]]()
    for about in summaries:
        if isinstance(of := about.get("validated_on"), dict):
            found = validated_on.setdefault(str(of.get("shape")), [])
            found += {str(of.get("sha256"))} - {*found}
    costs = {str(about["cost"]) for about in summaries if about.get("cost")}
    return Run(
        folder,
        np.array(values),
        len(rows) - len(values),
        all(row["rank"] for row in rows),
        len({row["seed"] for row in rows}) < len(rows) or len({row["eta"] for row in rows}) > 1,
        options,
        {key: value for key, value in options.items() if key.startswith("data.") and key not in NOT_WHICH_PICTURES}
        | _joined({key: about[key] for key in ("classes", "pictures") if key in about} for about in summaries),
        {shape: sorted(found) for shape, found in validated_on.items()},
        sorted(costs or {*filter(None, options.get("network.cost", "").split(", "))}),
        options.get("stop.race", "null") != "null",
        [None if (test := summary.get(k)) is None else _number(test, f"{folder}/summary.json: {k}") for k in TESTS],
    )


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(read_text(path, "utf-8-sig"))
    except Exception as error:  # those of csv, JSON, YAML and OmegaConf have no ancestor in common
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error


def _number(value: object, what: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} is '{value}'; it must be a number.")
    return number


def _mapping(path: Path, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """What a file holds under names; nothing where there is no file."""
    found = _parsed(path, parse) if path.is_file() else {}
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read: it holds no names with values.")
    return found


def _options(jobs: list[Path]) -> dict[str, str]:
    values = _joined(stored_options(job) for job in jobs if (job / OPTIONS).is_file())
    return {key: value for key, value in values.items() if key.split(".")[0] not in NOISE}


def _joined(nodes: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Flattened keys and values, several of them joined where the nodes differ."""
    values: dict[str, set[str]] = {}
    for node in nodes:
        for key, value in _flattened(node):
            values.setdefault(key, set()).add(value)
    return {key: ", ".join(sorted(found)) for key, found in values.items()}


def _flattened(node: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, "null" if node is None else str(node)
