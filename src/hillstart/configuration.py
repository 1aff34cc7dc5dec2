"""Where conf lies, and what is written in it turned into objects: the border between Hydra and the code."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from hillstart.checkpoints import Checkpoints, WholeCheckpoints
from hillstart.data.pictures import PictureSet
from hillstart.descent import Descent
from hillstart.errors import InputError
from hillstart.logs import forgiving_logger
from hillstart.network import ACTIVATIONS, COSTS, STARTS, Network
from hillstart.population import Population
from hillstart.progress import TrainingBar
from hillstart.ranks import AcrossRanks
from hillstart.starts import Start
from hillstart.stopping import Stopping

ADVICE = "the packs that are done are kept, and the same command with resume=RUN, the run's folder, goes on from there."
"""What to do when a rank is lost."""

PER_START = ("seed", "descent.eta", "descent.momentum", "descent.lmbda")
"""What the jobs of a multirun may differ in and still be trained together."""

MOST_STARTS, MOST_NODES = 10**6, 10**6
"""In one run, with all points of a grid; in one layer."""
LAST_SEED = 2**62


def conf_folder() -> Path:
    """The one copy of conf: inside the package where a wheel installed it, else at the top of the checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf" / "train.yaml").is_file() else package.parents[1] / "conf"


def check_options(cfg: DictConfig) -> None:
    """Refuse what can be refused before any picture is read.

    Raises:
        InputError: starts, seed, keep, pack, report or a key of network is out of its range.
    """
    net = cfg.network
    if not _is_whole(cfg.starts, 1, MOST_STARTS):
        raise InputError(f"starts is {cfg.starts!r}; it must be a whole number from 1 to {MOST_STARTS}.")
    if not _is_whole(cfg.seed, 0, LAST_SEED):
        raise InputError(f"seed is {cfg.seed!r}; it must be a whole number from 0 to {LAST_SEED}.")
    for key in ("keep", "pack"):
        if cfg[key] is not None and not _is_whole(cfg[key], 1):
            raise InputError(f"{key} is {cfg[key]!r}; it must be a whole number, 1 or more, or null.")
    if not isinstance(cfg.get("report", True), bool):  # which runs of earlier versions do not name
        raise InputError(f"report is {cfg.report!r}; it must be true or false.")
    if not OmegaConf.is_list(net.hidden) or not all(_is_whole(n, 1, MOST_NODES) for n in net.hidden):
        raise InputError(
            f"network.hidden is {net.hidden}; it must be a list of whole numbers from 1 to {MOST_NODES}, such as [30] "
            "or [256,128]."
        )
    for key, choices in (("activation", ACTIVATIONS), ("cost", COSTS), ("start", STARTS)):
        if net[key] not in choices:
            raise InputError(f"network.{key} is {net[key]!r}; it must be one of {', '.join(choices)}.")


def check_targets(cfg: DictConfig, path: Path) -> None:
    """Refuse options from a file that would run other code than conf does: a run's folder may come from a stranger.

    Args:
        path: the file.

    Raises:
        InputError: a `_target_` of what a population is built from that is neither in conf nor of torch.optim.
    """
    known = {target for file in conf_folder().rglob("*.yaml") for target in _targets(OmegaConf.load(file))}
    for target in _targets(OmegaConf.masked_copy(cfg, ["data", "descent", "stop"])):
        if target not in known and not re.fullmatch(r"torch\.optim\.[A-Z]\w*", target):
            raise InputError(f"{path}: would run {target!r}, which conf does not know, so it is not read.")


def _targets(node: Any) -> Iterator[str]:
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node)
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def build_population(cfg: DictConfig) -> Population:
    """The starts that `cfg` asks for, with the pictures they are to learn.

    Raises:
        InputError: a key or file that cannot be used.
    """
    starts = starts_of(cfg)
    stopping: Stopping = hydra.utils.instantiate(cfg.stop)
    data: PictureSet = hydra.utils.instantiate(cfg.data)
    sizes = [data.train.x[0].numel(), *cfg.network.hidden, len(data.classes)]
    of = {key: cfg.network[key] for key in ("activation", "cost", "start")}
    return Population(partial(Network.start, sizes, **of), sizes, data, build_descent(cfg), stopping, starts)


def build_descent(cfg: DictConfig) -> Descent:
    """How starts roll.

    Raises:
        InputError: a value out of its range.
    """
    descent: Descent = hydra.utils.instantiate(cfg.descent, _convert_="all")
    return descent


