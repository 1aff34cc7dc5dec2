"""The options of a run: one schema for the command line and for the options stored in a run's folder.

The command line may name the user's own code, as `_target_`. The folder of a run is untrusted: its options are plain
data, and code that they name is imported only if conf names it too.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import hydra
import torch
from annotated_types import MinLen, Predicate

from hillstart.config.code import called, check_trusted, located, targets
from hillstart.config.conf import targets_of_conf
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Start
from hillstart.inference import loading
from hillstart.inference.classifier import Classifier
from hillstart.network import ACTIVATIONS, COSTS, INITIALIZERS
from hillstart.runs.reader import OPTIONS, Plain, check_no_reference, leaves, stored_options
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Says, check, one_of, whole
from hillstart.system.untrusted import briefly
from hillstart.training.optimizer import SGDConfig
from hillstart.training.stopping import EarlyStopping

MOST_STARTS, MOST_NODES = 10**6, 10**6
"""Limits of one run, including all points of a grid, and of one layer."""
LAST_SEED = 2**62
STARTS = 16
"""The number of starts, where neither `starts` nor a list of seeds gives it."""
MOST_KEPT = 10**5
"""A model file describes no more starts than this (`untrusted.MAX_OBJECT_BYTES`)."""

_DIRECTIVES = ("_target_", "_partial_", "_convert_", "_recursive_")
"""Keys that Hydra interprets; they are not options."""


# ---------------------------------------------------------------- the schema

_Nodes = Annotated[int, *whole(1, MOST_NODES)]
_Seed = Annotated[int, *whole(0, LAST_SEED)]
_Many = Annotated[int | None, *whole(1, of="null, or a whole number")]
Seeds = Annotated[
    _Seed | Annotated[Sequence[_Seed], MinLen(1), Predicate(lambda seeds: len({*seeds}) == len(seeds))],
    Says(f"a whole number from 0 to {LAST_SEED}, or a list of such numbers, each once"),
]


@dataclass(frozen=True)
class NetworkOptions:
    """The options under `network`."""

    hidden: Annotated[
        list[_Nodes], Says(f"a list of whole numbers from 1 to {MOST_NODES}, such as [30] or [256,128], or []")
    ]
    activation: Annotated[str, *one_of(ACTIVATIONS)]
    cost: Annotated[str, *one_of(COSTS)]
    start: Annotated[str, *one_of(INITIALIZERS)]


@dataclass(frozen=True)
class TrainerOptions:
    """The options under `trainer`: those of Lightning's that mean something for many starts at once, and no others."""

    max_epochs: Annotated[int, *whole(1)]
    max_steps: Annotated[
        int, Predicate(lambda steps: steps == -1 or steps >= 1), Says("a whole number, 1 or more, or -1 for no limit")
    ]
    accelerator: Annotated[str, *one_of(("auto", "cpu", "cuda", "gpu"))]
    devices: Annotated[int, *whole(1)]
    num_nodes: Annotated[int, *whole(1)]
    matmul_precision: Annotated[str, *one_of(("highest", "high", "medium"))]
    max_time: Annotated[
        str | None,
        Predicate(lambda text: text is None or re.fullmatch(r"\d{1,5}:\d\d?:\d\d?:\d\d?", text) is not None),
        Says("null, or days, hours, minutes and seconds, such as 00:01:30:00"),
    ] = None
    enable_progress_bar: Flag = True

    @property
    def seconds(self) -> float | None:
        """`max_time` in seconds."""
        if self.max_time is None:
            return None
        days, hours, minutes, seconds = map(int, self.max_time.split(":"))
        return timedelta(days, seconds, hours=hours, minutes=minutes).total_seconds()


