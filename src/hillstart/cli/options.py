"""What a user typed: the options of a resumed run, and a wrong option explained in one sentence."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hillstart.config.options import conf_folder
from hillstart.runs.reader import OPTIONS, Plain, check_no_reference, stored_options, stored_overrides
from hillstart.system.errors import InputError
from hillstart.system.files import of_the_disk, own_folder, reason, relative
from hillstart.system.schema import nearest
from hillstart.training.distributed import on_first_rank

USER_ERRORS = (HydraException, OmegaConfBaseException, InputError)
"""What a wrong option raises; anything else is a fault of the program."""

_RESUME = re.compile(r"\+{0,2}resume=")


def check_words(arguments: list[str]) -> None:
    """Refuse what Hydra would answer with a traceback.

    Raises:
        InputError: an option has no key, or a group is given no name of a file.
    """
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not key.strip("+~"):
            raise InputError(f"{argument}: has no key; give KEY=VALUE.")
        if equals and key.lstrip("+") in _groups() and not re.match(r"['\"]?\w", value.replace("null", "")):
            raise InputError(f"{argument}: is no choice; there are {', '.join(_choices(key.lstrip('+')))}.")


def with_resumed_folder(arguments: list[str]) -> list[str]:
    """Command-line options that also lead into the folder of the run that `resume=` names.

    The groups that it chose are chosen again, so that their keys can be given; its other options are plain data, which
    `resumed_options` brings in when all that was typed is composed.

    Raises:
        InputError: `resume` names no run folder and no checkpoint in one, or stands in a multirun.
    """
    named = [_unquoted(a.partition("=")[2]) for a in arguments if _RESUME.match(a)]
    if not named or named[-1] in ("", "null"):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise InputError(f"resume={named[-1]}: a multirun cannot be resumed; leave out -m, or leave out resume.")
    run = resumed_checkpoint(named[-1]).parent.parent
    if not (run / OPTIONS).is_file():
        raise InputError(f"resume={named[-1]}: {run / OPTIONS} is missing, so this is not the folder of a run.")
    others = [a for a in arguments if not _RESUME.match(a)]
    return [*_chosen_groups(run), *others, f"resume={_quoted(Path(named[-1]))}", f"hydra.run.dir={_quoted(run)}"]


def _chosen_groups(run: Path) -> list[str]:
    """GROUP=NAME for each group of conf that the run chose; nothing else that was typed for it is typed again."""
    found: dict[str, str] = {}
    for option in stored_overrides(run):
        group, _, name = option.partition("=")
        if group in _groups() and re.fullmatch(r"\w[\w-]*", name):
            found[group] = option
    return list(found.values())


def resumed_options(run: Path, composed: Plain, typed: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of a run that goes on, and what was typed for them, then and now.

    Args:
        composed: the options as conf and what is typed now have them.
        typed: what is typed now, as `with_resumed_folder` returned it.

    Raises:
        InputError: an option of the run is a reference, or what is typed now cannot change a run.
    """
    before, stored = stored_overrides(run), stored_options(run)
    stored.pop("logger", None)  # where a run's figures go is for whoever resumes it to say, not for a stranger
    check_no_reference(run, stored)
    now = {_key(option): option for option in typed if option not in before}
    if "experiment" in now:
        raise InputError(f"{now['experiment']}: a run that goes on has its own recipe; give single options instead.")
    options = _laid_over(composed, {**stored, "resume": composed["resume"], "overwrite": False})
    for key in now:
        _put(options, key.split("."), composed)
    known = lambda key: key in _groups() or _is_known(key, options)  # noqa: E731
    kept = [option for option in before if _key(option) not in (*now, "resume") and known(_key(option))]
    return options, [*kept, *now.values()]


