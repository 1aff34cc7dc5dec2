"""The conditions for packing a group of jobs: each must get the very config that Hydra would compose for it."""

from collections.abc import Sequence

from hydra import version
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hillstart_packs._clones import Clones
from hydra_plugins.hillstart_packs._dependence import obstacle
from hydra_plugins.hillstart_packs._groups import Group, Job, overlap


class NotPackedError(Exception):
    """Raised with the reason why the jobs of a group run one after another."""


def check_keys(group: Group, loader: ConfigLoader) -> None:
    """Refuse a group whose own keys are more than values set after all else.

    Raises:
        NotPackedError: the reason.
    """
    if not group.legible:
        raise NotPackedError("their overrides cannot be parsed")
    for key in group.keys:
        if _is_config_group(key, loader):
            raise NotPackedError(f"{key} chooses a config file")
        for other in group.jobs[0].others:
            if overlap(key, other.key_or_group) and not _is_config_group(other.key_or_group, loader):
                raise NotPackedError(f"{other.input_line} is set beside {key}")


def check_config(cfg: DictConfig, keys: Sequence[str], per_start: Sequence[str], per_pack: Sequence[str]) -> None:
    """Refuse a group, its jobs differing in `keys`, in whose config something else depends on these or on the job.

    Raises:
        NotPackedError: the reason.
    """
    chdir = cfg.hydra.job.chdir
    if chdir or (chdir is None and not version.base_at_least("1.2")):
        raise NotPackedError("hydra.job.chdir gives each a working directory of its own")
    if reason := obstacle(cfg, keys, per_start, per_pack):
        raise NotPackedError(reason)


def check_composition(clones: Clones, last: Job, loader: ConfigLoader, master: DictConfig) -> None:
    """Refuse a group whose last job is composed otherwise by Hydra; the first is what the others are made from.

    Raises:
        NotPackedError: the reason.
    """
    try:
        composed = loader.load_sweep_config(master, last.lines)
    except Exception as error:
        raise NotPackedError("Hydra refuses to compose the last of them") from error
    if OmegaConf.to_container(clones.whole(last)) != OmegaConf.to_container(composed):
        raise NotPackedError("Hydra composes more than their own values differently")


def _is_config_group(key: str, loader: ConfigLoader) -> bool:
    return bool(loader.get_group_options(key, ObjectType.CONFIG))