@dataclass(frozen=True)
class RunOptions:
    """All options of a run, validated.

    Attributes:
        seed: of the first start, or of each.
        starts: None: as many as `seeds` says.
        keep: `all` is read as the number of starts.
        data: reads the pictures.
        logger, callbacks: checked only when they are made.
    """

    seed: Seeds
    starts: Annotated[int | None, *whole(1, MOST_STARTS, of="null, or a whole number")]
    keep: Annotated[int | None, *whole(1, MOST_KEPT, of="null, all, or a whole number")]
    pack: _Many
    resume: Annotated[str | None, Says("a run folder, a checkpoint in one, or null")]
    data: Callable[[], PictureSet]
    network: NetworkOptions
    descent: SGDConfig
    stop: EarlyStopping
    trainer: TrainerOptions
    logger: Plain
    # earlier versions stored none of these
    report: Flag = True
    overwrite: Flag = False
    curves: Annotated[int, *whole(0)] = 0
    test: Annotated[str, *one_of(("chosen", "all"))] = "chosen"
    start_from: Annotated[str | None, Says("a run folder, a model file, a checkpoint, or null")] = None
    callbacks: Plain = field(default_factory=dict)

    @property
    def all_starts(self) -> list[Start]:
        """A start for each seed at each point of the grid of hyperparameters."""
        return [Start(seed, point) for point in self.descent.grid() for seed in self.seeds]

    @cached_property
    def model(self) -> Classifier | None:
        """The networks that `start_from` names.

        Raises:
            InputError: there are none, or the file is damaged.
        """
        if self.start_from is None:
            return None
        try:
            return loading.read(loading.find(Path(self.start_from)))
        except InputError as error:
            raise InputError(f"start_from: {error}") from error

    @cached_property
    def seeds(self) -> Sequence[int]:
        """The seed of each start; with `start_from` those of its networks, the best by validation first.

        Raises:
            InputError: `starts` contradicts a list of seeds, or `start_from` has no such networks; or as `model`.
        """
        given = seeds_of_starts(self.seed, self.starts)
        if self.model is None:
            return given
        there, count = list(dict.fromkeys(self.model.seeds)), self.starts
        first, listed = (self.seed, None) if isinstance(self.seed, int) else (0, given)
        if first:
            raise InputError(
                f"seed is {first}, but the starts begin at the networks of {self.start_from}; leave seed out, or list "
                f"seeds of these, such as seed=[{there[0]}]."
            )
        if unknown := [seed for seed in listed or () if seed not in there]:
            raise InputError(
                f"seed lists {unknown[0]}, but {self.start_from} holds the seeds {briefly(sorted(there))}; list some "
                "of these."
            )
        if count and count > len(there):
            raise InputError(f"starts is {count}, but {self.start_from} holds {len(there)}; give no more than that.")
        return listed or there[:count]


def seeds_of_starts(seed: int | Sequence[int], starts: int | None) -> Sequence[int]:
    """The seed of each start, ascending: `starts` of them from `seed` on, or all that `seed` lists.

    Raises:
        InputError: `starts` contradicts a list of seeds.
    """
    if isinstance(seed, int):
        return range(seed, seed + (starts or STARTS))
    if starts not in (None, len(seed)):
        raise InputError(
            f"starts is {starts}, but seed lists {len(seed)}, one start each; leave starts out, or give null."
        )
    return sorted(seed)


def read_options(options: Plain, trusted: Collection[str] = ()) -> RunOptions:
    """Check the options of a run and turn them into objects; no picture is read.

    Args:
        trusted: targets that `_target_` may name beside those of conf: those on the command line itself.

    Raises:
        InputError: an option is unknown, missing, not of its type or out of its bounds, or names code that is not
            trusted.
    """
    for group in ("data", "network", "descent", "stop", "trainer"):
        if not isinstance(options.get(group), Mapping):
            raise InputError(
                f"{group} is {options.get(group)!r}; it must be a group of options, a file of conf/{group}."
            )
    _check_callbacks(options.get("callbacks", {}), trusted)
    found = {
        **options,
        "data": _loader(options["data"], trusted),
        "network": _made("network", NetworkOptions, options["network"]),
        "descent": _descent(options["descent"], trusted),
        "stop": _recipe("stop", EarlyStopping, options["stop"], trusted),
        "trainer": _made("trainer", TrainerOptions, options["trainer"]),
    }
    keep_all = found.get("keep") == "all"
    read: RunOptions = _made("", RunOptions, {**found, "keep": None} if keep_all else found)
    points, starts = len(read.descent.grid()), len(read.seeds)
    if points * starts > MOST_STARTS:
        raise InputError(
            f"starts is {starts}, for each of {points} points of a grid; all together may be {MOST_STARTS}."
        )
    if read.keep is not None and read.keep > points * starts:
        raise InputError(f"keep is {read.keep}; it must be at most {points * starts}, the number of starts.")
    if keep_all and points * starts > MOST_KEPT:
        raise InputError(f"keep is all, but there are {points * starts} starts; give at most {MOST_KEPT}.")
    return replace(read, keep=points * starts) if keep_all else read


def _made(group: str, kind: type[Any], options: Plain) -> Any:
    check(group, kind, options)
    return kind(**options)


