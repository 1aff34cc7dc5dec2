"""What a user typed: the options of a resumed run, and a wrong option explained in one sentence."""

import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hillstart.configuration import conf_folder
from hillstart.errors import InputError
from hillstart.files import own_folder
from hillstart.ranks import on_first_rank
from hillstart.untrusted import briefly, yaml_text

USER_ERRORS = (HydraException, OmegaConfBaseException, InputError)
"""What a wrong option raises; anything else is a fault of the program."""


def check_words(arguments: list[str]) -> None:
    """Refuse what Hydra would answer with a traceback.

    Raises:
        InputError: an option has no key, or a group is given no name of a file.
    """
    groups = {path.name for path in conf_folder().iterdir() if path.is_dir()}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not key.strip("+~"):
            raise InputError(f"{argument}: has no key; give KEY=VALUE.")
        if equals and key.lstrip("+") in groups and not re.match(r"['\"]?\w", value.replace("null", "")):
            raise InputError(f"{argument}: is no choice; there are {', '.join(_choices(key.lstrip('+')))}.")


def with_resumed_options(arguments: list[str]) -> list[str]:
    """Command-line options, preceded by those of the run that `resume=` names, which goes on in its own folder.

    Raises:
        InputError: `resume` names no run folder and no checkpoint in one, or its options cannot be read.
    """
    named = [a.partition("=")[2] for a in arguments if a.startswith("resume=")]
    if not named or named[-1] in ("", "null"):
        return arguments
    checkpoint = resumed_checkpoint(_unquoted(named[-1]))
    run = checkpoint.parent.parent
    stored = run / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise InputError(f"resume={named[-1]}: {stored} is missing, so this is not the folder of a run.")
    before = [option for option in _overrides(stored) if not re.match(r"(resume|hydra\.run\.dir)=", option)]
    return [*before, *arguments, f"hydra.run.dir={_quoted(run)}"]


def _overrides(path: Path) -> list[str]:
    try:
        found = OmegaConf.to_object(OmegaConf.create(yaml_text(path)))
    except InputError:
        raise
    except Exception as error:  # those of YAML and OmegaConf have no ancestor in common
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error
    if not isinstance(found, list):
        raise InputError(f"{path}: holds no list of options; give the folder of a run.")
    return list(map(str, found))


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
    silence = ["hydra.job_logging.root.handlers=[]", "~hydra.job_logging.handlers.file"]
    return [*arguments, *folder, *silence, "hydra.hydra_logging.root.handlers=[]", "hydra.output_subdir=null"]


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
        return f"{group}={name}: there is no such choice{_nearest(name, _choices(group) or list(error.options or ()))}."
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"override '([^']+)'", str(error))):
        key = found[1]
        owners = [f"{group}={name}" for group, name, keys in _keys() if key in keys and group]
        if owners:
            return f"{key}: the chosen {key.split('.')[0]} has no such key; it belongs to {', '.join(owners)}."
        known = {k for _, _, keys in _keys() for k in keys} | {group for group, _, _ in _keys() if group}
        return f"{key}: there is no such key{_nearest(key, sorted(known))}."
    return " ".join(str(chain[-1]).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _nearest(wrong: str, right: list[str]) -> str:
    near = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"; the nearest is {near[0]}" if near else f"; there are {', '.join(right)}"


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def _keys() -> Iterator[tuple[str, str, set[str]]]:
    """(group, choice, keys) of every file of conf, the keys as a user writes them; train.yaml has the group ''."""
    folder = conf_folder()
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix().strip(".")
        if group != "experiment":
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
