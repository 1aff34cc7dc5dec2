"""The commands: Hydra's command line for training, with a wrong option answered in one sentence."""

import logging
import os
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from hillstart import experiment
from hillstart.configuration import build_trainer, build_training, check_options, conf_folder
from hillstart.data.minibatches import Sample
from hillstart.gradient_check import DIFFERENCE_TOLERANCE, TOLERANCE, check
from hillstart.network import Network
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
    check_options(cfg)
    trainer = build_trainer(cfg, folder)
    summary = experiment.run(build_training(cfg), trainer, folder, cfg.keep, checkpoint)
    return float(summary["val_cost"])


def train() -> None:
    """`hillstart-train` and `scripts/train.py`: train the starts that the options ask for."""
    mistakes: list[str] = []
    traceback = _wants_traceback()

    def job(cfg: DictConfig) -> float | None:
        # Handed on, a mistake would be printed by Hydra in its own way and end a whole sweep.
        try:
            return _train(cfg)
        except USER_ERRORS as error:
            if traceback:
                raise
            mistakes.append(explain(error))
            return None

    with _one_sentence():
        sys.argv[1:] = with_resumed_options(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(job)()
    if mistakes:
        sys.exit("\n".join(f"hillstart: {mistake}" for mistake in mistakes))


def check_gradients() -> None:
    """`scripts/check_gradients.py`: the gradient of the configured network by hand, by autograd and by differences."""
    parser = ArgumentParser(description="The gradient by hand against autograd and finite differences, layer by layer.")
    parser.add_argument("options", nargs="*", metavar="key=value", help="as for training: network.hidden=[5,4] ...")
    options = parser.parse_args().options
    with _one_sentence(), hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose("train", ["starts=2", *options])
        check_options(cfg)
        training = build_training(cfg)
    data, B = training.data, 10
    x, y = next(Sample(data.train, len(data.classes), data.preprocessing, torch.device("cpu"), limit=B).batches())
    net = training.network
    net = Network([w.double() for w in net.w], [b.double() for b in net.b], net.activation, net.cost)
    checks = check(net, x.double(), y.double(), training.descent.grid()[0].lmbda, len(data.train.y))
    table = Table(
        title=f"network {net.sizes}, {net.activation}, {net.cost}: {net.starts} starts, {B} pictures, float64"
    )
    for heading in ("layer", "", "largest gradient", "by hand - autograd", "by hand - differences"):
        table.add_column(heading, justify="right")
    for c in checks:
        errors = (c.largest_gradient, c.against_autograd, c.against_differences)
        table.add_row(str(c.layer), c.parameter, *(f"{error:.1e}" for error in errors))
    Console().print(table, "Errors are the largest of a layer, relative to its largest gradient.")
    if any(not (c.against_autograd < TOLERANCE and c.against_differences < DIFFERENCE_TOLERANCE) for c in checks):
        sys.exit(f"hillstart: the gradient is wrong; autograd must agree to {TOLERANCE:g}, "
                 f"differences to {DIFFERENCE_TOLERANCE:g}.")  # fmt: skip


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End with one sentence where the user's options are at fault."""
    if _wants_traceback():
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra hands errors on instead of printing them its own way
    try:
        yield
    except USER_ERRORS as error:
        sys.exit(f"hillstart: {explain(error)}")
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def _wants_traceback() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1"
