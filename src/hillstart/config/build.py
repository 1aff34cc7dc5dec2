"""Build the objects that the options of a run describe: pictures and starts, a trainer, a logger."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hillstart.config.code import called, located, targets
from hillstart.config.options import RunOptions, TrainerOptions, read_options
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import HYPERPARAMETERS
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.runs.loggers import PARENT, forgiving
from hillstart.runs.reader import Plain
from hillstart.system.errors import InputError
from hillstart.system.untrusted import briefly
from hillstart.training.callbacks import Checkpoints, TrainingBar, WholeCheckpoints
from hillstart.training.distributed import Ranks
from hillstart.training.module import Begin
from hillstart.training.packs import RunSpec

log = logging.getLogger(__name__)

PER_START = ("seed", *(f"descent.{name}" for name in HYPERPARAMETERS))
"""Options in which jobs of a multirun may differ and still be trained together."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Turn a composed config, without Hydra's own node, into plain data with its references resolved.

    References of a logger that cannot be resolved are kept: the folder of the run is not known before it begins.

    Raises:
        OmegaConfBaseException: a reference leads nowhere.
    """
    found: dict[str, Any] = {}
    for key in map(str, cfg):
        if key == "hydra":
            continue
        node = cfg[key]
        try:
            found[key] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        except OmegaConfBaseException:
            if key != "logger":
                raise
            found[key] = OmegaConf.to_container(node)
    return found


def composed_options(cfg: DictConfig) -> RunOptions:
    """Read the options of the command line, all of which are trusted.

    Raises:
        InputError: as `read_options`.
    """
    options = plain(cfg)
    return read_options(options, set(targets(options)))


def build_run_spec(options: RunOptions) -> RunSpec:
    """Build the starts and the pictures that they learn.

    Raises:
        InputError: a file that cannot be used, or networks of `start_from` that do not fit the options or pictures.
    """
    data = options.data()
    if not isinstance(data, PictureSet):
        raise InputError(f"data: its _target_ returned a {type(data).__name__}; it must return a PictureSet.")
    sizes = [data.train.x[0].numel(), *options.network.hidden, len(data.classes)]
    descent, pictures = options.descent, len(data.train.y)
    if descent.batch_size > pictures:
        log.info(f"descent.batch_size is {descent.batch_size}, but {pictures} pictures are to train: so many are used.")
        descent = replace(descent, batch_size=pictures)
    begin = starting_points(options, sizes)
    precision, test_all = options.trainer.matmul_precision, options.test == "all"
    spec = RunSpec(begin, sizes, data, descent, options.stop, options.all_starts, test_all, matmul_precision=precision)
    if options.model is None:
        return spec
    model = options.model
    _check_fits(options, model, data)
    data = replace(data, preprocessing=model.preprocessing)  # what the networks were trained to see
    digest = hashlib.sha256()
    for parameter in model.network.parameters:
        digest.update(parameter.contiguous().numpy().data)
    origin = {"model": options.start_from, "sha256": digest.hexdigest()}
    return replace(spec, data=data, start_from=origin)


def starting_points(options: RunOptions, sizes: Sequence[int]) -> Begin:
    """A function that makes starts from their seeds, as they are before training."""
    net = options.network
    if options.model is not None:
        return partial(_picked, model=options.model, activation=net.activation, cost=net.cost)
    return partial(Network.start, sizes, activation=net.activation, cost=net.cost, start=net.start)


def _picked(seeds: Sequence[int], *, model: Classifier, activation: str, cost: str) -> Network:
    """A copy of the networks with these seeds; the best one where several have the same seed."""
    network = model.network.pick([model.seeds.index(seed) for seed in seeds])
    return Network(network.w, network.b, activation, cost)


def _check_fits(options: RunOptions, model: Classifier, data: PictureSet) -> None:
    """Refuse networks that cannot begin with these options and pictures."""
    there, here = model.preprocessing, data.preprocessing
    for what, before, now, advice in (
        ("inputs", str(there), str(here), "give the same by the options of data"),
        ("classes", list(model.classes), list(data.classes), "give the same classes in the same order"),
        ("network.hidden", model.network.sizes[1:-1], options.network.hidden, "give the same"),
        ("network.activation", model.network.activation, options.network.activation, "give the same"),
    ):
        if before != now:
            raise InputError(
                f"start_from: {what} of {options.start_from}: {briefly(before)}, of this run: {briefly(now)}; {advice}."
            )


def trainer_maker(
    of: TrainerOptions,
    folder: Path,
    checkpoints: bool = True,
    ranks: Ranks = Ranks(),  # noqa: B008 - a constant
    logger: Logger | None = None,
    callbacks: Callable[[], Sequence[pl.Callback]] = tuple,
) -> Callable[..., pl.Trainer]:
    """Return a function that makes a Lightning trainer for each pack from the options `trainer`.

    The function takes the number of packs that are left, including this one. They share the rest of `max_time` evenly,
    so that all starts train about equally long. At least one epoch is trained, so that each start is evaluated.

    Args:
        callbacks: makes the user's own callbacks for each pack.

    Raises:
        InputError: a device that is not there.
    """
    began = cache(time.monotonic)  # the time of its first call, when the first trainer is made
    accelerator = check_devices(of)
    writes: list[pl.Callback] = [Checkpoints(folder / "checkpoints")] if checkpoints and ranks.size == 1 else []
    bar = of.enable_progress_bar and ranks.is_first

    def make(packs_left: int = 1) -> pl.Trainer:
        all_callbacks = [*writes, *callbacks()]
        if bar:
            all_callbacks.append(TrainingBar())
        if of.seconds is not None:
            left = max(0.0, of.seconds + began() - time.monotonic())
            all_callbacks.append(Timer(timedelta(seconds=left / packs_left), verbose=False))
        return pl.Trainer(
            accelerator=accelerator,
            devices=[ranks.local] if accelerator == "cuda" else 1,
            max_epochs=of.max_epochs,
            max_steps=of.max_steps,
            min_epochs=1,
            use_distributed_sampler=False,
            logger=logger or False,
            plugins=[WholeCheckpoints(), LightningEnvironment()],  # each process fits by itself, whoever started it
            callbacks=all_callbacks,
            enable_progress_bar=bar,
            enable_checkpointing=bool(writes),
            default_root_dir=folder,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=0,
        )

    return make


def check_devices(of: TrainerOptions) -> str:
    """Return `cuda` or `cpu`, as `trainer.accelerator` asks and this machine has.

    Raises:
        InputError: there is no such device here, or not as many as `trainer.devices` asks for.
    """
    has_cuda = torch.cuda.is_available()
    if of.accelerator in ("cuda", "gpu") and not has_cuda:
        raise InputError(f"trainer.accelerator is {of.accelerator}, but there is no CUDA device here; use cpu.")
    cuda = has_cuda and of.accelerator != "cpu"
    there, what = (torch.cuda.device_count(), "CUDA device") if cuda else (os.cpu_count() or 1, "core")
    if of.devices > there:
        there_are = f"is one {what}" if there == 1 else f"are {there} {what}s"
        raise InputError(f"trainer.devices is {of.devices}, but there {there_are} here.")
    return "cuda" if cuda else "cpu"


def build_callbacks(options: Plain) -> list[pl.Callback]:
    """The callbacks of Lightning that `callbacks` names, made anew.

    Raises:
        InputError: one is not a callback, cannot be imported or does not take one of its options.
    """
    found: list[pl.Callback] = []
    for name, of_one in options.items():
        group, target = f"callbacks.{name}", str(of_one["_target_"])
        located(group, target)
        made = called(group, hydra.utils.instantiate, {"config": dict(of_one), "_convert_": "all"})
        if not isinstance(made, pl.Callback):
            raise InputError(f"{group}._target_ is {target!r}; it must be a callback of Lightning.")
        found.append(made)
    return found


def build_logger(options: Plain, folder: Path, multirun: Path | None = None) -> Logger | None:
    """The Lightning logger that `logger` names; None for none.

    Options that are null and tell where or under which name it writes are filled in: the folder of the run, and in a
    multirun the group of its jobs.

    Args:
        multirun: its root, if the run is a job of one.

    Raises:
        InputError: its package is not installed, or it does not take one of the options.
    """
    if options.get("_target_") is None:
        return None
    located("logger", str(options["_target_"]))
    name = "/".join(folder.absolute().parts[-2:])
    group = "/".join(multirun.absolute().parts[-2:]) if multirun else None
    known = {"save_dir": str(folder), "run_name": name, "name": name, "group": group}
    options = {key: known[key] if value is None and key in known else value for key, value in options.items()}
    if multirun and (multirun / PARENT).is_file():
        options["tags"] = {**(options.get("tags") or {}), "mlflow.parentRunId": (multirun / PARENT).read_text().strip()}
    try:
        return forgiving(hydra.utils.instantiate(options, _convert_="all"))
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ModuleNotFoundError):
                name = HydraConfig.get().runtime.choices["logger"]
                raise InputError(
                    f"logger={name} needs a package that is not installed; pip install 'hillstart[{name}]' brings it."
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise InputError(f"logger: {briefly(error)}.") from error
