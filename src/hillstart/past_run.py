"""A run, or the root of a sweep, read back from its folder: its starts, its options, the pictures they saw."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hillstart.errors import InputError
from hillstart.files import read_text
from hillstart.run_options import OPTIONS, stored_options
from hillstart.starts import DIVERGED, STATUS, spread
from hillstart.tables import STARTS

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
        of = spread(self.values.tolist())
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
