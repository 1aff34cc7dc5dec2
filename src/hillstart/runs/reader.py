"""Reads a run, or a multirun as a whole, back from its folder: results, summary, options and history.

Nothing here needs the options as objects, Lightning or Hydra.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]
from jaxtyping import Float

from hillstart.engine.starts import HYPERPARAMETERS
from hillstart.runs.tables import StartRow, read_history, read_starts
from hillstart.system.errors import InputError
from hillstart.system.files import read_text
from hillstart.system.untrusted import briefly, yaml_text

OPTIONS, OVERRIDES = Path(".hydra", "config.yaml"), Path(".hydra", "overrides.yaml")
"""Files in a run's folder: all of its options, and those that were typed."""

_RENAMED = {
    "hillstart.descent.Descent": "hillstart.training.optimizer.SGDConfig",
    "hillstart.stopping.Stopping": "hillstart.training.stopping.EarlyStopping",
}
"""Classes that runs of 0.1.0 name as `_target_`, and their names today."""


def _is_counted(value: Any, summary: Mapping[str, Any]) -> bool:
    """True for what `evaluation.counted` returns for the classes of the summary."""
    names = summary.get("classes")
    if not (isinstance(value, dict) and isinstance(names, list)):
        return False
    matrix, by_class, most = (value.get(key) for key in ("confusion", "by_class", "majority"))
    return (
        isinstance(matrix, list)
        and len(matrix) == len(names)
        and all(isinstance(row, list) and len(row) == len(names) for row in matrix)
        and all(type(n) is int and n >= 0 for row in matrix for n in row)
        and isinstance(by_class, dict)
        and [*by_class] == names
        and all(isinstance(of, dict) and {"pictures", "accuracy"} <= of.keys() for of in by_class.values())
        and isinstance(most, dict)
        and most.get("class") in names
        and type(most.get("accuracy")) is float
    )


def _is_spread(value: Any, _: Mapping[str, Any]) -> bool:
    """True for what `statistics.quantiles` returns."""
    return (
        isinstance(value, dict) and type(value.get("n")) is int and all(type(v) in (int, float) for v in value.values())
    )


_CHECKED: Mapping[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "vote_test": _is_counted,
    "test_cost_of_starts": _is_spread,
    "test_accuracy_of_starts": _is_spread,
}
"""Keys of `summary.json` that earlier versions did not have, and whether their value is as a run writes it."""

Plain = Mapping[str, Any]
"""Options as plain data: dicts, lists, strings, numbers, booleans and None."""


def stored_options(folder: Path) -> dict[str, Any]:
    """Read the options of a run as plain data, without resolving or checking them.

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
    """Read the options that were typed for a run, KEY=VALUE each.

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
    """Raise InputError if an option of a stored run is a reference, for these are not resolved."""
    for key, value in leaves(options):
        if isinstance(value, str) and "${" in value:
            raise InputError(
                f"{folder / OPTIONS}: {key} is the reference {briefly(value)}, which is not followed; write its value."
            )


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in plain options with its dotted key."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def flattened(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in plain options with its dotted key; unlike in `leaves`, a list is one value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


@dataclass(frozen=True)
class RunRecord:
    """The folder of a run, or the root of a multirun; each file is read once, when it is first needed.

    Every property raises InputError, in one sentence that names the file, if a file is damaged.
    """

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; empty if there is none: the run has not ended, or all of its starts diverged."""
        path = self.folder / "summary.json"
        if not path.is_file():
            return {}
        try:
            found = json.loads(read_text(path, "utf-8-sig"))
        except InputError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: is not a JSON object; give the folder of a run.")
        for key, is_whole in _CHECKED.items():
            if key in found and not is_whole(found[key], found):
                raise InputError(f"{path}: {key} is damaged; give the folder of a run.")
        return found

    @cached_property
    def starts(self) -> list[StartRow]:
        """`starts.csv`, in the order of the file.

        Hyperparameters without a column are nan or the default of `Hyperparameters`: the table does not hold them.
        """
        return read_starts(self.folder / "starts.csv")

    @property
    def finished(self) -> bool:
        """True if the starts are ranked."""
        return all(row.rank for row in self.starts)

    @cached_property
    def options(self) -> dict[str, Any]:
        """The result of `stored_options`; empty if the file is missing, as at the root of a multirun."""
        return stored_options(self.folder) if (self.folder / OPTIONS).is_file() else {}

    @cached_property
    def overrides(self) -> dict[str, str]:
        """Key and value of each option that was typed, as `stored_overrides`."""
        pairs = (option.lstrip("+").partition("=") for option in stored_overrides(self.folder))
        return {key: value for key, _, value in pairs}

    @cached_property
    def jobs(self) -> list["RunRecord"]:
        """The jobs of a multirun that have results, in their order; for a run, the run itself."""
        if (self.folder / OPTIONS).parent.is_dir():
            return [self]
        files = (path for name in ("summary.json", "starts.csv") for path in self.folder.glob(f"**/{name}"))
        folders = {path.parent for path in files} - {self.folder}
        return [RunRecord(folder) for folder in sorted(folders, key=_job_order)] or [self]

    @cached_property
    def packs(self) -> list[int]:
        """The number of starts in each pack; empty if not known, as in a multirun."""
        try:
            return [int(size) for size in json.loads(read_text(self.folder / "checkpoints" / "packs.json"))["packs"]]
        except (OSError, KeyError, TypeError, ValueError):
            return []

    def history(self, rows: Sequence[StartRow]) -> Float[np.ndarray, "S E 3"]:
        """Training cost, validation cost and validation accuracy of these starts; nan after a start has ended."""
        found: list[tuple[int, int, list[float]]] = []
        candidates: dict[tuple[str, str], list[int]] = {}
        for s, row in enumerate(rows):
            candidates.setdefault((row.cells.get("job", "."), row.cells["seed"]), []).append(s)
        for job in sorted({job for job, _ in candidates}):
            path = self.folder / job / "history.csv"
            for number, (cells, epoch, costs) in enumerate(read_history(path), 1):
                varying = [name for name in HYPERPARAMETERS if name in cells]
                of_seed = candidates.get((job, cells.get("seed", "")), [])
                same = [s for s in of_seed if all(rows[s].cells.get(name) == cells[name] for name in varying)]
                if len(same) != 1 or not 1 <= epoch <= rows[same[0]].result.epochs:
                    raise InputError(f"{path}: row {number} is of no start in starts.csv.")
                found.append((same[0], epoch, costs))
        history = np.full((len(rows), max((epoch for _, epoch, _ in found), default=0), 3), np.nan)
        for s, epoch, costs in found:
            history[s, epoch - 1] = costs
        return history


def _job_order(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdecimal() else -1), str(folder)
