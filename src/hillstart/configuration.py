"""Where conf lies, and what is written in it turned into objects: the border between Hydra and the code."""

from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hillstart.data.pictures import PictureSet
from hillstart.descent import Descent
from hillstart.errors import InputError
from hillstart.network import ACTIVATIONS, COSTS, STARTS, Network
from hillstart.progress import TrainingBar
from hillstart.training import Training


def conf_folder() -> Path:
    """The one copy of conf: inside the package where a wheel installed it, else at the top of the checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf" / "train.yaml").is_file() else package.parents[1] / "conf"


def check_options(cfg: DictConfig) -> None:
    """Refuse what can be refused before any picture is read.

    Raises:
        InputError: starts, seed, keep or a key of network is out of its range.
    """
    net = cfg.network
    if not _is_whole(cfg.starts, 1):
        raise InputError(f"starts is {cfg.starts!r}; it must be a whole number, 1 or more.")
    if not _is_whole(cfg.seed, 0):
        raise InputError(f"seed is {cfg.seed!r}; it must be a whole number, 0 or more.")
    if cfg.keep is not None and not _is_whole(cfg.keep, 1):
        raise InputError(f"keep is {cfg.keep!r}; it must be a whole number, 1 or more.")
    if not OmegaConf.is_list(net.hidden) or not all(_is_whole(n, 1) for n in net.hidden):
        raise InputError(
            f"network.hidden is {net.hidden}; it must be a list of positive whole numbers, such as [30] or [256,128]."
        )
    for key, choices in (("activation", ACTIVATIONS), ("cost", COSTS), ("start", STARTS)):
        if net[key] not in choices:
            raise InputError(f"network.{key} is {net[key]!r}; it must be one of {', '.join(choices)}.")


def build_training(cfg: DictConfig) -> Training:
    """The starts that `cfg` asks for, at their starting points, with the pictures they are to learn.

    Raises:
        InputError: a key or file that cannot be used.
    """
    descent: Descent = hydra.utils.instantiate(cfg.descent, _convert_="all")
    grid = len(descent.grid())
    if cfg.keep is not None and cfg.keep > cfg.starts * grid:
        raise InputError(f"keep is {cfg.keep}; it must be at most {cfg.starts * grid}, the number of starts.")
    data: PictureSet = hydra.utils.instantiate(cfg.data)
    seeds = list(range(cfg.seed, cfg.seed + cfg.starts))
    sizes = [data.train.x[0].numel(), *cfg.network.hidden, len(data.classes)]
    network = Network.start(sizes, seeds * grid, cfg.network.activation, cfg.network.cost, cfg.network.start)
    return Training(network, data, descent, seeds)


def build_trainer(cfg: DictConfig, folder: Path) -> pl.Trainer:
    """The Lightning trainer that `trainer` and `logger` ask for, writing into `folder`.

    Raises:
        InputError: a value that Lightning refuses, a device that is not there, a logger whose package is not installed.
    """
    options: Any = OmegaConf.to_object(cfg.trainer)
    accelerator, precision = options["accelerator"], options.pop("matmul_precision")
    if accelerator not in ("auto", "cpu", "cuda", "gpu"):
        raise InputError(f"trainer.accelerator is {accelerator!r}; it must be auto, cpu or cuda.")
    if accelerator == "auto":
        options["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
    elif accelerator != "cpu" and not torch.cuda.is_available():
        raise InputError(f"trainer.accelerator is {accelerator}, but there is no CUDA device here; use auto or cpu.")
    if precision not in ("highest", "high", "medium"):
        raise InputError(f"trainer.matmul_precision is {precision!r}; it must be highest, high or medium.")
    if options["devices"] != 1:
        raise InputError(
            f"trainer.devices is {options['devices']!r}; one device trains all the starts, so it must be 1."
        )
    for key in ("max_epochs", "max_steps"):
        if not (_is_whole(options[key], 1) or (key == "max_steps" and options[key] == -1)):
            raise InputError(f"trainer.{key} is {options[key]!r}; it must be a whole number, 1 or more.")
    torch.set_float32_matmul_precision(precision)
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        filename="best",
        monitor="val_cost",
        mode="min",
        save_last=True,
        save_on_exception=True,
        enable_version_counter=False,
    )
    logger = build_logger(cfg)
    try:
        return pl.Trainer(
            **options,
            logger=logger,
            callbacks=[checkpoints, TrainingBar()],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=0,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error


def build_logger(cfg: DictConfig) -> Any:
    """The Lightning logger that `logger` names, or False for none.

    Raises:
        InputError: its package is not installed.
    """
    if cfg.logger.get("_target_") is None:
        return False
    try:
        return hydra.utils.instantiate(cfg.logger)
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


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
