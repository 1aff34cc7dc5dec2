"""The options typed for a training: those that others imply, and those of a run that is resumed."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from hillstart.cli.words import quoted, unquoted
from hillstart.config.conf import groups
from hillstart.runs.reader import OPTIONS, Plain, check_no_reference, stored_options, stored_overrides
from hillstart.system.errors import InputError
from hillstart.system.files import own_folder
from hillstart.system.untrusted import briefly, yaml_text
from hillstart.training.distributed import on_first_rank

_RESUME = re.compile(r"\+{0,2}resume=")


def with_resumed_folder(arguments: list[str]) -> list[str]:
    """Complete the options of the command line for `resume=`.

    A multirun is resumed with its own options. A run gets its folder and the groups that it chose, which are needed for
    their keys to be accepted; its other options are plain data, which `resumed_options` adds to the composed ones.

    Raises:
        InputError: `resume` names no multirun, no run folder and no checkpoint in one; or `-m` is given for a run.
    """
    named = [unquoted(a.partition("=")[2]) for a in arguments if _RESUME.match(a)]
    if not named or named[-1] in ("", "null"):
        return arguments
    others = [a for a in arguments if not _RESUME.match(a)]
    root = Path(named[-1]).absolute()
    if (root / "multirun.yaml").is_file():
        resumed_sweeps.add(root)
        return _sweep_again(root, others)
    if {"-m", "--multirun"} & set(arguments):
        raise InputError(f"resume={named[-1]}: is no multirun; give the folder of one, or leave out -m.")
    run = resumed_checkpoint(named[-1]).parent.parent
    if not (run / OPTIONS).is_file():
        raise InputError(f"resume={named[-1]}: {run / OPTIONS} is missing, so this is not the folder of a run.")
    return [*_chosen_groups(run), *others, f"resume={quoted(Path(named[-1]))}", f"hydra.run.dir={quoted(run)}"]


resumed_sweeps: set[Path] = set()
"""The root of the multirun that this command resumes."""


def _sweep_again(root: Path, arguments: list[str]) -> list[str]:
    """The command line of the multirun in `root`, so that it trains what is missing.

    Args:
        arguments: what is typed now: options of Hydra, such as another launcher.

    Raises:
        InputError: other options are typed, or those of the multirun are unreadable, name code or are references.
    """
    now = [a for a in arguments if a not in ("-m", "--multirun")]
    if changed := [a for a in now if not re.match(r"[+~]*hydra[./]", a)]:
        raise InputError(
            f"{changed[0]}: a resumed multirun keeps its options; give those of Hydra alone, or begin anew."
        )
    try:
        typed = yaml.safe_load(yaml_text(root / "multirun.yaml"))["hydra"]["overrides"]
        before = [str(option) for option in typed["task"]]
        before += [str(option) for option in typed["hydra"] if str(option).startswith("hydra.sweep.subdir=")]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{root / 'multirun.yaml'}: cannot be read ({briefly(error)}).") from error
    for option in before:
        if "_target_" in option or "${" in option:  # the folder may come from a stranger
            raise InputError(
                f"{root / 'multirun.yaml'}: {briefly(option)} names code or a reference; it is not resumed."
            )
    return ["-m", *before, *now, f"hydra.sweep.dir={quoted(root)}"]


def _chosen_groups(run: Path) -> list[str]:
    """GROUP=NAME for each group of conf that the run chose."""
    found: dict[str, str] = {}
    for option in stored_overrides(run):
        group, _, name = option.partition("=")
        if group in groups() and re.fullmatch(r"\w[\w-]*", name):
            found[group] = option
    return list(found.values())


def resumed_options(run: Path, composed: Plain, typed: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of a run that is resumed, and the command line that gives them: what was typed then and now.

    Args:
        composed: the options from conf and from the present command line.
        typed: the present command line, as `with_resumed_folder` returned it.

    Raises:
        InputError: an option of the run is a reference, or what is typed now cannot change a run.
    """
    before, stored = stored_overrides(run), stored_options(run)
    stored.pop("logger", None)  # the user who resumes chooses the logger; the folder may come from a stranger
    check_no_reference(run, stored)
    now = {_key(option): option for option in typed if option not in before}
    if "experiment" in now:
        raise InputError(f"{now['experiment']}: a resumed run keeps its own recipe; give single options instead.")
    options = _laid_over(composed, {**stored, "resume": composed["resume"], "overwrite": False})
    for key in now:
        _put(options, key.split("."), composed)
    known = lambda key: key in groups() or _is_known(key, options)  # noqa: E731
    kept = [option for option in before if _key(option) not in (*now, "resume") and known(_key(option))]
    return options, [*kept, *now.values()]