def starts_of(cfg: DictConfig) -> list[Start]:
    """All seeds for each point of the descent's grid.

    Raises:
        InputError: a value out of its range.
    """
    check_options(cfg)
    grid = Descent.grid_of(*(_plain(cfg.descent.get(key, 0.0)) for key in ("eta", "momentum", "lmbda")))
    if len(grid) * cfg.starts > MOST_STARTS:
        raise InputError(
            f"starts is {cfg.starts}, for each of {len(grid)} ways to roll; all together may be {MOST_STARTS}."
        )
    starts = [Start(seed, point) for point in grid for seed in range(cfg.seed, cfg.seed + cfg.starts)]
    if cfg.keep is not None and cfg.keep > len(starts):
        raise InputError(f"keep is {cfg.keep}; it must be at most {len(starts)}, the number of starts.")
    return starts


def trainer_maker(cfg: DictConfig, folder: Path) -> Callable[[], pl.Trainer]:
    """Makes a Lightning trainer for each pack, as `trainer` and `logger` ask for, writing into `folder`.

    Raises:
        InputError: a value that cannot be used, a device that is not there; of what it returns, a value that Lightning
            refuses or a logger whose package is not installed.
    """
    options: Any = OmegaConf.to_object(cfg.trainer)
    options["accelerator"] = _accelerator(options["accelerator"])
    precision = options.pop("matmul_precision")
    if precision not in ("highest", "high", "medium"):
        raise InputError(f"trainer.matmul_precision is {precision!r}; it must be highest, high or medium.")
    torch.set_float32_matmul_precision(precision)
    for key in ("devices", "num_nodes"):
        if not _is_whole(options[key], 1):
            raise InputError(f"trainer.{key} is {options[key]!r}; it must be a whole number, 1 or more.")
    cuda = options["accelerator"] == "cuda"
    there, what = (torch.cuda.device_count(), "CUDA device") if cuda else (os.cpu_count() or 1, "core")
    if options["devices"] > there:
        there_are = f"is one {what}" if there == 1 else f"are {there} {what}s"
        raise InputError(f"trainer.devices is {options['devices']}, but there {there_are} here.")
    shared = options["devices"] * options["num_nodes"] > 1 or _was_started_as_one_of_many()
    for key in ("max_epochs", "max_steps"):
        if not (_is_whole(options[key], 1) or (key == "max_steps" and options[key] == -1)):
            raise InputError(f"trainer.{key} is {options[key]!r}; it must be a whole number, 1 or more.")
    checkpoints = Checkpoints(folder / "checkpoints")

    def make() -> pl.Trainer:
        logger = build_logger(cfg)
        try:
            return pl.Trainer(
                **options,
                strategy=AcrossRanks(ADVICE) if shared else "auto",
                use_distributed_sampler=False,
                logger=logger,
                plugins=[WholeCheckpoints()],
                callbacks=[checkpoints, TrainingBar()],
                default_root_dir=folder,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                enable_model_summary=False,
                reload_dataloaders_every_n_epochs=0,
            )
        except (MisconfigurationException, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error

    return make


def _was_started_as_one_of_many() -> bool:
    """By torchrun or srun, with which trainer.devices and trainer.num_nodes must agree."""
    tasks = os.environ.get("SLURM_NTASKS", "1") if SLURMEnvironment.detect() else os.environ.get("WORLD_SIZE", "1")
    return tasks != "1"


def _accelerator(asked: str) -> str:
    if asked not in ("auto", "cpu", "cuda", "gpu"):
        raise InputError(f"trainer.accelerator is {asked!r}; it must be auto, cpu or cuda.")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked != "cpu" and not torch.cuda.is_available():
        raise InputError(f"trainer.accelerator is {asked}, but there is no CUDA device here; use auto or cpu.")
    return "cpu" if asked == "cpu" else "cuda"


def build_logger(cfg: DictConfig) -> Any:
    """The Lightning logger that `logger` names, or False for none.

    Raises:
        InputError: its package is not installed.
    """
    if cfg.logger.get("_target_") is None:
        return False
    try:
        return forgiving_logger(hydra.utils.instantiate(cfg.logger))
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ModuleNotFoundError):
                name = HydraConfig.get().runtime.choices["logger"]
                raise InputError(
                    f"logger={name} needs a package that is not installed; pip install 'hillstart[{name}]' brings it."
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise


def _plain(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _is_whole(value: object, least: int, most: int = 2**63 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