def _laid_over(below: Any, above: Any) -> Any:
    """Plain options in the place of others, key by key."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}


def _put(options: dict[str, Any], path: Sequence[str], source: Any) -> None:
    """Set one dotted key as `source` has it, or delete it where that has none."""
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
    """The key of an option as it is typed, without the signs for adding and deleting."""
    return option.lstrip("+~").partition("=")[0].partition("@")[0]


def _groups() -> set[str]:
    return {path.name for path in conf_folder().iterdir() if path.is_dir()} - {"hydra"}


def give_own_folders() -> None:
    """Let conf ask for `own_folder:NAME`: runs that begin in the same second have folders of their own."""
    # Hydra may ask many times, and of copies of its options.
    of_this_process = cache(lambda wanted: str(own_folder(Path(wanted))))
    OmegaConf.register_new_resolver("own_folder", of_this_process, replace=True)


def with_one_start_a_seed(arguments: list[str]) -> list[str]:
    """Options of a multirun over seeds: each job trains the seed it is given, unless `starts` says how many."""
    swept = any(re.match(r"seed=(.*,|range\(|choice\(|interval\()", a) for a in arguments)
    if not swept or not {"-m", "--multirun"} & set(arguments) or any(a.startswith("starts=") for a in arguments):
        return arguments
    return [*arguments, "starts=1"]


def with_quiet_rank(arguments: list[str]) -> list[str]:
    """Options of a process that is not the first of its ranks: it writes no folder and no log of its own."""
    if on_first_rank():
        return arguments
    folder = [] if any(a.startswith("hydra.run.dir=") for a in arguments) else ["hydra.run.dir=."]
    others = [a for a in arguments if not re.match(r"[~+]*hydra[./](job|hydra)_logging\b", a)]
    silence = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"]
    return [*others, *folder, *silence]


def resumed_checkpoint(resume: str) -> Path:
    """The checkpoint that `resume`, a run folder or a checkpoint in it, stands for.

    Raises:
        InputError: there is none.
    """
    path = Path(resume)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        if path.is_dir() and (path / "checkpoints" / "packs.json").is_file():  # it stopped before there was one
            return checkpoint.resolve()
        raise InputError(
            f"resume={resume}: there is no {checkpoint}; give a run folder (outputs/DATE/TIME) with a checkpoint in it."
        )
    return checkpoint.resolve()


def explain(error: BaseException) -> str:
    """A wrong option in one sentence: the key, what is wrong with it, and the nearest right one."""
    failed = getattr(error, "failures", ())  # of a sweep, whose class Hydra imports a second time
    reasons = {explain(job._return_value) for _, job in failed}
    if len(failed) > 1 and len(reasons) == 1:
        return f"{str(error).partition(':')[0]}: {reasons.pop()}"
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, InputError):
            return str(cause)
    if isinstance(error, MissingConfigException) and (found := re.search(r"find '([^']+)/([^'/]+)'", str(error))):
        group, name = found.groups()
        return f"{group}={name}: there is no such choice{nearest(name, _choices(group) or list(error.options or ()))}."
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"override '([^']+)'", str(error))):
        key = found[1]
        owners = [f"{group}={name}" for group, name, keys in _keys() if key in keys and group]
        if owners:
            return f"{key}: the chosen {key.split('.')[0]} has no such key; it belongs to {', '.join(owners)}."
        known = {k for _, _, keys in _keys() for k in keys} | {group for group, _, _ in _keys() if group}
        return f"{key}: there is no such key{nearest(key, sorted(known))}."
    return " ".join(str(chain[-1]).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def _keys() -> Iterator[tuple[str, str, set[str]]]:
    """(group, choice, keys) of every file of conf, the keys as a user writes them; train.yaml has the group ''."""
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


def resuming(folder: Path) -> str:
    """The option that resumes the run in `folder`."""
    plain = re.fullmatch(r"[-\w/.+%@]+", str(folder))  # other characters may have a meaning of their own for Hydra
    return f"resume={folder if plain else _quoted(folder)}"


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"'):
        return str(OverridesParser.create().parse_override(f"resume={value}").value())
    return value


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def one_sentence() -> Iterator[None]:
    """End with one sentence where the user's options are at fault."""
    if wants_traceback():
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands errors on instead of printing them its own way
    try:
        yield
    except USER_ERRORS as error:
        sys.exit(f"hillstart: {explain(error)}")
    except OSError as error:  # of a file that Hydra writes, say
        if not of_the_disk(error):
            raise
        what = relative(Path(error.filename)) if error.filename else "a file of the run"
        sys.exit(f"hillstart: {what} cannot be written: {reason(error)}.")
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def wants_traceback() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1"