def _laid_over(below: Any, above: Any) -> Any:
    """Merge plain options key by key; `above` wins."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}


def _put(options: dict[str, Any], path: Sequence[str], source: Any) -> None:
    """Copy one dotted key from `source`, or delete it if `source` does not have it."""
    key, rest = path[0], path[1:]
    if not isinstance(source, Mapping) or key not in source:
        options.pop(key, None)
    elif rest and isinstance(options.get(key), dict):
        _put(options[key], rest, source[key])
    else:
        options[key] = source[key]


def _is_known(key: str, options: Any) -> bool:
    head, _, rest = key.partition(".")
    return isinstance(options, Mapping) and head in options and (not rest or _is_known(rest, options[head]))


def _key(option: str) -> str:
    """The key of a typed option, without the signs for adding and deleting."""
    return option.lstrip("+~").partition("=")[0].partition("@")[0]


@cache  # Hydra may resolve it many times in a run, also in copies of its options
def _own_folder(wanted: str) -> str:
    return str(own_folder(Path(wanted)))


def give_own_folders() -> None:
    """Register the resolver `own_folder:NAME` for conf: runs that begin in the same second get different folders."""
    _own_folder.cache_clear()
    OmegaConf.register_new_resolver("own_folder", _own_folder, replace=True)


def with_starts_of_seeds(arguments: list[str]) -> list[str]:
    """Options with the number of starts that `seed` implies, unless `starts` is given.

    A list of seeds has a start for each, whatever a recipe says; a job of a multirun over seeds has one start.
    """
    seeds = next((a.partition("=")[2] for a in arguments if a.startswith("seed=")), "")
    if any(a.startswith("starts=") for a in arguments):
        return arguments
    if seeds.startswith("["):
        return [*arguments, "starts=null"]
    swept = re.match(r".*,|range\(|choice\(|interval\(", seeds) and {"-m", "--multirun"} & set(arguments)
    return [*arguments, "starts=1"] if swept else arguments


def with_quiet_rank(arguments: list[str]) -> list[str]:
    """Options of a rank that is not the first: it writes neither a folder nor a log."""
    if on_first_rank():
        return arguments
    folder = [] if any(a.startswith("hydra.run.dir=") for a in arguments) else ["hydra.run.dir=."]
    others = [a for a in arguments if not re.match(r"[~+]*hydra[./](job|hydra)_logging\b", a)]
    silence = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"]
    return [*others, *folder, *silence]


def resumed_checkpoint(resume: str) -> Path:
    """The checkpoint that `resume` names: a run folder or a checkpoint in one.

    Raises:
        InputError: there is none.
    """
    path = Path(resume)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        if path.is_dir() and (path / "checkpoints" / "packs.json").is_file():  # no checkpoint yet
            return checkpoint.resolve()
        raise InputError(
            f"resume={resume}: there is no {checkpoint}; give a run folder (outputs/DATE/TIME) with a checkpoint in it."
        )
    return checkpoint.resolve()


def resuming(folder: Path) -> str:
    """The option that resumes the run in `folder`."""
    plain = re.fullmatch(r"[-\w/.+%@]+", str(folder))  # other characters may have a meaning of their own for Hydra
    return f"resume={folder if plain else quoted(folder)}"
