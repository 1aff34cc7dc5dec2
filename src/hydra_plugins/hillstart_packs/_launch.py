"""A group of jobs from its overrides to its results, as one pack."""

import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig

from hydra_plugins.hillstart_packs._clones import Clones, composed_base
from hydra_plugins.hillstart_packs._conditions import check_composition, check_config, check_keys
from hydra_plugins.hillstart_packs._groups import Group
from hydra_plugins.hillstart_packs._pack import Pack
from hydra_plugins.hillstart_packs.launcher import failed

log = logging.getLogger(__name__)


def launched_as_pack(
    group: Group, context: HydraContext, master: DictConfig, task: Any, sweep_dir: Path
) -> dict[int, JobReturn]:
    """The result of each job by its number; a job whose own values do not fit the config fails alone.

    Raises:
        NotPackedError: the jobs must run one after another; none has begun.
    """
    loader = context.config_loader
    check_keys(group, loader)
    try:
        clones = Clones(composed_base(group, loader, master), master)
    except Exception as error:
        return {job.number: failed(job.lines, error) for job in group.jobs}
    sound, configs, results = [], [], {}
    for job in group.jobs:
        try:
            configs.append(clones.task(job))
            sound.append(job)
        except Exception as error:
            results[job.number] = failed(job.lines, error)
    if not sound:
        return results
    check_config(clones.whole(sound[0]), group.keys, tuple(task.per_start), tuple(getattr(task, "per_pack", ())))
    if len(sound) > 1:
        check_composition(clones, sound[-1], loader, master)
        log.info(f"Launching {group}, as one pack: each with its own {', '.join(group.keys) or 'folder'}")
    else:
        log.info(f"Launching {group}")
    returned = Pack(sound, configs, clones, task, context.callbacks).run(sweep_dir)
    return results | {job.number: result for job, result in zip(sound, returned, strict=True)}
