"""Finds the values of a config that differ between the jobs of a pack, by following its interpolations."""

import re
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hillstart_packs._groups import overlap

JOB_KEYS = (
    "hydra.job.id",
    "hydra.job.num",
    "hydra.job.override_dirname",
    "hydra.overrides",
    "hydra.runtime.output_dir",
)
"""Keys that Hydra itself sets for each job."""


def obstacle(cfg: DictConfig, keys: Sequence[str], per_start: Sequence[str], per_pack: Sequence[str]) -> str | None:
    """The reason why jobs of this config that differ in `keys` cannot be one pack; None if they can."""
    read = dict(_interpolations(OmegaConf.to_container(cfg), ""))
    by_job, by_start = _closure(read, JOB_KEYS), _closure(read, keys)
    for path in read:
        if path.split(".")[0] in per_pack or (path.startswith("hydra.") and not path.startswith("hydra.job.env_set")):
            continue
        if path in by_job:
            return f"{path} depends on the job"
        if path in by_start and path not in per_start:
            return f"{path} depends on {by_start[path]}"
    return None


def _closure(read: dict[str, set[str]], sources: Sequence[str]) -> dict[str, str]:
    """The interpolated keys that depend on one of `sources`, directly or through others, and on which."""
    found: dict[str, str] = {source: source for source in sources}
    grown = True
    while grown:
        grown = False
        for path, names in read.items():
            if path not in found:
                source = next((s for key, s in found.items() if any(overlap(key, name) for name in names)), None)
                if source is not None:
                    found[path] = source
                    grown = True
    return found


def _interpolations(node: object, path: str) -> Iterator[tuple[str, set[str]]]:
    """(key, keys that its value may read) of every interpolated value."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _interpolations(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, str) and "${" in node:
        yield path, set(_names(node, path))


def _names(text: str, path: str) -> Iterator[str]:
    """Keys that an interpolation may read; too many rather than too few: any argument of a resolver may be one."""
    text = re.sub(r"\$\{\s*hydra\s*:\s*", "${hydra.", text)
    for word in re.split(r"[\s,:'\"{}()$]+", _within_braces(text)):
        name = re.sub(r"\[([^\]]*)\]?", r".\1", word)
        dots = len(name) - len(name.lstrip("."))
        if dots and not word.startswith("["):  # one dot: beside the value; each further dot: one level up
            parents = path.split(".")[:-dots]
            name = ".".join([*parents, name.lstrip(".")])
        if name.strip("."):
            yield name.strip(".")
        elif dots:
            yield path.split(".")[0]


def _within_braces(text: str) -> str:
    """`text` with what stands outside of its interpolations blanked out."""
    kept, depth = [], 0
    for i, character in enumerate(text):
        depth += character == "{" and (depth > 0 or text[:i].endswith("$"))
        kept.append(character if depth else " ")
        depth -= character == "}" and depth > 0
    return "".join(kept)
