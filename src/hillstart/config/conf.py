"""The folder conf: its groups, their files, and the keys and the code that these name."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf


def conf_folder() -> Path:
    """The folder conf: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf" / "train.yaml").is_file() else package.parents[1] / "conf"


def groups() -> set[str]:
    """The groups of conf that a user chooses from."""
    return {path.name for path in conf_folder().iterdir() if path.is_dir()} - {"hydra"}


def choices(group: str) -> list[str]:
    """The files of a group of conf, without their suffix."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


@cache
def targets_of_conf(group: str) -> frozenset[str]:
    """The targets that the files of a group of conf name."""
    found = (yaml.safe_load(path.read_text()) for path in (conf_folder() / group).glob("*.yaml"))
    return frozenset(str(options["_target_"]) for options in found if options.get("_target_"))


def conf_keys() -> Iterator[tuple[str, str, set[str]]]:
    """(group, choice, keys) of every file of conf, with the keys as a user types them; train.yaml has the group ''."""
    folder = conf_folder()
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix().strip(".")
        if group != "experiment" and not group.startswith("hydra/"):
            yield group, path.stem, set(_flatten(OmegaConf.load(path), f"{group}." if group else ""))


def _flatten(node: object, prefix: str) -> Iterable[str]:
    if isinstance(node, DictConfig):
        for key in map(str, node):
            if key not in ("defaults", "hydra") and not key.startswith("_"):
                yield f"{prefix}{key}"
                if not OmegaConf.is_interpolation(node, key):
                    yield from _flatten(node[key], f"{prefix}{key}.")


def known_keys() -> list[str]:
    """All keys and groups of conf."""
    return sorted({key for _, _, keys in conf_keys() for key in keys} | groups())