def _recipe(group: str, kind: type[Any], options: Plain, trusted: Collection[str], **known: Any) -> Any:
    """Make the object of a group with a `_target_`: a `kind`, or a subclass of it by the user.

    Args:
        known: options that are objects already.
    """
    target = str(options.get("_target_"))
    plain = {key: value for key, value in options.items() if key != "_target_"} | known
    if target in targets_of_conf(group):
        return _made(group, kind, plain)
    check_trusted(group, target, trusted)
    made = located(group, target)
    if not (isinstance(made, type) and issubclass(made, kind)):
        wanted = f"{kind.__module__}.{kind.__qualname__}"
        raise InputError(f"{group}._target_ is {target!r}; it must be {wanted} or a subclass of it.")
    return called(group, made, plain)


def _descent(options: Plain, trusted: Collection[str]) -> SGDConfig:
    optimiser = options.get("optimiser")
    if optimiser is None:
        return _recipe("descent", SGDConfig, options, trusted)
    if not isinstance(optimiser, Mapping) or "_target_" not in optimiser:
        raise InputError("descent.optimiser has no _target_; give one such as torch.optim.Adam.")
    target = str(optimiser["_target_"])
    if not re.fullmatch(r"torch\.optim\.[A-Z]\w*", target):
        check_trusted("descent.optimiser", target, trusted)
    steps = located("descent.optimiser", target)
    if not (isinstance(steps, type) and issubclass(steps, torch.optim.Optimizer)):
        raise InputError(f"descent.optimiser._target_ is {target!r}; it must be a class of torch.optim, such as Adam.")
    own = {key: value for key, value in optimiser.items() if key not in _DIRECTIVES}
    if nested := list(targets(own)):
        check_trusted("descent.optimiser", nested[0], trusted)
        own = dict(called("descent.optimiser", hydra.utils.instantiate, {"config": own, "_convert_": "all"}))
    return _recipe("descent", SGDConfig, options, trusted, optimiser=partial(steps, **own))


def _loader(options: Plain, trusted: Collection[str]) -> Callable[[], PictureSet]:
    target = str(options.get("_target_"))
    if target in targets_of_conf("data"):
        plain = {key: value for key, value in options.items() if key != "_target_"}
        load: Callable[..., PictureSet] = located("data", target)
        check("data", load, plain)
        return partial(load, **plain)
    for named in targets(options):
        check_trusted("data", named, trusted)
    located("data", target)
    return partial(called, "data", hydra.utils.instantiate, {"config": dict(options)})


def _check_callbacks(options: Any, trusted: Collection[str]) -> None:
    if not isinstance(options, Mapping):
        raise InputError(f"callbacks is {options!r}; it must be a group of options, a file of conf/callbacks.")
    for name, of_one in options.items():
        if not isinstance(of_one, Mapping) or "_target_" not in of_one:
            raise InputError(f"callbacks.{name} has no _target_; give +callbacks.{name}._target_=MODULE.CLASS.")
        for target in targets(of_one):
            check_trusted(f"callbacks.{name}", target, trusted, sign="+")


def read_stored_options(folder: Path, named: Sequence[str] = ()) -> RunOptions:
    """Read the options in the folder of a run, which is untrusted.

    Args:
        named: the user's own code that the run used, as KEY._target_=MODULE.CLASS each; no other is imported.

    Raises:
        InputError: as `stored_options` and `read_options`, an option is a reference, or the run did not use `named`.
    """
    stored = stored_options(folder)
    targets_of_run = {key: str(value) for key, value in leaves(stored) if key.rpartition(".")[2] == "_target_"}
    trusted = set[str]()
    for option in named:
        key, _, target = option.lstrip("+").partition("=")
        if key.rpartition(".")[2] != "_target_":
            raise InputError(
                f"{option}: a finished run keeps its options; give only code of your own that it used, as "
                "KEY._target_=MODULE.CLASS."
            )
        if targets_of_run.get(key) != target:
            used = f"used {briefly(targets_of_run[key])}" if key in targets_of_run else "has no such key"
            raise InputError(f"{option}: the run in {folder} {used}; name the code that it used.")
        trusted.add(target)
    options = stored | {"logger": {}, "callbacks": {}}  # these are not made again
    check_no_reference(folder, options)
    try:
        return read_options(options, trusted)
    except InputError as error:
        raise InputError(f"{folder / OPTIONS}: {error}") from error


def read_stored_trainer(folder: Path) -> TrainerOptions:
    """Read only the options under `trainer` in the folder of a run.

    Raises:
        InputError: as `read_stored_options`.
    """
    options = stored_options(folder).get("trainer")
    if not isinstance(options, dict):
        raise InputError(f"{folder / OPTIONS}: holds no options of the trainer; give the folder of a run.")
    read: TrainerOptions = _made("trainer", TrainerOptions, options)
    return read
