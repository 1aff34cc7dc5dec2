"""The commands: Hydra's command line for training, with a wrong option answered in one sentence."""

import logging
import os
import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hillstart import experiment
from hillstart.configuration import build_trainer, build_training, conf_folder, how_many_to_keep
from hillstart.options import USER_ERRORS, explain, resumed_checkpoint, with_resumed_options

EXPECTED_WARNINGS = (
    ".*LeafSpec.* is deprecated",  # lightning 2.6.6 with torch 2.14
    "Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder ...
    "The dirpath has changed",  # ... which may have been moved
)


def _train(cfg: DictConfig) -> float:
    """One Hydra job; the lowest validation cost, for a sweeper to minimise."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
    folder = Path(HydraConfig.get().runtime.output_dir)
    checkpoint = None if cfg.resume is None else resumed_checkpoint(cfg.resume)
    keep, trainer = how_many_to_keep(cfg), build_trainer(cfg, folder)
    summary = experiment.run(build_training(cfg), trainer, folder, keep, checkpoint)
    return float(summary["val_cost"])


def train() -> None:
    """`hillstart-train` and `scripts/train.py`."""
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands errors on instead of printing them its own way
    try:
        sys.argv[1:] = with_resumed_options(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(_train)()
    except USER_ERRORS as error:
        if full:
            raise
        sys.exit(f"hillstart: {explain(error)}")
